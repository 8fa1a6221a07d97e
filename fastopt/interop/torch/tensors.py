"""Tensors as arrays on the same memory: NumPy's, or themselves on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.utils._python_dispatch import (
    _get_current_dispatch_mode_stack,
    is_traceable_wrapper_subclass,
)

from fastopt.arrays.checks import Array, freed, loaded
from fastopt.codecs.floats import floats
from fastopt.codecs.formats import FORMATS
from fastopt.executors.cuda import availability
from fastopt.interop.torch.shards import check_placements, is_sharded, part

Reader: TypeAlias = Callable[[Tensor], Any]
Params: TypeAlias = ParamsT  # what torch takes: tensors or groups of them
State: TypeAlias = dict[str, Any]  # what torch keeps of a parameter
StateDict: TypeAlias = dict[str, Any]  # what torch saves

COMPLEX = (torch.complex64, torch.complex128)


def format_of(dtype: torch.dtype) -> str | None:
    """The name of a dtype's format, None if it is no format of arrays."""
    name = str(dtype).removeprefix("torch.")
    return name if name in FORMATS else None


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a format."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def check(name: str, tensor: Tensor) -> None:
    """A parameter that can be stepped here."""
    if is_sharded(tensor):
        check_placements(name, tensor)
        tensor = part(tensor)
    _check_kind(name, tensor)
    if tensor.device.type == "cuda":
        availability.require()
    elif tensor.device.type != "cpu":
        raise TypeError(
            f"{name} is on {tensor.device}: fastopt.interop.torch steps tensors on the CPU and on CUDA "
            "devices; torch.optim has this optimizer for others"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, not of layout {tensor.layout}")
    if format_of(tensor.dtype) is None and tensor.dtype not in COMPLEX:
        accepted = ", ".join([*FORMATS, "complex64", "complex128"])
        raise TypeError(f"{name} must be of dtype {accepted}, not {tensor.dtype}")
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError(f"{name} must have its signs in memory: take its resolve_conj().resolve_neg()")
    sizes = zip(tensor.stride(), tensor.shape, strict=True)
    # The strides of a tensor without elements may be zero, and mean nothing.
    if tensor.numel() and any(stride == 0 and size > 1 for stride, size in sizes):
        raise ValueError(f"{name} must have memory for each element, but it was expanded")
    _check_memory(name, tensor)


def _check_kind(name: str, tensor: Tensor) -> None:
    fake = loaded("torch._subclasses.fake_tensor", "FakeTensor")
    if is_traceable_wrapper_subclass(tensor) or (fake is not None and isinstance(tensor, fake)):
        raise _without_memory(name, type(tensor))


def _check_memory(name: str, tensor: Tensor) -> None:
    kind, is_usual = type(tensor), type(tensor) in (Tensor, torch.nn.Parameter)
    if not is_usual:
        _check_kind(name, tensor)
    if tensor.numel() and not tensor.data_ptr():
        raise freed(name) if is_usual else _without_memory(name, kind)


def _without_memory(name: str, kind: type) -> TypeError:
    return TypeError(
        f"{name} is a {kind.__name__}, which has no memory of its own to step; torch.optim has this "
        "optimizer for it"
    )


def check_is_run() -> None:
    """Check that operations are run, and not only recorded: a step would be left out of the record."""
    if not torch._C._len_torch_dispatch_stack():
        return
    tracing = (
        loaded("torch._subclasses.fake_tensor", "FakeTensorMode"),
        loaded("torch.fx.experimental.proxy_tensor", "ProxyTorchDispatchMode"),
    )
    kinds = tuple(kind for kind in tracing if kind is not None)
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, kinds):
            raise RuntimeError(
                f"a step of fastopt cannot be traced, and {type(mode).__name__} is on: step outside of "
                "it, or trace torch.optim's optimizer"
            )


def check_memory(grads: list[Tensor | None]) -> None:
    """Check that gradients have memory: NumPy gives arrays some of their own where there is none."""
    for grad in grads:
        if grad is not None and not grad.is_sparse:
            _check_memory("a gradient", grad)


def order(tensor: Tensor) -> tuple[int, ...] | None:
    """The order of dimensions in which the elements follow each other in memory.

    None where they do not: there are gaps between them, or some are one and the same.
    """
    dimensions = range(tensor.dim())
    if tensor.is_contiguous():
        return tuple(dimensions)
    by_stride = tuple(sorted(dimensions, key=tensor.stride, reverse=True))
    return by_stride if tensor.permute(by_stride).is_contiguous() else None


def reader(dtype: torch.dtype, order: tuple[int, ...], device: torch.device) -> Reader:
    """What makes arrays of tensors of this dtype and order; it copies nothing.

    It is called for each gradient in each step. Tensor.numpy itself takes 0.7 us.
    """
    permuted = order != tuple(range(len(order)))
    if device.type == "cuda":
        return _device_reader(dtype, order if permuted else None)
    name = format_of(dtype)
    bits = FORMATS[name].bits if name else None
    if name and bits is None and not permuted:
        as_it_is: Reader = Tensor.numpy
        return as_it_is

    def read(tensor: Tensor) -> Array:
        if permuted:
            tensor = tensor.permute(order)
        if dtype in COMPLEX:
            tensor = torch.view_as_real(tensor)
        if bits is not None:  # torch does not know the dtypes of ml_dtypes
            tensor = tensor.view(getattr(torch, bits.name))
        array: Array = tensor.numpy()
        return array if bits is None else array.view(floats(str(name)).dtype)

    return read


def _device_reader(dtype: torch.dtype, order: tuple[int, ...] | None) -> Reader:
    """The same on a device, where tensors are arrays; gradients in another order are copied there."""

    def read(tensor: Tensor) -> Tensor:
        if tensor.is_sparse:
            raise TypeError("a sparse tensor is no array")
        if order is not None:
            tensor = tensor.permute(order)
        if dtype in COMPLEX:
            tensor = torch.view_as_real(tensor)
        return tensor.resolve_neg().contiguous()

    return read


def plain(tensor: Tensor) -> Tensor:
    """The tensor without what an array cannot have: history, and signs that are yet to be applied."""
    return tensor.detach().resolve_conj().resolve_neg()


def number(tensor: Any) -> float:
    """The value of a number or of a tensor with one element."""
    return float(tensor)
