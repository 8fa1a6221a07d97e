"""Loads states without torch's cast of all of them to the dtype of the parameter, after a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastopt.interop.torch.shards import is_sharded
from fastopt.interop.torch.state_dict_check import check_state_dict
from fastopt.interop.torch.state_formats import has_codes, is_correction, is_packed
from fastopt.interop.torch.tensors import State, StateDict
from fastopt.kernels.job import CORRECTION
from fastopt.validation import shown

if TYPE_CHECKING:
    from fastopt.interop.torch.base import FastOptimizer


class HiddenTensor:
    """A wrapper that hides a tensor from torch."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def check_is_dict(state_dict: object) -> None:
    """Raise TypeError for what torch would fail to copy before any hook."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a dict, not {shown(state_dict)}")


def keep_formats(optimizer: FastOptimizer, state_dict: StateDict) -> StateDict:
    """Hide the states with a format of their own.

    Raises
    ------
    TypeError, ValueError
        The checkpoint is another optimizer's, or damaged.
    """
    check_state_dict(optimizer, state_dict)
    counts = optimizer._state_counts()
    every = optimizer.state_dtype is not None or optimizer.master_bits is not None

    def hidden(name: object, value: Any) -> Any:
        keeps = every or name in ("average", CORRECTION) or is_packed(value)
        hides = keeps and isinstance(value, Tensor) and name not in counts
        return HiddenTensor(value) if hides else value

    keys = {key for group in state_dict["param_groups"] for key in group["params"]}
    states = {
        key: {name: hidden(name, value) for name, value in state.items()}
        if key in keys and isinstance(state, dict)
        else state
        for key, state in state_dict["state"].items()
    }
    return {**state_dict, "state": states}


def release(states: dict[Tensor, State], param: Tensor) -> None:
    """Restore the hidden states of a parameter, on its device."""
    for name, value in states.items() if isinstance(states, dict) else ():
        if isinstance(value, HiddenTensor):
            if is_sharded(param) and has_codes(value.tensor, param):
                raise ValueError(
                    f"{name} has the 8-bit blocks of a parameter that is not sharded, and they do not "
                    "follow the shards: save it with decoded_state_dict()"
                )
            tensor = value.tensor
            if name == CORRECTION and is_correction(tensor, param) and tensor.dtype == torch.int32:
                tensor = tensor.short()  # as it was before `state_dict` of shards
            states[name] = tensor.to(device=param.device)
