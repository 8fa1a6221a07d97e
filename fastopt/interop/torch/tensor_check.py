"""The tensors and step counts of many parameters, in machine code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fastopt.kernels.functions import function

# The columns of a table of where tensors are found: in a dict, by name; 0 is a tensor by itself.
OWNER, NAME = range(2)

# The columns of a table of parameters, whose gradients are found: whether a gradient is to be asked if
# it is lazily negated.
PARAM, ASKED = range(2)

# The words of what is asked of objects: the getter of gradients, and the function for negation; and of
# the dict of all states, or 0 where it is not asked for its items; and whether rows with the
# hyperparameters of another step are left to Python, which a step on a device finds out by itself.
GETTER, DESCRIPTOR, IS_NEGATED, STATES, LAGS = range(5)

# Results of a scan: a tensor was replaced; a gradient is to be checked in Python. Else the number of
# gradients that are not None, and DISAGREE more if torch has other step counts than the table.
REPLACED, UNUSUAL, DISAGREE = -2, -1, 1 << 40

_CODE = f"{__package__}.tensor_check_code"


@cache
def scan() -> Callable[..., int]:
    """A function that checks all tensors of a step, and notes the gradients in an optimizer's table.

    ``scan()(python, exchange, asked, items, states, found_in, others, params, grads, rows, ranges,
    noted, locations)``: first the keys and values of the dict of all states, which are to be the
    `items`, as `has_items` takes them. Then parameters and states, which are to be the `states` that a
    table of expected tensors has, where a table of dicts and names says. Then `others`, parameters
    without a gradient. The gradients of `params` are to be as `grads` says. Their addresses are written
    into `rows`; `noted` becomes the argument of the header check in their place, and is not 0 for one
    that is None.
    At last torch's step counts at `locations`, with their sizes in bytes.
    """
    return function(_CODE, "scan")


@cache
def note_steps() -> Callable[..., None]:
    """``note_steps()(counts, has_gradient, locations, ahead)``: write counts into torch's tensors.

    For each row that has a gradient and another count than torch: the count to the first address in
    `locations`, and its two numbers in `ahead` to the others. Each is followed by a size in bytes, 0 if
    there is no such tensor.
    """
    return function(_CODE, "note_steps")
