"""Tensors as arrays on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastopt.codecs.floats import floats
from fastopt.layouts.arrays import Array

Reader: TypeAlias = Callable[[Tensor], Array]

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)


def check(name: str, tensor: Tensor) -> None:
    """A parameter that can be stepped here."""
    if tensor.device.type != "cpu":
        raise NotImplementedError(
            f"{name} is on {tensor.device}: fastopt.interop.torch steps tensors on the CPU; "
            "torch.optim has this optimizer for other devices"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, not of layout {tensor.layout}")
    if tensor.dtype not in REAL + COMPLEX:
        accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in REAL + COMPLEX)
        raise TypeError(f"{name} must be of dtype {accepted}, not {tensor.dtype}")
    if any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    ):
        raise ValueError(f"{name} must have memory for each element, but it was expanded")


def order(tensor: Tensor) -> tuple[int, ...] | None:
    """The order of dimensions in which the elements follow each other in memory.

    None where they do not: there are gaps between them, or some are one and the same.
    """
    dimensions = range(tensor.dim())
    if tensor.is_contiguous():
        return tuple(dimensions)
    by_stride = tuple(sorted(dimensions, key=tensor.stride, reverse=True))
    return by_stride if tensor.permute(by_stride).is_contiguous() else None


def reader(dtype: torch.dtype, order: tuple[int, ...]) -> Reader:
    """What makes arrays of tensors of this dtype and order; it copies nothing.

    It is called for each gradient in each step. Tensor.numpy itself takes 0.7 us.
    """
    permuted = order != tuple(range(len(order)))
    if dtype in REAL and dtype != torch.bfloat16 and not permuted:
        as_it_is: Reader = Tensor.numpy
        return as_it_is
    bfloat16 = floats("bfloat16").dtype if dtype == torch.bfloat16 else None

    def read(tensor: Tensor) -> Array:
        if permuted:
            tensor = tensor.permute(order)
        if dtype in COMPLEX:
            tensor = torch.view_as_real(tensor)
        if bfloat16 is not None:  # which NumPy knows from ml_dtypes, and torch does not
            tensor = tensor.view(torch.int16)
        array: Array = tensor.numpy()
        return array if bfloat16 is None else array.view(bfloat16)

    return read


def plain(tensor: Tensor) -> Tensor:
    """The tensor without what an array cannot have: history, and signs that are yet to be applied."""
    return tensor.detach().resolve_conj().resolve_neg()


def number(tensor: Any) -> float:
    """The value of a number or of a tensor with one element."""
    return float(tensor)
