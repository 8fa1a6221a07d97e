"""Arguments of `scipy.optimize.minimize` that `fastopt.minimize` has by another name, or not at all."""

from __future__ import annotations

import math
from numbers import Real

from fastopt.arrays import tree
from fastopt.validation import whole_number

MAXITER = 5000

_INSTEAD = {
    "method": 'name the optimizer, optimizer="adam"; SciPy\'s methods are for scipy.optimize.minimize',
    "options": "give each option as an argument, such as maxiter=100",
    "constraints": "bounds are the only constraints here",
    "hess": "no second derivatives are used",
    "hessp": "no second derivatives are used",
    "disp": "progress=True shows a bar, and the result has a message",
    "maxfun": "use maxiter: a step takes one evaluation",
    "maxfev": "use maxiter: a step takes one evaluation",
    "stats": "the result does not have them; take steps with an optimizer, and read opt.stats",
}


def refuse(settings: dict[str, object]) -> None:
    """Drop SciPy's arguments that have no effect; raise a TypeError with a hint for the others."""
    for name in _INSTEAD.keys() & settings.keys():
        value = settings.pop(name)
        if value is not None and value is not False and (not tree.is_branch(value) or value):
            raise TypeError(f"minimize has no argument {name}: {_INSTEAD[name]}")


def limit(maxiter: object) -> float:
    """The maximum number of steps, from an integer, a float, an infinity, or None for the default."""
    if maxiter is None:
        return MAXITER
    if isinstance(maxiter, Real) and not isinstance(maxiter, bool):
        if maxiter == math.inf:
            return math.inf
        if isinstance(maxiter, float) and maxiter.is_integer():
            maxiter = int(maxiter)
    return whole_number("maxiter", maxiter)
