"""Finds what a step works on and keeps it as a plan, for all parameters or for some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastopt.arrays.object_layout import identities
from fastopt.executors.threads import get_num_threads, threads
from fastopt.interop.torch.gradient_mode import call_recorded
from fastopt.interop.torch.param_groups import ParamGroup
from fastopt.interop.torch.parameters import Row
from fastopt.interop.torch.plan import Plan
from fastopt.interop.torch.shards import Across, first_element, is_sharded
from fastopt.interop.torch.state_formats import TensorFormats
from fastopt.interop.torch.states import check_shapes, complete, count
from fastopt.interop.torch.tensors import check, check_is_run
from fastopt.transforms.base import Chain

if TYPE_CHECKING:
    from fastopt.interop.torch.base import FastOptimizer


_FLAGS = "capturable", "differentiable"


def key_of(optimizer: FastOptimizer) -> object:
    """A key of all that a plan depends on: groups, parameters, and options of chains."""
    return (
        [
            (id(group), *map(bool, map(group.get, _FLAGS)), *optimizer._switches(group))
            for group in optimizer.param_groups
        ],
        [identities(group["params"]) for group in optimizer.param_groups],
        optimizer.clip_norm is None,
        optimizer.average_decay is None,
        optimizer.schedule_free,
        optimizer.state_dtype,
        optimizer.stochastic_rounding,
        optimizer.master_bits,
    )


def first_elements(groups: list[ParamGroup]) -> dict[int, int]:
    """The index of the first element of each parameter, by its `id`, among those of one launch."""
    firsts: dict[int, int] = {}
    counts: dict[object, int] = {}
    for group in groups:
        for param in group["params"]:
            launch = param.device, bool(group.get("capturable"))
            firsts[id(param)] = counts.get(launch, 0)
            numbers = param.numel() * (1 + param.is_complex()) * param.requires_grad
            counts[launch] = firsts[id(param)] + numbers
    return firsts


class Planner:
    """Steps parameters of an optimizer, by a plan that is made anew when it does not hold any more.

    The optimizer comes as an argument: a reference to it would make a cycle, and keep memory longer.

    Parameters
    ----------
    members : mapping, optional
        The parameters by their `id`, with the index of the first element of each among those of all
        parameters, on which random bits depend; by default all parameters.

    Attributes
    ----------
    plan : Plan, optional
        That of the last step.
    captured : list of Plan
        What graphs work on: kept as long as the optimizer.
    """

    plan: Plan | None = None

    def __init__(self, members: Mapping[int, int] | None = None) -> None:
        self._members = members
        self.captured: list[Plan] = []

    def step(self, optimizer: FastOptimizer, key: object, grad_scale: float, capturing: bool) -> None:
        """Step the parameters that have a gradient; `key` is the optimizer's `key_of` now."""
        call_recorded(False, self._step, optimizer, key, grad_scale, capturing)

    def _step(self, optimizer: FastOptimizer, key: object, grad_scale: float, capturing: bool) -> None:
        check_is_run()
        optimizer._check_not_exchanged()
        plan = self.plan
        if plan is None or plan.key != key or not plan.is_current(optimizer.state):
            if capturing:
                raise RuntimeError(
                    "a step can be captured in a CUDA graph only after one with the same parameters "
                    "and settings, which makes what it needs: take a step, then capture the next"
                )
            plan = self._make_plan(optimizer, key)
        if capturing and plan not in self.captured:
            self.captured.append(plan)
        grads = plan.gradients()
        if grads is None:  # one of them has become sparse
            plan = self._make_plan(optimizer, key)
            grads = plan.gradients() or []
        allowed = torch.get_num_threads()
        if allowed < get_num_threads():
            with threads(allowed):
                plan.step(grads, grad_scale, optimizer.clip_norm)
        else:
            plan.step(grads, grad_scale, optimizer.clip_norm)
        for group, chain, param in plan.sparse:
            if param.grad is not None:
                _step_sparse(optimizer, group, chain, param, grad_scale)

    def _make_plan(self, optimizer: FastOptimizer, key: object) -> Plan:
        """Build the plan of the current parameters, and create missing states."""
        chains, formats = optimizer._check_groups()
        optimizer._on_cuda = None
        if self.plan is not None:
            self.plan.note_fresh()
            self.plan.save_carried()
        old_rows = {} if self.plan is None else {id(row.param): row for row in self.plan.rows}
        groups, members, scalars = optimizer.param_groups, self._members, optimizer._state_counts()
        stepped: list[tuple[int, Tensor]] = []
        sparse: list[tuple[ParamGroup, Chain, Tensor]] = []
        others: list[Tensor] = []
        for index, group in enumerate(groups):
            for i, param in enumerate(group["params"]):
                if members is not None and id(param) not in members:
                    continue
                grad, name = param.grad, f"param_groups[{index}]['params'][{i}]"
                state, names = optimizer.state.get(param, {}), formats.names(chains[index], param)
                if grad is not None:
                    _check_param(optimizer, name, group, param)
                elif id(param) not in old_rows or not {*scalars, *names} <= state.keys():
                    others.append(param)
                    continue
                check_shapes(name, param, state, names)
                if grad is not None and grad.is_sparse:
                    sparse.append((group, chains[index], param))
                else:
                    stepped.append((index, param))
        places = list(dict.fromkeys(str(param.device) for _, param in stepped))
        if optimizer.clip_norm is not None and len(places) > 1:
            raise ValueError(
                f"clip_norm must be None for parameters on several devices, which are {places}: no "
                "device sees the norm of all gradients"
            )
        capturable = {bool(groups[index].get("capturable")) for index, _ in stepped}
        if optimizer.clip_norm is not None and len(capturable) > 1:
            raise ValueError(
                "clip_norm must be None where some param_groups are capturable and some are not: they "
                "are stepped apart"
            )
        firsts, across = members, None
        if any(is_sharded(param) for _, param in stepped):
            if firsts is None:  # what all processes agree on
                firsts = first_elements(groups)
            if optimizer.clip_norm is not None:
                across = Across(param for _, param in stepped)
        rows = [
            self._make_row(
                optimizer, index, param, chains[index], formats, old_rows.get(id(param)), firsts
            )
            for index, param in stepped
        ]
        self.plan = Plan(
            key,
            rows,
            sparse,
            others,
            optimizer.state,
            groups,
            optimizer._chain,
            across,
            optimizer._build_options(),
            previous=self.plan,
            is_whole=members is None,
        )
        return self.plan

    def _make_row(
        self,
        optimizer: FastOptimizer,
        index: int,
        param: Tensor,
        chain: Chain,
        formats: TensorFormats,
        old_row: Row | None,
        firsts: Mapping[int, int] | None,
    ) -> Row:
        group, names, fresh = optimizer.param_groups[index], formats.names(chain, param), False
        # As in torch, a parameter without states has no entry at all.
        state = optimizer.state[param] if optimizer._state_counts() or names else {}
        if "momentum_buffer" in names and not optimizer._state_counts():
            buffer = state.get("momentum_buffer")
            fresh = buffer is None or (old_row is not None and old_row.is_fresh(buffer))
        count(state, param, group, optimizer._state_counts())
        complete(state, param, group, chain, formats)
        first = None if firsts is None else firsts[id(param)] + first_element(param)
        scalars, capturable = tuple(optimizer._state_counts()), bool(group.get("capturable"))
        return Row(param, index, state, scalars, names, fresh, capturable, first)


