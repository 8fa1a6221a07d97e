"""fastopt's own optimizers, and chains of transforms, as optimizers of torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fastopt.interop.torch.base import FastOptimizer
from fastopt.interop.torch.options import Added, unknown_arguments
from fastopt.interop.torch.param_groups import (
    AUTOMATIC_LR,
    GroupValue,
    ParamGroup,
    rate_of,
    with_equal_weights,
)
from fastopt.interop.torch.tensors import Params
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, bound, is_number, setting, settings_of
from fastopt.transforms.base import Chain, Transform, as_chain, chain
from fastopt.validation import as_scalar, shown

# Settings of every optimizer that are entries of a param group; the others are options or for arrays.
SHARED = "maximize", "clip_value", "weight_decay", "decoupled_weight_decay", "bounds"


# In the docstrings of subclasses that have no such section.
_PARAMETERS = """\
Parameters
----------
params : iterable of Tensor, of named ones, or of dict
    As torch's optimizers take them.
{names}
    As in `{name}`, where the formulas are.
**added
    See `Added`.
"""


class NativeOptimizer(FastOptimizer):
    """The base of torch optimizers whose settings are those of one of fastopt's classes.

    A subclass names the class, one of fastopt's or one of your own: ::

        class Lion(NativeOptimizer, of=fastopt.Lion):
            pass

    Parameters
    ----------
    params : iterable of Tensor, of named ones, or of dict
        As torch's optimizers take them.
    *settings, **named
        The settings of the class, by its names and with its defaults, as numbers and flags. They are
        entries of ``param_groups`` then, which schedulers and you assign. Those of every optimizer
        are ``maximize``, ``clip_value``, ``weight_decay``, ``decoupled_weight_decay`` and ``bounds``,
        ``(low, high)``. ``lr`` may be "auto" where that class takes it. Beside them stand the options
        of `Added`.
    fused : bool, optional
        True announces to `torch.amp.GradScaler` that the step unscales gradients.

    Raises
    ------
    TypeError
        There is no such setting, or it is not a number where one is needed.
    ValueError
        It is outside of its range.

    Examples
    --------
    >>> import torch, fastopt
    >>> from fastopt import transforms as t
    >>> from fastopt.interop.torch import NativeOptimizer
    >>> class SignedMomentum(fastopt.NamedOptimizer):
    ...     lr: fastopt.Number = fastopt.setting(default=0.1)
    ...     momentum: fastopt.Number = fastopt.setting(default=0.9)
    ...
    ...     def make_parts(self):
    ...         return [t.trace(self.momentum), t.clip_by_value(1.0), *self.decay_and_rate()]
    >>> class Signed(NativeOptimizer, of=SignedMomentum):
    ...     pass
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> optimizer = Signed([w], momentum=0.5)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.detach(), optimizer.param_groups[0]["momentum"]
    (tensor([4.9000]), 0.5)
    """

    _optimizer: ClassVar[type[NamedOptimizer]]
    _filled_in = ("fused",)

    def __init_subclass__(cls, *, of: type[NamedOptimizer] | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if of is None:
            return
        if not (isinstance(of, type) and issubclass(of, NamedOptimizer)):
            raise TypeError(f"of must be a class of a named optimizer, not {of!r}")
        cls._optimizer = of
        parameters = [inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        names, fields = _names(of), settings_of(of)
        parameters += [fields[name].parameter for name in names]
        added = inspect.Parameter("added", inspect.Parameter.VAR_KEYWORD)
        cls.__signature__ = inspect.Signature([*parameters, added])
        if cls.__doc__ and "\nParameters\n" not in (doc := inspect.cleandoc(cls.__doc__)):
            cls.__doc__ = _with_parameters(doc, of, names)

    def __init__(self, params: Params, *settings: Any, fused: bool | None = None, **named: Any) -> None:
        added = {name: named.pop(name) for name in Added.__annotations__ if name in named}
        kind = type(self).__name__
        if not hasattr(self, "_optimizer"):
            raise TypeError(f"{kind} must name a class: class Mine({kind}, of=...)")
        accepted = _names(self._optimizer)
        if unknown := [name for name in named if name not in accepted]:
            raise unknown_arguments(type(self), unknown, [*accepted, "fused"])
        values = bound(self._optimizer, (None, *settings), named)
        super().__init__(params, {"lr": values["lr"], "defaults": values}, fused=fused, **added)

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add parameters, with settings of their own."""
        if isinstance(param_group, dict):
            for name in param_group.keys() & self.defaults.keys():
                _check_plain(name, param_group[name])
            settings = {**self.defaults, **param_group}
            names = _names(self._optimizer)
            self._template(np.zeros(0, np.float32), {name: settings[name] for name in names})
        super().add_param_group(param_group)

    def _make_torchs(self, params: Params, arguments: dict[str, Any]) -> None:
        names = _names(self._optimizer)
        defaults = {name: arguments["defaults"][name] for name in names} | {"lr": arguments["lr"]}
        for name, value in defaults.items():
            _check_plain(name, value)
        super()._make_torchs(params, {"defaults": defaults})

    def _chain(self, group: ParamGroup, products: dict[int, float]) -> Chain:
        fields = settings_of(self._optimizer)
        settings = {name: _setting(group, name, fields[name].fixed) for name in _names(self._optimizer)}
        settings["lr"] = rate_of(group, settings["lr"])
        template = self._template(np.zeros(0, np.float32), {**self._added(), **settings})
        return with_equal_weights(template.chain, self.schedule_free)

    def _template(self, nothing: object, settings: dict[str, Any]) -> NamedOptimizer:
        return self._optimizer(nothing, executor="reference", **settings)

    def _switches(self, group: ParamGroup) -> tuple[object, ...]:
        fields = settings_of(self._optimizer)
        values = ((group[name], fields[name].fixed) for name in _names(self._optimizer))
        on = (bool(v) if _is_number(v) and not is_fixed else v for v, is_fixed in values)
        return (*on, group.get(AUTOMATIC_LR))


