"""The states of parameters in torch: created as torch does, in formats that kernels can update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastopt.codecs.base import Codec
from fastopt.interop.torch.carried import CARRIED, SUMS
from fastopt.interop.torch.master_weights import complete_correction, with_correction
from fastopt.interop.torch.param_groups import ParamGroup
from fastopt.interop.torch.shards import like, part, placed
from fastopt.interop.torch.state_formats import (
    TensorFormats,
    is_packed,
    numbers,
    packed_shape,
    state_dtype_of,
    stored,
)
from fastopt.interop.torch.tensors import State, number
from fastopt.kernels.job import CORRECTION
from fastopt.transforms.base import Chain
from fastopt.transforms.states import START_FROM_PARAM

COUNTS = (torch.float32, torch.float64)


def count_dtype(group: ParamGroup) -> torch.dtype:
    """The dtype of torch's step counts."""
    wide = torch.get_default_dtype() == torch.float64 and not group.get("fused")
    return torch.float64 if wide else torch.float32


def count(state: State, param: Tensor, group: ParamGroup, counts: Mapping[str, float | str]) -> None:
    """Create missing scalar states, from their initial values or from an entry of the group.

    They are on the CPU, which decides what is launched, and for graphs on the parameter's device.
    """
    like = param.detach() if group.get("capturable") else torch.empty((), device="cpu")
    for name, value in counts.items():
        known = state.get(name)
        if known is None:
            start = number(group[value]) if isinstance(value, str) else value
            state[name] = like.new_full((), start, dtype=count_dtype(group))
        elif not _is_count(known, like.device):
            state[name] = like.new_full((), number(known), dtype=count_dtype(group))


def check_state_names(chain: Chain, counts: Iterable[str]) -> None:
    """Check that the states of a chain have names that stand for nothing else in torch's states."""
    reserved = *counts, CARRIED, SUMS, CORRECTION
    if names := [name for name in chain.states() if name in reserved]:
        raise ValueError(
            f"a transform's state must not be named {names[0]!r}: for torch's optimizers "
            f"{', '.join(reserved)} of a parameter are something else"
        )


def check_shapes(name: str, param: Tensor, state: State, names: Iterable[str]) -> None:
    """Check that the states of these names fit the parameter, or raise ValueError."""
    local = part(param)
    for key in names:
        known = state.get(key)
        if isinstance(known, Tensor):
            known_shape, shape = known.shape, param.shape
            if is_packed(known):
                known_shape, shape = part(known).shape, packed_shape(local)
            if known_shape != shape:
                raise ValueError(
                    f"{name} has the shape {tuple(param.shape)}, for which its state {key!r} must have "
                    f"the shape {tuple(shape)}, not {tuple(known_shape)}; where another tensor was "
                    "assigned to `.data`, `del optimizer.state[param]` starts its states anew"
                )


def complete(
    state: State, param: Tensor, group: ParamGroup, chain: Chain, formats: TensorFormats
) -> None:
    """Create missing states of a chain, and replace those that kernels cannot update in place.

    Parameters
    ----------
    state : dict
        What there is of this parameter.
    param : Tensor
    group : dict
        The param group that it is in.
    chain : Chain
        The mathematics.
    formats : TensorFormats
        How states are stored.

    Raises
    ------
    ValueError
        A state that is there does not fit the parameter.
    """
    complete_correction(state, param, formats.correction(param))
    local = part(param)
    for name, start in chain.states().items():
        known, codec = state.get(name), formats.codec(name, chain, param)
        if known is None:
            tensor = stored(local, codec, _start(state, param, group, name, start))
        else:
            if isinstance(known, Tensor) and not is_packed(known):
                known = placed(known, param)
            if not isinstance(known, Tensor) or not _fits(part(known), local, codec):
                tensor = stored(local, codec, numbers(name, part(known), local, chain))
            else:
                state[name] = known
                continue
        state[name] = tensor if is_packed(tensor) else like(tensor, param)


def _is_count(known: Any, device: torch.device) -> bool:
    """A scalar tensor on this device, of the dtype of step counts."""
    usable = isinstance(known, Tensor) and known.device == device and known.dtype in COUNTS
    return bool(usable and known.dim() == 0)


def _start(
    state: State, param: Tensor, group: ParamGroup, name: str, start: float | str
) -> complex | Tensor:
    """The initial value of a state."""
    if start == START_FROM_PARAM:
        return with_correction(param, state)
    value = group.get("initial_accumulator_value", 0.0) if name == "sum" else float(start)
    # Adagrad's sum of squares starts in both parts of a complex number.
    return complex(value, value) if param.is_complex() else value


def _fits(known: object, param: Tensor, codec: Codec | None) -> bool:
    """Whether a state is stored like this, its elements where torch would have put them."""
    if not isinstance(known, Tensor) or known.device != param.device:
        return False
    if codec is not None and codec.block > 1:
        return is_packed(known) and known.shape == packed_shape(param) and known.is_contiguous()
    expected = torch.empty_like(
        param, dtype=state_dtype_of(param, codec), device="meta", memory_format=torch.preserve_format
    )
    same = known.dtype == expected.dtype and known.layout == param.layout
    plain = not (known.is_conj() or known.is_neg() or known.requires_grad)
    return same and plain and known.shape == param.shape and known.stride() == expected.stride()