def _check_param(optimizer: FastOptimizer, name: str, group: ParamGroup, param: Tensor) -> None:
    check(name, param)
    if group.get("capturable") and is_sharded(param):
        raise RuntimeError(f"capturable must be False for sharded parameters, and {name} is one")
    if group.get("capturable") and param.device.type == "cpu":
        raise AssertionError(  # as torch does
            f"capturable=True needs parameters on devices with graphs, but {name} is on the CPU"
        )
    if group.get("fused") and not param.is_floating_point():
        raise RuntimeError(f"fused=True needs floating-point parameters, but {name} is {param.dtype}")
    if param.grad is None or not param.grad.is_sparse:
        return
    if not optimizer._sparse:
        raise RuntimeError(f"{type(optimizer).__name__} does not support sparse gradients")
    if (option := optimizer._needs_dense(group)) is not None:
        raise RuntimeError(f"{option} needs dense gradients, but that of {name} is sparse")


def _step_sparse(
    optimizer: FastOptimizer, group: ParamGroup, chain: Chain, param: Tensor, grad_scale: float
) -> None:
    grad = param.grad if grad_scale == 1.0 else param.grad * (1.0 / grad_scale)
    state = optimizer.state[param] if optimizer._state_counts() or group["momentum"] else {}
    if optimizer._state_counts():  # SGD's momentum is sparse too, and torch's to make
        count(state, param, group, optimizer._state_counts())
        complete(state, param, group, chain, TensorFormats(None))
    for step in optimizer._sparse:
        step(group, state, param, grad)
