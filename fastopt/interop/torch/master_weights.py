"""Parameters of 16 bits whose corrections are states in torch, as float32 and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastopt.arrays.checks import Array
from fastopt.codecs.corrections import Correction, correction_of_width
from fastopt.interop.torch.shards import like, part, placed
from fastopt.interop.torch.state_formats import TensorFormats, is_correction
from fastopt.interop.torch.tensors import State, StateDict, reader
from fastopt.kernels.job import CORRECTION

Names = Mapping[str, Tensor]


def complete_correction(state: State, param: Tensor, codec: Correction | None) -> None:
    """Create a missing correction, with which a parameter is what it shows.

    Raises
    ------
    ValueError
        There is one that is not asked for, or of another width or shape.
    """
    correction = state.get(CORRECTION)
    if codec is None:
        if is_correction(correction, param):
            raise ValueError(
                "master_bits must not be None for parameters whose state has a correction: without it "
                "they would lose what it holds"
            )
        return
    dtype, local = getattr(torch, codec.dtype.name), part(param)
    new = torch.empty_like(local, dtype=dtype, requires_grad=False)
    if correction is None:
        state[CORRECTION] = like(new.zero_(), param)
        return
    fits = isinstance(correction, Tensor) and correction.dtype == dtype
    if not fits or correction.shape != param.shape:
        raise ValueError(
            f"the correction of a parameter must be a tensor of {dtype} and of shape "
            f"{tuple(param.shape)} with these master_bits, not "
            f"{_described(correction)}"
        )
    state[CORRECTION] = correction = placed(correction, param)
    known = part(correction)
    if (known.device, known.stride()) != (new.device, new.stride()):
        state[CORRECTION] = like(new.copy_(known), param)


def exchangeable(state: State) -> State:
    """A state with its correction in a dtype that gloo and NCCL can exchange."""
    correction = state.get(CORRECTION)
    if isinstance(correction, Tensor) and correction.dtype == torch.int16:
        return {**state, CORRECTION: correction.int()}
    return state


def _described(correction: Correction | None) -> str:
    if not isinstance(correction, Tensor):
        return f"{correction!r:.200}"
    return f"one of {correction.dtype} and of shape {tuple(correction.shape)}"


def joined(param: Tensor, correction: Tensor) -> Tensor:
    """A parameter and its correction as a new tensor of float32."""
    arrays = _on_host(param), _on_host(correction)
    codec = correction_of_width(8 * correction.element_size())
    numbers = torch.from_numpy(codec.join(*arrays)).reshape(param.shape)
    return numbers.to(param.device)


def with_correction(param: Tensor, state: State) -> Tensor:
    """What this process has of a parameter; with its correction, if there is one, as float32."""
    local, correction = part(param).detach(), state.get(CORRECTION)
    return joined(local, part(correction)) if is_correction(correction, param) else local


def divide(param: Tensor, correction: Tensor, numbers: Tensor) -> None:
    """Write numbers to a parameter and its correction."""
    codec = correction_of_width(8 * correction.element_size())
    wide = numbers.detach().to("cpu", torch.float32).contiguous().numpy()
    half, rest = codec.divide(wide, _on_host(param).dtype)
    bits = torch.from_numpy(half.view("int16")).reshape(param.shape)
    param.detach().copy_(bits.view(param.dtype))
    correction.copy_(torch.from_numpy(rest).reshape(param.shape))


def _on_host(tensor: Tensor) -> Array:
    on_host = tensor.detach().cpu().contiguous()
    array: Array = reader(tensor.dtype, tuple(range(tensor.dim())), on_host.device)(on_host)
    return array


def split_params(
    model: torch.nn.Module, groups: Sequence[Mapping[str, Any]], formats: TensorFormats
) -> dict[str, Tensor]:
    """The parameters of a model that have corrections in an optimizer with these groups, by name."""
    known = {id(param) for group in groups for param in group["params"]}
    named = model.named_parameters(remove_duplicate=False)
    return {n: p for n, p in named if id(p) in known and formats.correction(p) is not None}


def as_float32(state_dict: StateDict, split: Names, states: Mapping[Tensor, State]) -> None:
    """Replace the parameters of these names in a model's state dict by float32."""
    for name, param in split.items():
        if name in state_dict:
            state_dict[name] = like(with_correction(param, states.get(param, {})).float(), param)


def load_float32(
    state_dict: Mapping[str, object], split: Names, make_correction: Callable[[Tensor], Tensor]
) -> None:
    """Take parameters of these names from a state dict, with all of their digits."""
    for name, param in split.items():
        if isinstance(state_dict.get(name), Tensor):
            numbers = part(placed(state_dict[name], param))
            divide(part(param), part(make_correction(param)), numbers)
