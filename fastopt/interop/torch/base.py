"""The base of fastopt's torch optimizers: all but torch's arguments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastopt.arrays.object_layout import identities
from fastopt.executors.threads import get_num_threads, threads
from fastopt.interop.torch.loading import keep_formats, release
from fastopt.interop.torch.options import Added
from fastopt.interop.torch.param_groups import (
    GroupValue,
    ParamGroup,
    chain_of,
    check_constants,
    switches,
)
from fastopt.interop.torch.parameters import Row
from fastopt.interop.torch.plan import Plan
from fastopt.interop.torch.sparse import Sparse
from fastopt.interop.torch.state_formats import TensorFormats, is_packed, numbers
from fastopt.interop.torch.states import complete, count
from fastopt.interop.torch.tensors import check, number
from fastopt.optimizers.named import NamedOptimizer
from fastopt.steps.clipping import GradientStats
from fastopt.transforms.base import Chain
from fastopt.validation import decay_rate, flag, positive

# Under its present name or its former one.
_torchs_check: Any = getattr(
    torch.optim.Optimizer,
    "_accelerator_graph_capture_health_check",
    getattr(torch.optim.Optimizer, "_cuda_graph_capture_health_check", None),
)


class FastOptimizer(torch.optim.Optimizer):
    """In front of one of torch's optimizers, it replaces ``step`` and adds arguments.

    Arguments, defaults, errors, param groups and checkpoints stay torch's own. What a step works on is
    found once and kept, as a `Plan`; each step sees whether it still holds.
    """

    _optimizer: ClassVar[type[NamedOptimizer]]
    _counts: ClassVar[dict[str, float]] = {"step": 0.0}
    _sparse: ClassVar[tuple[Sparse, ...]] = ()  # one, where torch has it
    _step_supports_amp_scaling = True  # what GradScaler asks for

    _is_made = False
    _plan: Plan | None = None
    _on_cuda: bool | None = None  # whether any parameter is; None before the first check
    _captured: list[Plan]  # what graphs work on: kept as long as the optimizer

    def __init__(
        self,
        params: Any,
        theirs: dict[str, Any],
        *,
        clip_norm: float | None = None,
        average_decay: float | None = None,
        state_dtype: Any = None,
        stochastic_rounding: bool | None = None,
    ) -> None:
        if clip_norm is not None:
            positive("clip_norm", clip_norm)
        if average_decay is not None:
            decay_rate("average_decay", average_decay)
        if stochastic_rounding is not None:
            flag("stochastic_rounding", stochastic_rounding)
        TensorFormats(state_dtype)  # or raise
        self.clip_norm = clip_norm
        self.average_decay = average_decay
        self.state_dtype = state_dtype
        self.stochastic_rounding = stochastic_rounding
        super().__init__(params, **theirs)
        chains, _ = self._check_groups()
        for group, chain in zip(self.param_groups, chains, strict=True):
            check_constants(group, chain)
        self._captured = []
        self._is_made = True

    def __getstate__(self) -> dict[str, Any]:
        names = *Added.__annotations__, "_is_made"
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for param, own in state.get("state", {}).items():
            release(own, param)
        super().__setstate__(state)
        self.__dict__.setdefault("_captured", [])  # torch loads checkpoints with this too

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add parameters, with settings of their own."""
        super().add_param_group(param_group)
        if self._is_made:
            try:
                made = self._check_group(len(self.param_groups) - 1, TensorFormats(self.state_dtype))
                check_constants(self.param_groups[-1], made)
            except BaseException:
                self.param_groups.pop()
                raise

    def _check_groups(self) -> tuple[list[Chain], TensorFormats]:
        """The chains of all groups and the formats of states; raises if a setting is invalid."""
        formats = TensorFormats(self.state_dtype)
        chains = [self._check_group(index, formats) for index in range(len(self.param_groups))]
        formats.check_names(chains)
        return chains, formats

    def _check_group(self, index: int, formats: TensorFormats) -> Chain:
        group = self.param_groups[index]
        if group.get("differentiable"):
            raise RuntimeError(
                "differentiable=True is not supported: autograd does not see fastopt's step; "
                "torch.optim has this optimizer with it"
            )
        made = self._chain(group, {})
        for i, param in enumerate(group["params"]):
            formats.check(f"param_groups[{index}]['params'][{i}]", param, made)
        return made

    def _chain(self, group: ParamGroup, products: dict[int, float]) -> Chain:
        average = None if self.average_decay is None else GroupValue(vars(self), "average_decay")
        return chain_of(self._optimizer, group, average, products)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of torch's.

        Parameters
        ----------
        state_dict : dict
            From `state_dict`. States that are stored in another format than `state_dtype` asks for
            change to it in the next step.
        """
        # torch would cast all states to the parameters' dtype. After the user's hooks:
        handle = self.register_load_state_dict_pre_hook(keep_formats)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def decoded(self, param: Tensor) -> dict[str, Any]:
        """The states of a parameter with 8-bit codes decoded to float32 in its shape.

        Parameters
        ----------
        param : Tensor

        Returns
        -------
        dict
            Name -> tensor. What is not of 8 bits is the very state.
        """
        chains = [
            self._chain(group, {})
            for group in self.param_groups
            if any(param is own for own in group["params"])
        ]
        if not chains:
            raise ValueError("param must be one of the optimizer's parameters")
        return {
            name: numbers(name, state, param, chains[0]) if is_packed(state) else state
            for name, state in self.state.get(param, {}).items()
        }

    def decoded_state_dict(self) -> dict[str, Any]:
        """`state_dict` with `decoded` states: a checkpoint that torch's optimizer can load."""
        params = [param for group in self.param_groups for param in group["params"]]
        found: dict[str, Any] = self.state_dict()
        states = {key: self.decoded(params[key]) for key in found["state"]}
        return {**found, "state": states}

    @property
    def last(self) -> GradientStats | None:
        """With `clip_norm`: the norm of the last gradients, before clipping."""
        return self._plan.last if self._plan is not None else None

    @torch._disable_dynamo  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters in place, all of them in one launch.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again, and returns the loss.
        """
        loss = None
        capturing = self._is_capturing()
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # GradScaler leaves them here.
        found_inf, grad_scale = (getattr(self, name, None) for name in ("found_inf", "grad_scale"))
        if capturing and (found_inf is not None or grad_scale is not None):
            raise RuntimeError(
                "a step with a GradScaler cannot be captured in a CUDA graph: the host reads its "
                "scale and at found_inf; capture the passes, and step outside of the graph"
            )
        if found_inf is None or number(found_inf) == 0.0:
            with torch.no_grad():
                self._step(1.0 if grad_scale is None else number(grad_scale), capturing)
        return loss

    def _is_capturing(self) -> bool:
        """Whether a CUDA graph is being captured on torch's current stream; raises if it cannot be."""
        if self._on_cuda is None:
            self._on_cuda = any(param.is_cuda for g in self.param_groups for param in g["params"])
        if not self._on_cuda:
            return False
        capturable = [bool(group.get("capturable")) for group in self.param_groups]
        if all(capturable):  # torch warns once where there is no capture
            _torchs_check(self)
        capturing: bool = torch.cuda.is_current_stream_capturing()
        if capturing and not all(capturable):
            raise RuntimeError(
                f"a step of {type(self).__name__} cannot be captured in a CUDA graph without "
                "capturable=True in all param_groups, which SGD and Adagrad do not have"
            )
        return capturing

    def _step(self, grad_scale: float, capturing: bool) -> None:
        plan = self._plan
        if plan is None or plan.key != self._key() or not plan.is_current(self.state):
            if capturing:
                raise RuntimeError(
                    "a step can be captured in a CUDA graph only after one with the same parameters "
                    "and settings, which makes what it needs: take a step, then capture the next"
                )
            plan = self._make_plan()
        if capturing and plan not in self._captured:
            self._captured.append(plan)
        found = plan.gradients()
        if found is None:  # one of them has become sparse
            plan = self._make_plan()
            found = plan.gradients() or []
        allowed = torch.get_num_threads()
        with threads(allowed) if allowed < get_num_threads() else nullcontext():
            plan.step(found, grad_scale, self.clip_norm)
        for group, chain, param in plan.sparse:
            if param.grad is not None:
                self._step_sparse(group, chain, param, grad_scale)

    def _key(self) -> Any:
        """A key of all that a plan depends on: groups, parameters, and options of chains."""
        return (
            [
                (id(group), bool(group.get("capturable")), *switches(self._optimizer, group))
                for group in self.param_groups
            ],
            [identities(group["params"]) for group in self.param_groups],
            self.clip_norm is None,
            self.average_decay is None,
            self.state_dtype,
            self.stochastic_rounding,
        )

    def _make_plan(self) -> Plan:
        """Build the plan of the current parameters, and create missing states."""
        chains, formats = self._check_groups()
        self._on_cuda = None
        if self._plan is not None:
            self._plan.note_fresh()
        before = {} if self._plan is None else {id(row.param): row for row in self._plan.rows}
        taken: list[tuple[int, Tensor]] = []
        sparse: list[tuple[ParamGroup, Chain, Tensor]] = []
        others: list[Tensor] = []
        for index, group in enumerate(self.param_groups):
            wanted = {*self._counts, *chains[index].states()}
            for i, param in enumerate(group["params"]):
                grad = param.grad
                if grad is not None:
                    self._check_param(f"param_groups[{index}]['params'][{i}]", group, param)
                elif id(param) not in before or not wanted <= self.state.get(param, {}).keys():
                    others.append(param)
                    continue
                if grad is not None and grad.is_sparse:
                    sparse.append((group, chains[index], param))
                else:
                    taken.append((index, param))
        places = list(dict.fromkeys(str(param.device) for _, param in taken))
        if self.clip_norm is not None and len(places) > 1:
            raise ValueError(
                f"clip_norm must be None for parameters on several devices, which are {places}: no "
                "device sees the norm of all gradients"
            )
        capturable = {bool(self.param_groups[index].get("capturable")) for index, _ in taken}
        if self.clip_norm is not None and len(capturable) > 1:
            raise ValueError(
                "clip_norm must be None where some param_groups are capturable and some are not: they "
                "are stepped apart"
            )
        rows = [
            self._make_row(index, param, chains[index], formats, before.get(id(param)))
            for index, param in taken
        ]
        self._plan = Plan(
            self._key(),
            rows,
            sparse,
            others,
            self.state,
            self.param_groups,
            self._chain,
            self.clip_norm,
            self.stochastic_rounding,
            taken=0 if self._plan is None else self._plan.taken,
        )
        return self._plan

    def _check_param(self, name: str, group: ParamGroup, param: Tensor) -> None:
        check(name, param)
        if group.get("capturable") and param.device.type == "cpu":
            raise AssertionError(  # as torch does
                f"capturable=True needs parameters on devices with graphs, but {name} is on the CPU"
            )
        if group.get("fused") and not param.is_floating_point():
            raise RuntimeError(
                f"fused=True needs floating-point parameters, but {name} is {param.dtype}"
            )
        if param.grad is None or not param.grad.is_sparse:
            return
        if not self._sparse:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
        added = ("clip_norm", "average_decay", "state_dtype")
        if any(getattr(self, option) is not None for option in added):
            raise RuntimeError(f"{', '.join(added)} need dense gradients, but that of {name} is sparse")

    def _make_row(
        self, index: int, param: Tensor, chain: Chain, formats: TensorFormats, before: Row | None
    ) -> Row:
        group, names, fresh = self.param_groups[index], tuple(chain.states()), False
        # As in torch, a parameter without states has no entry at all.
        state = self.state[param] if self._counts or names else {}
        if "momentum_buffer" in names and not self._counts:
            known = state.get("momentum_buffer")
            fresh = known is None or (before is not None and before.is_fresh(known))
        count(state, param, group, self._counts)
        complete(state, param, group, chain, formats)
        return Row(param, index, state, names, fresh, bool(group.get("capturable")))

    def _step_sparse(self, group: ParamGroup, chain: Chain, param: Tensor, grad_scale: float) -> None:
        grad = param.grad if grad_scale == 1.0 else param.grad * (1.0 / grad_scale)
        state = self.state[param] if self._counts or group["momentum"] else {}
        if self._counts:  # SGD's momentum is sparse too, and torch's to make
            count(state, param, group, self._counts)
            complete(state, param, group, chain, TensorFormats(None))
        for step in self._sparse:
            step(group, state, param, grad)