class ChainOptimizer(NativeOptimizer):
    """A chain of transforms as an optimizer of torch: fastopt's, your own, with sums or without.

    Parameters
    ----------
    params : iterable of Tensor, of named ones, or of dict
        As torch's optimizers take them.
    transforms : Transform or Chain
        From the gradient to what is subtracted.
    lr : float or "auto", default 1.0
        Multiplied on what the transforms give: for schedulers. Leave the learning rate out of the
        chain. With "auto" it is found during the steps; then no other transform may have sums.
    **named
        As in `NativeOptimizer`: ``weight_decay``, ``clip_value``, ``maximize`` and the like.

    Examples
    --------
    >>> import torch, fastopt
    >>> from fastopt import transforms as t
    >>> from fastopt.interop.torch import ChainOptimizer
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = ChainOptimizer([w], fastopt.chain(t.scale_by_trust_ratio(), t.trace(0.9)), lr=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.detach()
    tensor([2.7000, 3.6000])
    """

    _has_fixed_states = True

    def __init__(
        self, params: Params, transforms: Transform | Chain, lr: Any = 1.0, **named: Any
    ) -> None:
        self._transforms = as_chain(transforms)
        super().__init__(params, lr, **named)

    _kept = (*FastOptimizer._kept, "_transforms")

    def _template(self, nothing: object, settings: dict[str, Any]) -> NamedOptimizer:
        transforms = self._transforms

        class Given(_Chained):
            def make_parts(self) -> list[Transform]:
                early = [part for part in transforms if not part.after]
                late = [part for part in transforms if part.after]
                return [*early, *self.decay_and_rate(), *late]

        return Given(nothing, executor="reference", **settings)


class _Chained(NamedOptimizer):
    """The settings of `ChainOptimizer`."""

    __slots__ = ()

    lr: Number = setting(default=1.0)
    decoupled_weight_decay: Flag = setting(default=False, kw_only=True)

    def make_parts(self) -> list[Transform]:
        return list(chain(*self.decay_and_rate()))


ChainOptimizer._optimizer = _Chained


def _names(kind: type[NamedOptimizer]) -> tuple[str, ...]:
    """The settings that are entries of param groups."""
    fields = settings_of(kind).items()
    return tuple(name for name, field in fields if not field.shared or name in SHARED)


def _with_parameters(doc: str, kind: type[NamedOptimizer], names: Sequence[str]) -> str:
    """The docstring of a subclass with its parameters, in front of the section that comes next."""
    start = re.search(r"^\w+\n-+$", doc, re.MULTILINE)
    position = len(doc) if start is None else start.start()
    name = f"fastopt.{kind.__name__}" if kind.__module__.startswith("fastopt.") else kind.__name__
    parameters = _PARAMETERS.format(names=", ".join(names), name=name)
    return f"{doc[:position].rstrip()}\n\n{parameters}\n{doc[position:]}"


def _is_number(value: object) -> bool:
    return is_number(as_scalar(value))


def _check_plain(name: str, value: object) -> None:
    """Check that a setting is none that changes by itself, or raise TypeError."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if name == "bounds" and not all(limit is None or _is_number(limit) for limit in values):
        raise TypeError(f"bounds must be a pair of numbers or None, not {shown(value)}")
    if any(map(callable, values)):
        raise TypeError(
            f"{name} must not be a schedule, as {shown(value)} is: use a scheduler of torch, or assign "
            f"param_groups[i][{name!r}]"
        )


def _setting(group: Mapping[str, object], name: str, is_fixed: bool) -> Any:
    """A setting of a chain, read from the group at every step where it is a number that is on."""
    value = group[name]
    if not _is_number(value):
        return value
    if is_fixed or not value:
        return as_scalar(value)
    return GroupValue(group, name)
