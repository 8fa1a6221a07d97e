"""The hyperparameters of torch's param groups as settings of fastopt's optimizers."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor, complex128, float64

from fastopt.optimizers.automatic import auto, held, is_automatic
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.transforms.adam import nadam_numbers
from fastopt.transforms.base import Chain, Transform, chain
from fastopt.transforms.moments import nadam_momentum
from fastopt.transforms.schedule_free import schedule_free, schedule_free_update
from fastopt.validation import (
    CurrentValue,
    DeviceScalar,
    Hyper,
    at,
    check_rounded,
    decay_rate,
    flag,
    if_above,
    nonnegative,
    shown,
)

ParamGroup = dict[str, Any]
Rate: TypeAlias = float | Tensor | Literal["auto"] | auto

# What is left out of the chain, and not only multiplied by zero, where it is zero.
PARTS = ("weight_decay", "momentum", "dampening", "lr_decay")
# Entry of a group: whether its rate is found during the steps. Its `lr` is then a factor.
AUTOMATIC_LR = "automatic_lr"
PAIRS = ("betas", "etas", "step_sizes")
FLAGS = ("centered", "nesterov", "amsgrad", "decoupled_weight_decay", "maximize")
# What torch adds to the groups of checkpoints from before these entries.
FILLED_IN = *FLAGS, "momentum", "foreach", "fused", "capturable", "differentiable"


class GroupValue(CurrentValue):
    """The current value of an entry of a param group."""

    def __init__(self, group: Mapping[str, Any], name: str, index: int | None = None) -> None:
        self._group, self._name, self._index = group, name, index

    def __call__(self, step: Any) -> Any:
        value = self._group[self._name]
        try:
            number = value if self._index is None else value[self._index]
        except (TypeError, IndexError) as error:
            name = f"{self._name} of a param group"
            raise TypeError(f"{name} must be a pair of numbers, not {shown(value)}") from error
        if type(number) is float and type(step) is int:  # instances of abstract classes take 0.3 us
            return number
        try:
            return step.operand(number) if isinstance(step, DeviceScalar) else float(number)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.label} must be a number, not {shown(number)}") from error

    @property
    def label(self) -> str:
        entry = self._name if self._index is None else f"{self._name}[{self._index}]"
        return f"{entry} of a param group"


def rate_of(group: ParamGroup, lr: Any) -> object:
    """The setting `lr`: the group's number, or one that is multiplied on the automatic rate.

    Where `AUTOMATIC_LR` is False the number is in the place of the automatic rate, which waits.
    """
    if AUTOMATIC_LR not in group:
        return lr
    is_on = flag(f"{AUTOMATIC_LR} of a param group", group[AUTOMATIC_LR])
    return auto(lr) if is_on else held(lr)


def take_rate(group: ParamGroup, usual: bool) -> None:
    """Replace an automatic learning rate in a new group by its factor, and note that it is one.

    `usual` says whether that of the optimizer is, which a group without ``lr`` has.

    Raises
    ------
    TypeError
        Its factor is a schedule: schedulers of torch assign numbers.
    """
    lr = group.get("lr", 1.0)
    if not is_automatic(lr):
        if usual and "lr" not in group:
            group.setdefault(AUTOMATIC_LR, True)
        return
    group["lr"] = factor_of(lr)
    group.setdefault(AUTOMATIC_LR, True)


def check_rate(lr: object) -> None:
    """Raise TypeError for what torch compares with a number, and cannot."""
    if callable(lr):
        raise TypeError(
            f"lr must not be a schedule, as {shown(lr)} is: use a scheduler of torch, or assign "
            "param_groups[i]['lr']"
        )
    if lr is None or isinstance(lr, str):
        raise TypeError(f"lr must be a number, a tensor, 'auto' or fastopt.auto(factor), not {lr!r}")


def factor_of(lr: object) -> object:
    """What is multiplied on an automatic learning rate."""
    factor = lr.factor if isinstance(lr, auto) else 1.0
    if callable(factor):
        raise TypeError(
            f"the factor of an automatic lr must be a number, not {shown(factor)}: use a scheduler "
            "of torch, which assigns param_groups[i]['lr']"
        )
    return factor


@cache
def names(optimizer: str) -> tuple[str, ...]:
    """The entries of a param group that affect the computation."""
    parameters = inspect.signature(DIALECTS[optimizer]["torch"]).parameters
    # Where a sum starts is seen to when it is made. Adam's dialect is that of its first years.
    return (
        *(name for name in parameters if name != "initial_accumulator_value"),
        "decoupled_weight_decay",
    )


def switches(optimizer: type[NamedOptimizer], group: ParamGroup) -> tuple[object, ...]:
    """The entries that decide which transforms a chain has."""
    entries = map(group.get, _switches(optimizer.__name__))
    return (*map(bool, entries), group.get(AUTOMATIC_LR))


@cache
def _switches(optimizer: str) -> list[str]:
    return [name for name in (*PARTS, *FLAGS) if name in names(optimizer)]


def chain_of(
    optimizer: type[NamedOptimizer],
    group: ParamGroup,
    products: Mapping[int, Any],
    added: Mapping[str, Any],
) -> Chain:
    """The chain of a group, with hyperparameters that are read from it at every step.

    `products` has NAdam's products of momenta, step -> of all steps up to that one; or ASGD's rate and
    share in the average, step -> of that one. `added` are fastopt's options for chains.

    Raises
    ------
    ValueError
        A number is outside of its range.
    """
    settings: dict[str, Any] = {}
    for name in names(optimizer.__name__):
        if name in PAIRS:
            settings[name] = GroupValue(group, name, 0), GroupValue(group, name, 1)
        elif name == "lr" and optimizer.lr.fixed:  # where a state starts
            settings[name] = rate_of(group, float(group[name]))
        elif name == "lr":
            settings[name] = rate_of(group, GroupValue(group, name))
        elif name in FLAGS:
            if name in group:
                settings[name] = bool(group[name])
        elif name in PARTS and not group[name]:
            settings[name] = 0.0
        else:
            settings[name] = GroupValue(group, name)
    nothing = np.zeros(0, np.float32)
    template = optimizer.like("torch", nothing, executor="reference", **added, **settings)
    parts = [_with_products(part, group, products) for part in template.chain]
    return with_equal_weights(parts, added["schedule_free"])


def with_equal_weights(parts: Iterable[Transform], beta: float | None) -> Chain:
    """A chain of these, in which that of the option `schedule_free` gives each step the same weight.

    Weights by learning rates would need those of all steps so far, which a param group does not keep.
    """
    return chain(
        *(
            part if beta is None or part.update is not schedule_free_update else schedule_free(beta)
            for part in parts
        )
    )


def check_constants(group: ParamGroup, chain: Chain) -> None:
    """Check that no number of a new group vanishes in the dtype of the arithmetic.

    Those that are assigned later may be a scheduler's, which decays to zero.

    Raises
    ------
    ValueError
        It names the setting.
    """
    wide = float64, complex128
    for dtype in {np.dtype(np.float64 if p.dtype in wide else np.float32) for p in group["params"]}:
        for part in chain:
            for name, (rule, value) in part.settings.items():
                check_rounded(name, at(value, 0), dtype, rule)


def _with_products(part: Transform, group: ParamGroup, products: Mapping[int, Any]) -> Transform:
    """NAdam's transform with torch's product of the momenta so far, ASGD's with what torch has ahead.

    fastopt's own compute them from the current settings.
    """
    if "t0" in group:
        which = 1 if part.name == "even_average_update" else 0 if "lr" in part.settings else None
        if which is None:
            return part

        def ahead(step: int) -> Hyper:
            known = products.get(step)
            return part.hyper_at(step) if known is None else (known[which],)

        return replace(part, hyper=ahead)
    if part.name != "nadam_update":
        return part
    first, second = (decay_rate(f"betas[{i}]", GroupValue(group, "betas", i)) for i in (0, 1))
    eps = nonnegative("eps", GroupValue(group, "eps"))

    def hyper(step: int) -> Hyper:
        now, ahead = nadam_momentum_of(group, step), nadam_momentum_of(group, step + 1)
        product = products.get(step, now)
        return nadam_numbers(
            step, at(first, step), at(second, step), at(eps, step), now, ahead, product
        )

    return replace(part, hyper=hyper)


def asgd_ahead(group: ParamGroup, steps: Any) -> tuple[Any, Any]:
    """ASGD's rate and share in the average for the step after so many."""
    lr, lambd, alpha, t0 = (
        at(nonnegative(name, GroupValue(group, name)), steps) for name in ("lr", "lambd", "alpha", "t0")
    )
    share = if_above(steps - t0, 1.0, lambda: 1.0 / (steps - t0), 1.0)
    return lr / (1.0 + lambd * lr * steps) ** alpha, share


def nadam_momentum_of(group: ParamGroup, step: int) -> float:
    """NAdam's momentum at step 0, 1, ..."""
    decay = at(nonnegative("momentum_decay", GroupValue(group, "momentum_decay")), step)
    return nadam_momentum(float(group["betas"][0]), decay, step)
