"""The base of fastopt's torch optimizers: all but torch's arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fastopt.interop.torch.averages import Averaged
from fastopt.interop.torch.capture import check_unscaled, is_capturing
from fastopt.interop.torch.carried import CARRIED, check_places, check_stats, with_sums
from fastopt.interop.torch.gradient_mode import call_recorded
from fastopt.interop.torch.hooks import hooked
from fastopt.interop.torch.loading import check_is_dict, keep_formats, release
from fastopt.interop.torch.master_weights import (
    as_float32,
    complete_correction,
    exchangeable,
    load_float32,
    split_params,
)
from fastopt.interop.torch.options import OPTIONS, check_entries, unknown_arguments
from fastopt.interop.torch.param_groups import (
    AUTOMATIC_LR,
    FILLED_IN,
    ParamGroup,
    check_constants,
    check_rate,
    factor_of,
    take_rate,
)
from fastopt.interop.torch.planner import Planner, key_of
from fastopt.interop.torch.reported import Reported
from fastopt.interop.torch.shards import is_sharded
from fastopt.interop.torch.sparse import Sparse
from fastopt.interop.torch.state_formats import TensorFormats, decoded, is_correction
from fastopt.interop.torch.states import check_state_names
from fastopt.interop.torch.tensors import Params, State, StateDict, number
from fastopt.kernels.job import CORRECTION
from fastopt.optimizers.automatic import current_rate_of, is_automatic
from fastopt.text import name_methods_as
from fastopt.transforms.base import Chain

if TYPE_CHECKING:
    from fastopt.interop.torch.backward_steps import BackwardSteps
    from fastopt.interop.torch.plan import Plan

# By this GradScaler knows that a step unscales gradients; without it GradScaler does so before.
_SCALES = "_step_supports_amp_scaling"

_DENSE = "clip_norm", "average_decay", "schedule_free", "state_dtype", "master_bits"


class FastOptimizer(Reported, Averaged):
    """In front of one of torch's optimizers, it replaces ``step`` and adds arguments.

    Arguments, defaults, errors, param groups and checkpoints stay torch's own. What a step works on is
    found once and kept, as a `Plan`; each step sees whether it still holds (`Planner`).
    """

    _sparse: ClassVar[tuple[Sparse, ...]] = ()  # one, where torch has it
    _has_fixed_states: ClassVar[bool] = False  # whatever the settings of param groups are

    _kept: ClassVar[tuple[str, ...]] = ("_is_made", "_stats", "_has_automatic_lr")
    _filled_in: ClassVar[tuple[str, ...]] = FILLED_IN
    _backward: BackwardSteps | None = None  # with `step_in_backward`
    _on_cuda: bool | None = None  # whether any parameter is; None before the first check

    def __init__(
        self,
        params: Params,
        arguments: dict[str, Any],
        *,
        clip_norm: float | None = None,
        average_decay: float | None = None,
        schedule_free: float | None = None,
        stats: Sequence[str] = (),
        state_dtype: Any = None,
        stochastic_rounding: bool | None = None,
        master_bits: int | None = None,
        fused: bool | None = None,
        **unknown: object,
    ) -> None:
        """`fused` is given where torch has no such argument."""
        if unknown:
            raise unknown_arguments(type(self), unknown, dict.fromkeys([*arguments, "fused"]))
        if fused and arguments.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")  # as torch does
        self._has_automatic_lr = is_automatic(arguments.get("lr"))
        if self._has_automatic_lr:
            arguments["lr"] = factor_of(arguments["lr"])
        check_rate(arguments.get("lr"))
        TensorFormats(state_dtype, master_bits)  # or raise
        self._stats = stats
        self.clip_norm = clip_norm
        self.average_decay = average_decay
        self.schedule_free = schedule_free
        self.state_dtype = state_dtype
        self.stochastic_rounding = stochastic_rounding
        self.master_bits = master_bits
        self._make_torchs(params, arguments)
        if fused:
            self.defaults["fused"] = True
            for group in self.param_groups:
                group.setdefault("fused", True)
            setattr(self, _SCALES, True)
        chains, formats = self._check_groups()
        check_stats(stats, chains)
        formats.check_split(param for group in self.param_groups for param in group["params"])
        for group, chain in zip(self.param_groups, chains, strict=True):
            check_constants(group, chain)
        self._planner = Planner()
        self._is_made = True

    def _make_torchs(self, params: Params, arguments: dict[str, object]) -> None:
        """What torch makes of its arguments."""
        super().__init__(params, **arguments)

    def __getstate__(self) -> dict[str, object]:
        self._check_not_exchanged()
        self._save_carried()
        names = *OPTIONS, *self._kept
        scales = {_SCALES: True} if hasattr(self, _SCALES) else {}
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}, **scales}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for param, state_of_param in state.get("state", {}).items():
            release(state_of_param, param)
        super().__setstate__(state)
        self.__dict__.setdefault("_planner", Planner())  # torch loads checkpoints with this too

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add parameters, with settings of their own."""
        if isinstance(param_group, dict):  # or torch says so
            take_rate(param_group, self._has_automatic_lr)
            check_rate(param_group.get("lr", 0.0))
            check_entries(param_group, self.defaults)
        super().add_param_group(param_group)
        if self._is_made:
            try:
                chain = self._check_groups()[0][-1]
                check_stats(self._stats, [chain, *(self._chain(g, {}) for g in self.param_groups[:-1])])
                check_constants(self.param_groups[-1], chain)
                if self._backward is not None:
                    self._backward.attach()
            except BaseException:
                self.param_groups.pop()
                raise

    def remove_hooks(self) -> None:
        """With `step_in_backward`: step in ``step`` from now on, from gradients that are kept."""
        if self._backward is not None:
            self._save_carried()
            self._backward.detach()
            self._backward = None

    def _check_groups(self) -> tuple[list[Chain], TensorFormats]:
        """The chains of all groups and the formats of states; raises if a setting is invalid."""
        formats = self._formats()
        chains = [self._check_group(index, formats) for index in range(len(self.param_groups))]
        formats.check_names(chains)
        check_places(self.param_groups, chains, self._stats)
        return chains, formats

    def _formats(self) -> TensorFormats:
        return TensorFormats(self.state_dtype, self.master_bits)

    def _check_group(self, index: int, formats: TensorFormats) -> Chain:
        group = self.param_groups[index]
        if group.get("differentiable"):
            raise RuntimeError(
                "differentiable=True is not supported: autograd does not see fastopt's step; "
                "torch.optim has this optimizer with it"
            )
        chain = self._chain(group, {})
        check_state_names(chain, self._state_counts())
        for i, param in enumerate(group["params"]):
            formats.check(f"param_groups[{index}]['params'][{i}]", param, chain)
        return chain

    def _build_options(self) -> dict[str, Any]:
        """The options of `steps.build.build`."""
        names = "clip_norm", "stochastic_rounding", "master_bits"
        return {"stats": self._stats, **{name: getattr(self, name) for name in names}}

    def _needs_dense(self, group: ParamGroup) -> str | None:
        """The option that sparse gradients cannot be stepped with, if there is one."""
        if group.get(AUTOMATIC_LR) is not None:
            return "lr='auto'"
        if self._stats:
            return "stats"
        return next((name for name in _DENSE if getattr(self, name) is not None), None)

    def _save_carried(self) -> None:
        """Put numbers that go from step to step into param groups and states."""
        for plan in self._plans():
            plan.save_carried()

    def _plans(self) -> list[Plan]:
        """The plans of the last steps: of all parameters, or of those that are stepped together."""
        planners = [self._planner, *(() if self._backward is None else self._backward.planners())]
        return [planner.plan for planner in planners if planner.plan is not None]

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group in the last step, automatic ones included.

        Returns
        -------
        list of float
            NaN for an automatic rate before the first step.

        Examples
        --------
        >>> import torch
        >>> from fastopt.interop.torch import RMSprop
        >>> w = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = RMSprop([w], lr="auto")
        >>> w.sum().backward()
        >>> optimizer.step()
        >>> optimizer.get_last_lr()  # 1e-4 * (1 + the size of w) at first
        [0.0002]
        """
        self._save_carried()
        return [
            current_rate_of(with_sums(self._chain(group, {})), group.get(CARRIED, ()))
            if group.get(AUTOMATIC_LR)
            else number(group["lr"])
            for group in self.param_groups
        ]

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a checkpoint of this optimizer or of torch's.

        Parameters
        ----------
        state_dict : dict
            From `state_dict`. States that are stored in another format than `state_dtype` asks for
            change to it in the next step.

        Raises
        ------
        TypeError, ValueError
            It is of another class, with other settings or states, or of parameters of other shapes.
            Nothing was changed.
        """
        check_is_dict(state_dict)
        # torch would cast all states to the parameters' dtype. After the user's hooks:
        handle = self.register_load_state_dict_pre_hook(keep_formats)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        for plan in self._plans():
            plan.forget_stats()

    def decoded(self, param: Tensor) -> State:
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
            if any(param is each for each in group["params"])
        ]
        if not chains:
            raise ValueError("param must be one of the optimizer's parameters")
        return decoded(self.state.get(param, {}), param, chains[0])

    def state_dict(self) -> StateDict:
        """As torch's. Of sharded parameters, states are in formats that can be gathered.

        States of 8 bits are decoded, since blocks follow the shards, and corrections of 16 bits are
        in int32, since processes cannot exchange int16.
        """
        self._save_carried()
        saved: StateDict = super().state_dict()
        for key, param in self._saved_params(saved):
            if is_sharded(param):
                saved["state"][key] = exchangeable(self.decoded(param))
        return saved

    def _saved_params(self, saved: StateDict) -> Iterator[tuple[int, Tensor]]:
        """Each parameter with states, and its key; users may have put something under other keys."""
        params = (param for group in self.param_groups for param in group["params"])
        return ((key, param) for key, param in enumerate(params) if key in saved["state"])

    def decoded_state_dict(self) -> StateDict:
        """`state_dict` with `decoded` states: a checkpoint that torch's optimizer can load."""
        saved: StateDict = self.state_dict()
        for key, param in self._saved_params(saved):
            saved["state"][key] = state = self.decoded(param)
            if is_correction(state.get(CORRECTION), param):
                del state[CORRECTION]
        return saved

    def master_state_dict(self, model: torch.nn.Module) -> StateDict:
        """The state dict of a model with float32 parameters, corrections of `master_bits` included.

        Parameters
        ----------
        model : torch.nn.Module
            Whose parameters of 16 bits are this optimizer's, or some of them.

        Returns
        -------
        dict
            That of ``model.state_dict()``, with copies of float32 for parameters that have corrections.
        """
        state_dict = dict(model.state_dict())
        as_float32(state_dict, split_params(model, self.param_groups, self._formats()), self.state)
        return state_dict

    def load_master_state_dict(
        self, model: torch.nn.Module, state_dict: Mapping[str, object], strict: bool = True
    ) -> Any:
        """Load a state dict of float32 into a model and the corrections of its parameters.

        Parameters
        ----------
        model : torch.nn.Module
            Whose parameters of 16 bits are this optimizer's, or some of them.
        state_dict : dict
            From `master_state_dict`, or of any model of the same form.
        strict : bool, default True
            As for ``model.load_state_dict``, whose result is returned.
        """
        formats = self._formats()
        result = model.load_state_dict(state_dict, strict)

        def correction(param: Tensor) -> Tensor:
            complete_correction(self.state[param], param, formats.correction(param))
            state: Tensor = self.state[param][CORRECTION]
            return state

        load_float32(state_dict, split_params(model, self.param_groups, formats), correction)
        return result

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters in place, all of them in one launch.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again, and returns the loss.
        """
        if self._backward is not None:
            self._backward.end(closure)
            return None
        loss = None
        capturing = is_capturing(self)
        if closure is not None:
            loss = call_recorded(True, closure)
        # GradScaler leaves them here.
        found_inf, grad_scale = (getattr(self, name, None) for name in ("found_inf", "grad_scale"))
        if capturing:
            check_unscaled(found_inf, grad_scale)
        if found_inf is None or number(found_inf) == 0.0:
            scale = 1.0 if grad_scale is None else number(grad_scale)
            self._planner.step(self, key_of(self), scale, capturing)
        return loss


name_methods_as("Optimizer", Reported, Averaged, FastOptimizer)
