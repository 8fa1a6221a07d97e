"""The function to minimize, in whichever form it comes with its gradient."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.minimization import differences
from fastopt.minimization.box import Box, is_real
from fastopt.validation import whole_number

# Arguments that are passed to functions with a parameter of this name that has no default.
# The gradient: a function, True if `fun` returns it too, by differences, or whichever is found out.
Gradient: TypeAlias = Callable[..., object] | bool | Literal["2-point"] | None

OPTIONAL_ARGUMENTS = frozenset({"out", "step", "rng"})


def asked_for(function: Callable[..., object], filled: int) -> frozenset[str]:
    """The `OPTIONAL_ARGUMENTS` that a function requires, after its first `filled` parameters."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some compiled functions do not say
        return frozenset()
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    filled_in = by_position[:filled]
    free = {p.name for p in by_name if p.default is p.empty and p not in filled_in}
    return OPTIONAL_ARGUMENTS & free


class Call:
    """A function of the caller's with its further arguments; counts its calls."""

    def __init__(self, function: Callable[..., object], args: tuple[object, ...], seed: int) -> None:
        self.function = function
        self.count = 0
        self.asks = asked_for(function, 1 + len(args))
        self._args = args
        self._seed = seed
        self._copies = Copies()

    def __call__(self, x: Array, out: Array, step: int) -> object:
        keywords: dict[str, object] = {}
        if self.asks:
            if "out" in self.asks:
                keywords["out"] = out
            if "step" in self.asks:
                keywords["step"] = step
            if "rng" in self.asks:
                # A new one for each step, so that `fun` and `jac` draw the same.
                keywords["rng"] = np.random.default_rng((self._seed, step))
        self.count += 1
        return self.function(self._shown(x), *self._args, **keywords)

    def _shown(self, x: Array) -> Array:
        """A copy of the point, as from SciPy, or a read-only view for functions that write to `out`."""
        if "out" not in self.asks:
            return self._copies.of(x)
        view = x.view()
        view.flags.writeable = False
        return view


class Copies:
    """Makes copies that the receiver may keep; one that nobody kept is reused.

    A copy of a million float32 took 4.4 ms with new memory in every step, and 2.2 ms without: the
    difference was page faults.
    """

    def __init__(self) -> None:
        self._copy = np.empty(0)
        self._unshared = sys.getrefcount(self._copy)

    def of(self, x: Array) -> Array:
        """A copy of `x`."""
        is_shared = sys.getrefcount(self._copy) > self._unshared
        same = self._copy.shape == x.shape and self._copy.dtype == x.dtype
        if is_shared or not (same and self._copy.flags.writeable):
            self._copy = np.empty_like(x)
        self._copy[...] = x
        return self._copy


