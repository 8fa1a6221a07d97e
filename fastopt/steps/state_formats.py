"""The storage formats and the rounding of states, by the options that choose them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.codecs.base import Codec
from fastopt.codecs.blocks import ITEM, SIGNED, UNSIGNED
from fastopt.codecs.floats import Float, as_dtype, floats
from fastopt.codecs.formats import FORMATS, compute_dtype, name_of, partners_of
from fastopt.kernels.job import ArrayFormat
from fastopt.text import listed
from fastopt.transforms.base import START_FROM_PARAM, Chain

EIGHT_BITS = "8bit"
WORTH_EIGHT_BITS = 4096  # elements: a smaller array is kept in float32


class StateFormats:
    """The options `state_dtype`, `stochastic_rounding` and `seed`.

    Attributes
    ----------
    state_dtype, stochastic_rounding, seed
        As given.
    """

    def __init__(self, state_dtype: Any, stochastic_rounding: Any, seed: Any) -> None:
        if stochastic_rounding is not None and not isinstance(stochastic_rounding, (bool, np.bool_)):
            raise TypeError(
                f"stochastic_rounding must be True, False or None, not {stochastic_rounding!r}"
            )
        if isinstance(seed, bool) or not isinstance(seed, Integral):
            raise TypeError(f"seed must be a whole number, not {seed!r}")
        self.state_dtype, self.seed = state_dtype, int(seed)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {seed}")
        self.stochastic_rounding = stochastic_rounding
        if isinstance(state_dtype, Mapping):
            self._named = {name: _format(dtype, name) for name, dtype in state_dtype.items()}
            self._usual = None
        else:
            self._named, self._usual = {}, _format(state_dtype, None)

    def check_names(self, chains: list[Chain]) -> None:
        """Check that every state with a format of its own exists."""
        if not self._named:
            return
        in_chain = {name for chain in chains for name in chain.states()}
        if unknown := sorted(self._named.keys() - in_chain):
            raise ValueError(
                f"state_dtype has unknown names {unknown}; the chain has {sorted(in_chain)}"
            )

    def codec(self, name: str, chain: Chain, param: Array) -> Codec:
        """The codec of a state that fastopt allocates."""
        format_ = str(name_of(param.dtype))
        if chain.states()[name] == START_FROM_PARAM:
            # An average of parameters moves by less than 16 bits can tell apart.
            format_name = self._named.get(name, compute_dtype(format_).name)
        else:
            format_name = self._named.get(name, self._usual)
        if format_name is None:
            return floats(format_)
        accepted = partners_of(param.dtype)
        if format_name == EIGHT_BITS and format_ != "float64":
            if param.size < WORTH_EIGHT_BITS:
                return floats("float32")
            return UNSIGNED if name in chain.nonnegative() else SIGNED
        if format_name not in accepted:
            raise TypeError(
                f"state_dtype must be {listed(accepted)} for parameters of {format_}, "
                f"not {format_name!r}"
            )
        return floats(format_name)

    def storage(self, codec: Codec) -> ArrayFormat:
        """The same for the compiler, with how it is rounded."""
        usual = not isinstance(codec, Float)
        if not (usual or FORMATS[codec.name].cut):
            return ArrayFormat(codec.name)
        rounds = self.stochastic_rounding
        return ArrayFormat(codec.name, usual if rounds is None else bool(rounds))

    @property
    def described(self) -> list[Any]:
        """The settings that must be the same when a run is resumed."""
        rounds = self.stochastic_rounding
        return [None if rounds is None else bool(rounds), self.seed]


def _format(choice: Any, name: str | None) -> str | None:
    """A float format by name, `EIGHT_BITS`, or None for that of the parameters."""
    if choice is None or (isinstance(choice, str) and choice == EIGHT_BITS):
        return choice
    label = "state_dtype" if name is None else f"state_dtype[{name!r}]"
    message = f"{label} must be None, a floating-point dtype or '{EIGHT_BITS}', not {choice!r}"
    try:
        dtype = as_dtype(choice)
    except TypeError as error:
        raise TypeError(message) from error
    format_ = name_of(dtype)
    if format_ is None:
        raise TypeError(message)
    return format_


def codec_of(array: Array, name: str, chain: Chain) -> Codec | None:
    """The codec of a caller's state array; None if it has no known format."""
    if array.dtype == ITEM:
        return UNSIGNED if name in chain.nonnegative() else SIGNED
    format_ = name_of(array.dtype)
    return None if format_ is None else floats(format_)


def states_of(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """The formats that states can have beside parameters of this dtype."""
    floats_ = partners_of(dtype)
    return floats_ if dtype == np.float64 else (*floats_, UNSIGNED.name, SIGNED.name)
