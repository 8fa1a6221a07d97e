"""What torch keeps for each parameter: made as torch makes it, and fit to be worked on in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastopt.interop.torch.groups import ParamGroup
from fastopt.interop.torch.tensors import number
from fastopt.transforms.base import START_FROM_PARAM

State = dict[str, Any]

COUNTS = (torch.float32, torch.float64)


def count_dtype(group: ParamGroup) -> torch.dtype:
    """The dtype in which torch counts steps."""
    wide = torch.get_default_dtype() == torch.float64 and not group.get("fused")
    return torch.float64 if wide else torch.float32


def complete(
    state: State,
    param: Tensor,
    group: ParamGroup,
    counts: Mapping[str, float],
    initial: Mapping[str, float | str],
) -> None:
    """Make what is missing, and replace what cannot be worked on in place.

    Parameters
    ----------
    state : dict
        What there is of this parameter.
    param : Tensor
    group : dict
        The param group that it is in.
    counts : mapping
        Names of the single numbers, with their initial values.
    initial : mapping
        Names of the states that are like the parameter, with their initial values.
    """
    for name, value in counts.items():
        known = state.get(name)
        if known is None:
            state[name] = torch.tensor(value, dtype=count_dtype(group))
        elif not _is_count(known):
            state[name] = torch.tensor(number(known), dtype=count_dtype(group))
    for name, begin in initial.items():
        known = state.get(name)
        if known is None:
            state[name] = _new(param, group, name, begin)
        elif not isinstance(known, Tensor) or known.shape != param.shape:
            shape = tuple(known.shape) if isinstance(known, Tensor) else known
            raise ValueError(f"{name} must be a tensor of shape {tuple(param.shape)}, not {shape!r}")
        elif not _alike(known, param):
            state[name] = _like(param).copy_(known)


def _is_count(known: Any) -> bool:
    """A single number on the CPU, in a dtype that torch counts in."""
    usable = isinstance(known, Tensor) and known.device.type == "cpu" and known.dtype in COUNTS
    return bool(usable and known.dim() == 0)


def _like(param: Tensor) -> Tensor:
    return torch.zeros_like(param, memory_format=torch.preserve_format, requires_grad=False)


def _new(param: Tensor, group: ParamGroup, name: str, start: float | str) -> Tensor:
    if start == START_FROM_PARAM:
        return _like(param).copy_(param.detach())
    value = group.get("initial_accumulator_value", 0.0) if name == "sum" else float(start)
    if not value:
        return _like(param)
    # Adagrad's sum of squares starts in both parts of a complex number.
    both = complex(value, value) if param.is_complex() else value
    return torch.full_like(param, both, memory_format=torch.preserve_format, requires_grad=False)


def _alike(tensor: Tensor, param: Tensor) -> bool:
    """Whether the elements stand where torch would have put them."""
    same = tensor.device == param.device and tensor.dtype == param.dtype
    expected = torch.empty_like(param, device="meta", memory_format=torch.preserve_format)
    plain = not (tensor.is_conj() or tensor.is_neg() or tensor.requires_grad)
    return same and plain and tensor.layout == param.layout and tensor.stride() == expected.stride()
