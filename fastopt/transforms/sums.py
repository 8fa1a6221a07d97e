"""Sums over all elements that a transform declares, and the hyperparameters decided from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fastopt.validation import Hyper, as_scalar, flag, shown

if TYPE_CHECKING:
    from fastopt.transforms.base import Transform

Summand: TypeAlias = Callable[[Any, Any, Any, Any], Any]
FromSums: TypeAlias = Callable[[Any, Any, Any], Any]


class Sums(NamedTuple):
    """What compiled code and a step need to know of the sums of a transform."""

    names: tuple[str, ...]  # of `summands`, then of `after`
    summands: tuple[Summand, ...]  # read before the step
    from_sums: FromSums
    from_host: int  # hyperparameters that summands and `from_sums` take
    carried: tuple[float, ...]  # initial values
    per_array: bool
    after: tuple[Summand, ...] = ()  # summed in the step's own pass, for the next one
    skips: bool = False  # whether `from_sums` says if the step is to be skipped

    @property
    def names_after(self) -> tuple[str, ...]:
        return self.names[len(self.summands) :]

    def trial(self, name: str, hyper: Hyper) -> tuple[Hyper, bool]:
        """Call `from_sums` once: the hyperparameters, and whether a flag follows them; or raise."""
        what = f"from_sums of transform {name!r}"
        ones = (1.0,) * len(self.names)
        try:
            result = self.from_sums(tuple(map(float, hyper)), ones, self.carried)
        except Exception as error:
            raise TypeError(
                f"{what} failed on sums of 1.0 ({type(error).__name__}: {error}): it gets tuples of "
                f"{len(hyper)} hyperparameters, {len(ones)} sums and {len(self.carried)} numbers that "
                "are carried"
            ) from error
        is_tuple = isinstance(result, tuple) and len(result) in (2, 3) and _are_tuples(result[:2])
        if not is_tuple or not isinstance(result[2:], tuple) or not all(map(_is_flag, result[2:])):
            raise TypeError(
                f"{what} must return (hyper, carried), two tuples, or with True or False behind them "
                f"(hyper, carried, skip), not {result!r:.200}"
            )
        decided: Hyper = result[0]
        carried = result[1]
        if len(carried) != len(self.carried):
            raise TypeError(
                f"{what} returned {len(carried)} carried numbers, but the transform declares "
                f"{len(self.carried)}"
            )
        for number in (*decided, *carried):
            if isinstance(number, bool) or not isinstance(number, Real):
                raise TypeError(f"{what} must return real numbers, not {number!r:.200}")
        return decided, len(result) == 3


def _is_flag(value: object) -> bool:
    return isinstance(value, (bool, np.bool_))


def _are_tuples(pair: tuple[object, ...]) -> bool:
    return all(isinstance(item, tuple) for item in pair)


def sums_of(transform: Transform, from_host: int, copy: Callable[[Any], Any]) -> Sums:
    """The sums of a transform that has some, with copies of its functions."""
    return Sums(
        (*transform.sums, *transform.sums_after),
        tuple(map(copy, transform.sums.values())),
        copy(transform.from_sums),
        from_host,
        tuple(map(float, transform.carried.values())),
        transform.per_array,
        tuple(map(copy, transform.sums_after.values())),
    )


def check_declared(transform: Transform) -> None:
    """Check what a transform says about sums, or raise."""
    for name in "sums", "sums_after", "carried":
        if not isinstance(getattr(transform, name), Mapping):
            raise TypeError(
                f"{name} must map names to values, not be {shown(getattr(transform, name))}"
            )
    functions = {
        f"{kind}[{name!r}]": summand
        for kind in ("sums", "sums_after")
        for name, summand in getattr(transform, kind).items()
    }
    if transform.from_sums is not None:
        functions["from_sums"] = transform.from_sums
    for name, function in functions.items():
        if not hasattr(function, "__code__") and not hasattr(function, "py_func"):
            raise TypeError(f"{name} must be a Python function, not {function!r}")
    for name, start in transform.carried.items():
        if isinstance(start, bool) or not isinstance(as_scalar(start), Real):
            raise TypeError(f"carried[{name!r}] must start from a number, not {shown(start)}")
    per_array = flag("per_array", transform.per_array)
    if twice := sorted(transform.sums.keys() & transform.sums_after.keys()):
        raise ValueError(f"sums and sums_after must have different names, but both have {twice}")
    has_sums = bool(transform.sums or transform.sums_after)
    if (transform.from_sums is None) == has_sums:
        raise ValueError("sums (or sums_after) and from_sums go together: each needs the other")
    if not has_sums and (transform.carried or per_array):
        raise ValueError("carried and per_array are for a transform with sums")