class Objective:
    """Evaluates the function at a point, and its gradient into a buffer.

    Attributes
    ----------
    noisy : bool
        Whether the function depends on the step or on random numbers: values cannot be compared.
    seed : int
        Of the random numbers of all steps.
    njev : int
        The number of gradients.
    approximates : bool
        Whether the gradient is approximated by differences.
    """

    def __init__(self, fun: object, jac: Gradient, args: object, box: Box, seed: object) -> None:
        if not callable(fun):
            raise TypeError(f"fun must be a function, not {fun!r}")
        self.seed = _entropy(seed)
        args = args if isinstance(args, tuple) else (args,)
        self._fun = Call(fun, args, self.seed)
        self._jac = Call(jac, args, self.seed) if callable(jac) else None
        self._box = box
        self._both = jac is True or (self._jac is None and "out" in self._fun.asks)
        self._undecided = not self._both and (jac is None or jac is False)
        self.approximates = isinstance(jac, str)
        self.njev = 0
        if not (self._both or self._undecided or self._jac or self.approximates):
            raise TypeError(f"jac must be a function, True, None or '2-point', not {jac!r}")
        if self.approximates and jac != "2-point":
            raise ValueError(f"jac must be a function, True, None or '2-point', got {jac!r}")
        asks = self._fun.asks | (self._jac.asks if self._jac else frozenset())
        self.noisy = bool(asks & {"step", "rng"})

    @property
    def nfev(self) -> int:
        """The number of calls of `fun`."""
        return self._fun.count

    def __call__(self, x: Array, grad: Array, step: int) -> float:
        """Return the value at `x`, and write the gradient to `grad`."""
        returned = self._fun(x, grad, step)
        if self._undecided:
            self._decide(returned, x.size)
        slope: object = None
        if self._both:
            returned, slope = self._pair(returned)
        value = _value(returned)
        if self._jac is not None:
            slope = self._jac(x, grad, step)
        if self.approximates:
            self._approximate(x, value, grad, step)
        elif slope is not None or not self._writes:
            _fill(grad, slope)
        self.njev += 1
        return value

    def _approximate(self, x: Array, value: float, grad: Array, step: int) -> None:
        def fun(near: Array) -> float:
            return _value(self._fun(near, grad, step))

        differences.fill(grad, fun, x, value, self._box)

    @property
    def _writes(self) -> bool:
        """Whether the function writes the gradient to its buffer."""
        return "out" in (self._jac or self._fun).asks

    def _pair(self, returned: object) -> tuple[object, object]:
        if isinstance(returned, (tuple, list)) and len(returned) == 2:
            return returned[0], returned[1]
        if self._writes:
            return returned, None
        raise TypeError(
            f"fun must return (value, gradient) where jac is True, not {_brief(returned)}; "
            "it may also take a parameter out and write the gradient there"
        )

    def _decide(self, returned: object, size: int) -> None:
        """With ``jac=None``: find out from the first call whether the function returns its gradient."""
        self._undecided = False
        self._both = isinstance(returned, tuple)
        self.approximates = not self._both
        if self.approximates and size > differences.LARGEST:
            raise ValueError(
                f"fun returned no gradient, and x0 has {size} elements: differences would take "
                f"{size + 1} calls for each step, and are made without being asked for up to "
                f"{differences.LARGEST} elements. Return (value, gradient) from fun, pass the gradient "
                "as jac, or the differences: jac=lambda x: scipy.optimize.approx_fprime(x, fun)"
            )


def _entropy(seed: object) -> int:
    if seed is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(2**63))
    try:
        return whole_number("seed", seed)
    except TypeError:
        raise TypeError(
            f"seed must be a whole number >= 0, a numpy.random.Generator or None, not {seed!r}"
        ) from None


def _value(returned: object) -> float:
    if type(returned) is float:
        return returned
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        raise TypeError(
            "fun must return a number, not a pair; with its gradient in a pair, leave out jac or "
            "pass jac=True"
        )
    array = np.asarray(returned)
    if not is_real(array.dtype):
        raise TypeError(f"fun must return a real number, not {_brief(returned)}")
    if array.size != 1:
        raise ValueError(f"fun must return one number, got an array of shape {array.shape}")
    return float(array.item())


def _fill(grad: Array, slope: object) -> None:
    if slope is grad:
        return
    array = np.asarray(slope)
    if not is_real(array.dtype):
        raise TypeError(f"the gradient must be real numbers, not {_brief(slope)}")
    if array.shape != grad.shape and not (array.ndim == 0 and grad.size == 1):
        raise ValueError(f"the gradient must have the shape of x, {grad.shape}, got {array.shape}")
    if array.dtype == grad.dtype:
        grad[...] = array
    else:
        with np.errstate(all="ignore"):  # the loop notices and reports an infinity
            grad[...] = array


def _brief(returned: object) -> str:
    """Describe a value in an error, without its elements."""
    if isinstance(returned, np.ndarray):
        return f"an array of {returned.dtype} of shape {returned.shape}"
    return f"{type(returned).__name__}"
