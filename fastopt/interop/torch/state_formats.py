"""The formats of states as tensors: floating point, or bytes for blocks of 8-bit codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import DeviceArray
from fastopt.codecs.base import BLOCK, Codec
from fastopt.codecs.blocks import ITEM, SIGNED, UNSIGNED
from fastopt.codecs.corrections import Correction
from fastopt.codecs.floats import floats
from fastopt.interop.torch.shards import like, part
from fastopt.interop.torch.tensors import State, dtype_of, format_of, reader
from fastopt.kernels.job import CORRECTION
from fastopt.steps.state_formats import StateFormats
from fastopt.transforms.base import Chain


class TensorFormats:
    """The options `state_dtype` and `master_bits` for parameters that are tensors.

    Parameters
    ----------
    state_dtype : torch.dtype, "8bit", mapping of str to these, or None
    master_bits : int, optional

    Raises
    ------
    TypeError, ValueError
        One of them is something else.
    """

    def __init__(self, state_dtype: Any, master_bits: int | None = None) -> None:
        if isinstance(state_dtype, Mapping):
            formats: Any = {name: _translated(dtype) for name, dtype in state_dtype.items()}
        else:
            formats = _translated(state_dtype)
        self._formats = StateFormats(formats, None, 0, master_bits)
        self._is_usual = state_dtype is None

    def check_names(self, chains: list[Chain]) -> None:
        """Check that every state with a format of its own exists."""
        self._formats.check_names(chains)

    def check(self, name: str, param: Tensor, chain: Chain) -> None:
        """Check that the states of a parameter can have the chosen formats."""
        if self._is_usual or is_lazy(param):  # which is checked with its first gradient
            return
        if param.is_complex():
            raise TypeError(
                f"state_dtype must be None for complex parameters, and {name} is {param.dtype}"
            )
        if format_of(param.dtype):  # otherwise it is refused when it has a gradient
            for state in chain.states():
                self.codec(state, chain, param)

    def correction(self, param: Tensor) -> Correction | None:
        """The codec of the correction of a parameter, None if it has none."""
        if not self._formats.have_corrections or is_lazy(param) or not format_of(param.dtype):
            return None
        return self._formats.correction(_like(param))

    def check_split(self, params: Iterable[Tensor]) -> None:
        """Check that `master_bits`, if it is set, has an effect on one of the parameters."""
        if not self._formats.have_corrections:
            return
        if not any(self.correction(param) or is_lazy(param) for param in params):
            raise ValueError(
                "master_bits must be None where no parameter is of 16 bits: it is for those of "
                "torch.bfloat16 and torch.float16"
            )

    def names(self, chain: Chain, param: Tensor) -> tuple[str, ...]:
        """The states of a parameter that have a number for each of its elements."""
        return (*chain.states(), *([CORRECTION] if self.correction(param) else []))

    def codec(self, name: str, chain: Chain, param: Tensor) -> Codec | None:
        """How a state of a parameter is stored; None if it is complex, as the parameter.

        Raises
        ------
        TypeError, ValueError
            It cannot be stored as asked for.
        """
        if param.is_complex():
            return None
        codec = self._formats.codec(name, chain, _like(param))
        if codec.block > 1 and not part(param).is_contiguous():
            # Blocks follow the elements in memory. A checkpoint does not say what order that was.
            return floats("float32")
        return codec


def _like(param: Tensor) -> Array:
    """An array of the format and shape of a parameter, without memory for its elements."""
    dtype = floats(str(format_of(param.dtype))).dtype
    return np.broadcast_to(np.empty((), dtype), param.shape)


def _translated(dtype: object) -> object:
    """fastopt's name of a format."""
    return format_of(dtype) or dtype if isinstance(dtype, torch.dtype) else dtype


def is_packed(state: object) -> bool:
    """Whether a state is the bytes of 8-bit blocks."""
    return isinstance(state, Tensor) and state.dtype == torch.uint8


def is_correction(state: object, param: Tensor) -> bool:
    """Whether an entry named `CORRECTION` is what `master_bits` keeps, and not a user's."""
    dtypes = torch.int8, torch.int16, torch.int32  # the last one in state dicts of shards
    return isinstance(state, Tensor) and state.dtype in dtypes and state.shape == param.shape


def packed_shape(param: Tensor) -> tuple[int, int]:
    """The shape of a parameter's states of 8 bits: a row of bytes for each block."""
    return -(-param.numel() // BLOCK), ITEM.itemsize


def state_dtype_of(param: Tensor, codec: Codec | None) -> torch.dtype:
    """The dtype of a floating-point state."""
    return param.dtype if codec is None else dtype_of(codec.name)


def stored(param: Tensor, codec: Codec | None, value: complex | Tensor) -> Tensor:
    """A state of a parameter: the same number everywhere, or numbers of its shape."""
    if codec is None or codec.block == 1:
        tensor = torch.empty_like(
            param,
            dtype=state_dtype_of(param, codec),
            memory_format=torch.preserve_format,
            requires_grad=False,
        )
        return tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)
    tensor = param.detach().new_empty(packed_shape(param), dtype=torch.uint8)
    if isinstance(value, Tensor):  # once in a run, so by way of the CPU
        bytes_ = np.zeros(tensor.shape, np.uint8)
        codec.store(_items(bytes_), value.detach().cpu().contiguous().float().numpy())
    else:
        bytes_ = np.zeros((1, ITEM.itemsize), np.uint8)
        codec.fill(_items(bytes_), value.real)
    return tensor.copy_(torch.from_numpy(bytes_))


def numbers(name: str, state: object, param: Tensor, chain: Chain) -> Tensor:
    """A state as a tensor of numbers of the parameter's shape: those of 8 bits in float32.

    Raises
    ------
    ValueError
        It is of another shape.
    """
    shape = packed_shape(param) if is_packed(state) else param.shape
    if not isinstance(state, Tensor) or state.shape != shape:
        actual = tuple(state.shape) if isinstance(state, Tensor) else state
        raise ValueError(f"{name} must be a tensor of shape {tuple(shape)}, not {actual!r}")
    if not is_packed(state):
        return state
    codec = UNSIGNED if name in chain.nonnegative() else SIGNED
    items = _items(state.cpu().contiguous().numpy())
    decoded = codec.decode(items, np.dtype(np.float32))[: param.numel()]
    tensor = param.detach().new_empty(param.shape, dtype=torch.float32)
    return tensor.copy_(torch.from_numpy(decoded).reshape(param.shape))


def decoded(states: Mapping[str, Any], param: Tensor, chain: Chain) -> State:
    """The states of a parameter, those of 8 bits as `numbers` in its shape."""
    local = part(param)
    return {
        name: like(numbers(name, state, local, chain), param) if has_codes(state, local) else state
        for name, state in states.items()
    }


def has_codes(state: object, param: Tensor) -> bool:
    """Whether this is a state of 8 bits, and not bytes that a user keeps of a parameter."""
    return isinstance(state, Tensor) and is_packed(state) and state.shape == packed_shape(param)


def _items(bytes_: Array) -> Array:
    """Rows of bytes as the blocks that they are."""
    items: Array = bytes_.view(ITEM).reshape(-1)
    return items


def array_of(state: Tensor, dimensions: tuple[int, ...]) -> Any:
    """A state as an array on the same memory, its dimensions in this order."""
    if is_packed(state) and state.is_cuda:  # there a tensor is an array, but none of records
        return DeviceArray(state, state.shape[:1], ITEM, state.data_ptr())
    if is_packed(state):
        return _items(state.numpy())
    return reader(state.dtype, dimensions, state.device)(state)
