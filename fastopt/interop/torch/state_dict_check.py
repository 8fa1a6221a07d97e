"""Whether a state dict is that of an optimizer like this: its settings, and the states of parameters.

torch loads those of any class. What differs shows in a later step, or not at all.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from fastopt.interop.torch.carried import check_saved
from fastopt.interop.torch.param_groups import ParamGroup
from fastopt.interop.torch.shards import is_sharded
from fastopt.interop.torch.state_formats import has_codes, is_packed, packed_shape
from fastopt.interop.torch.tensors import StateDict, number
from fastopt.kernels.job import CORRECTION
from fastopt.transforms.automatic import TREND
from fastopt.validation import shown

if TYPE_CHECKING:
    from fastopt.interop.torch.base import FastOptimizer

# Entries of groups that are no settings of the computation, or that many classes got later.
_RECENT = "maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"
# States that options ask for, which can be added to a checkpoint that lacks them.
_OF_OPTIONS = "average", "z", TREND, CORRECTION
# The same for settings of a param group.
_OF_SETTINGS = {"grad_avg": "centered", "max_exp_avg_sq": "amsgrad", "momentum_buffer": "momentum"}


def check_state_dict(optimizer: FastOptimizer, state_dict: StateDict) -> None:
    """Check a state dict before anything of it is loaded.

    Raises
    ------
    TypeError, ValueError
        It is another optimizer's, or that of other parameters, or has something else in it than
        numbers and tensors where those belong.
    """
    saved_groups, states_of_all = state_dict.get("param_groups"), state_dict.get("state")
    if not isinstance(saved_groups, (list, tuple)) or not isinstance(states_of_all, Mapping):
        raise ValueError(
            "state_dict must be an optimizer's, with a dict 'state' and a list 'param_groups', but has "
            f"the entries {shown(list(state_dict))}"
        )
    if others := [group for group in saved_groups if not _is_group(group)]:
        raise TypeError(f"param_groups must be dicts with a list 'params', not {shown(others[0])}")
    groups, formats = optimizer.param_groups, optimizer._formats()
    for index, saved in enumerate(saved_groups):
        current = groups[index] if index < len(groups) else {}
        _check_entries(optimizer, f"param_groups[{index}]", saved, current)
    if [len(g["params"]) for g in saved_groups] != [len(g["params"]) for g in groups]:
        return  # torch says so
    for index, (saved, group) in enumerate(zip(saved_groups, groups, strict=True)):
        chain = optimizer._chain({**dict.fromkeys(optimizer._filled_in, False), **saved}, {})
        states = {key: states_of_all.get(key, {}) for key in saved["params"]}
        for key, param in zip(saved["params"], group["params"], strict=True):
            names = formats.names(chain, param)
            _check_state(optimizer, f"state[{key}]", states[key], param, names)
        check_saved(index, saved, states, chain)


def _is_group(group: Any) -> bool:
    return isinstance(group, Mapping) and isinstance(group.get("params"), (list, tuple))


def _check_entries(
    optimizer: FastOptimizer, where: str, saved: ParamGroup, current: ParamGroup
) -> None:
    """Check that a saved group has the settings of this class, and none that only others have."""
    is_recent = any(name in saved for name in _RECENT)
    # Those that torch has had for longer are in every checkpoint that has the recent ones.
    late = [name for name in optimizer._filled_in if name in _RECENT or not is_recent]
    known = optimizer.defaults
    missing = [name for name in known if name not in saved and name not in late]
    # What users keep beside settings may have the name of one. It is another class's if that has all of
    # these settings too, and all of its own are there.
    settings = {name for name in known if name in saved and name not in _RECENT}
    alike = [each for each in _settings_of_each() if settings <= each <= saved.keys()]
    more = {name for each in alike for name in each} - known.keys() - current.keys()
    others = [name for name in saved if name in more]
    if missing or others:
        lacks = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(others)}"
        raise _foreign(optimizer, f"its {where} {lacks}")


@cache
def _settings_of_each() -> list[frozenset[str]]:
    """The settings of each class here, without the recent ones."""
    from fastopt.interop import torch as home

    kinds = [kind for name in home.__all__ if isinstance(kind := getattr(home, name), type)]
    return [_settings_of(kind) - {"params", "transforms", *_RECENT} for kind in kinds]


def _settings_of(kind: type) -> frozenset[str]:
    arguments = inspect.signature(kind).parameters.values()
    return frozenset(p.name for p in arguments if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))


def _check_state(
    optimizer: FastOptimizer, where: str, state: object, param: Tensor, names: Sequence[str]
) -> None:
    """Check the saved state of a parameter that has arrays of these names, besides users' entries."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{where} must be a dict, not {shown(state)}")
    if not state or is_lazy(param):
        return
    of_settings = () if optimizer._has_fixed_states else _OF_SETTINGS
    more = [name for name in of_settings if _OF_SETTINGS[name] in optimizer.defaults]
    arrays, counts = {*names, *more}, optimizer._state_counts()
    needed = [name for name in names if name not in (*_OF_OPTIONS, *of_settings)]
    if missing := [name for name in (*needed, *optimizer._counts) if state.get(name) is None]:
        raise _foreign(optimizer, f"its {where} lacks {', '.join(missing)}")
    if optimizer._has_fixed_states:  # another chain's states; of users only what looks like one
        known = *arrays, *counts, *_OF_OPTIONS
        if others := [n for n, v in state.items() if n not in known and _is_state(v, param)]:
            raise _foreign(optimizer, f"its {where} has {', '.join(map(str, others))}")
    for name, value in state.items():
        if name in counts:
            _check_number(f"{where}[{name!r}]", name, value)
        elif name in arrays and value is not None:  # as torch had for a momentum that was off
            _check_array(f"{where}[{name!r}]", name, value, param)


def _is_state(value: object, param: Tensor) -> bool:
    """Whether a value is stored like a state that has a number for each element."""
    if not isinstance(value, Tensor):
        return False
    is_number = value.is_floating_point() or value.is_complex()
    return has_codes(value, param) or (is_number and value.shape == param.shape)


def _check_number(where: str, name: str, value: object) -> None:
    is_tensor = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    if is_sharded(value):
        return
    if not is_tensor and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{where} must be a number, not {shown(value)}")
    count = number(value)
    if name == "step" and not (0.0 <= count < math.inf and count.is_integer()):
        raise ValueError(f"{where} must be a whole number >= 0, got {shown(value)}")


def _check_array(where: str, name: str, value: object, param: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{where} must be a tensor, not {shown(value)}")
    shape = packed_shape(param) if is_packed(value) else param.shape
    if value.shape != shape:
        raise ValueError(
            f"{where} must have the shape {tuple(shape)}, as its parameter has {tuple(param.shape)}, "
            f"not {tuple(value.shape)}"
        )
    is_number = value.is_floating_point() or value.is_complex()
    fits = is_number and value.is_complex() == param.is_complex()
    if name == CORRECTION:
        fits = value.dtype in (torch.int8, torch.int16, torch.int32)
    if not (fits or (is_packed(value) and name != CORRECTION)):
        raise TypeError(f"{where} must not be {value.dtype} for a parameter of {param.dtype}")


def _foreign(optimizer: FastOptimizer, why: str) -> ValueError:
    return ValueError(
        f"state_dict must come from {type(optimizer).__name__}, but {why}: it is another optimizer's"
    )
