"""The storage formats and the rounding of states, by the options that choose them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from fastopt.arrays.checks import Array
from fastopt.codecs.base import Codec, DType
from fastopt.codecs.blocks import ITEM, SIGNED, UNSIGNED
from fastopt.codecs.corrections import BY_MASTER_BITS, Correction
from fastopt.codecs.floats import Float, as_dtype, floats
from fastopt.codecs.formats import FORMATS, compute_dtype, name_of, partners_of
from fastopt.kernels.job import ArrayFormat
from fastopt.text import listed
from fastopt.transforms.base import Chain
from fastopt.transforms.states import START_FROM_PARAM

EIGHT_BITS = "8bit"
MASTER_ITEMSIZE = 4  # bytes of parameters that need no correction, at least
WORTH_EIGHT_BITS = 4096  # elements: a smaller array is kept in float32


# A format, "8bit" among them, for all states or for each by its name.
StateDType: TypeAlias = DTypeLike | Mapping[str, DTypeLike] | None


class StateFormats:
    """The options `state_dtype`, `stochastic_rounding`, `seed` and `master_bits`.

    Attributes
    ----------
    state_dtype, stochastic_rounding, seed
        As given.
    """

    def __init__(
        self,
        state_dtype: StateDType,
        stochastic_rounding: object,
        seed: object,
        master_bits: object = None,
    ) -> None:
        self._correction = _correction(master_bits)
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

    def correction(self, param: Array) -> Correction | None:
        """The codec of the correction of a parameter, None if it has none.

        Raises
        ------
        TypeError
            Parameters of this format cannot have one.
        """
        row = FORMATS[str(name_of(param.dtype))]
        if self._correction is None or row.itemsize >= MASTER_ITEMSIZE:
            return None
        if row.divide is None:
            known = listed(name for name, each in FORMATS.items() if each.divide is not None)
            raise TypeError(f"master_bits is for parameters of {known}, not of {row.name}")
        return self._correction

    @property
    def have_corrections(self) -> bool:
        """Whether parameters of 16 bits have corrections."""
        return self._correction is not None

    def check_used(self, corrections: Iterable[object]) -> None:
        """Check that `master_bits` has an effect, given the codecs of the corrections of all arrays."""
        if self._correction is not None and all(correction is None for correction in corrections):
            raise ValueError(
                "master_bits must be None for parameters of float32 and float64, which are as wide; "
                "it is for those of 16 bits"
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
            return floats(format_ if self.correction(param) is None else "float32")
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
    def described(self) -> list[object]:
        """The settings that must be the same when a run is resumed."""
        rounds = self.stochastic_rounding
        return [None if rounds is None else bool(rounds), self.seed]


def _correction(master_bits: object) -> Correction | None:
    accepted = f"master_bits must be {', '.join(map(str, BY_MASTER_BITS))} or None"
    if master_bits is None:
        return None
    if isinstance(master_bits, (bool, np.bool_)) or not isinstance(master_bits, Integral):
        raise TypeError(f"{accepted}, not {master_bits!r}")
    if int(master_bits) not in BY_MASTER_BITS:
        raise ValueError(f"{accepted}, got {master_bits}")
    return BY_MASTER_BITS[int(master_bits)]


def _format(choice: object, name: str | None) -> str | None:
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


def states_of(dtype: DType) -> tuple[str, ...]:
    """The formats that states can have beside parameters of this dtype."""
    floats_ = partners_of(dtype)
    return floats_ if dtype == np.float64 else (*floats_, UNSIGNED.name, SIGNED.name)
