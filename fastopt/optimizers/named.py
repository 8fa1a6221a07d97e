"""What the named optimizers have in common: settings that make a chain, and can be assigned."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Real
from types import SimpleNamespace
from typing import Any, ClassVar, TypedDict

from fastopt import transforms as t
from fastopt.optimizers.optimizer import Optimizer
from fastopt.transforms.base import Chain, Transform
from fastopt.validation import Setting, flag, is_on, nonnegative


class Shared(TypedDict, total=False):
    """Options of every optimizer.

    Parameters
    ----------
    maximize : bool, default False
        Climb instead of descending.
    clip_value : float or schedule, optional
        Limit each element of the gradient to ``[-clip_value, clip_value]``, before everything else.
    weight_decay : float or schedule, default 0
        Added to the gradient as ``weight_decay * w``; with `decoupled_weight_decay` it bypasses the
        normalisation and takes ``lr * weight_decay * w`` from the parameter.
    decoupled_weight_decay : bool, default False
        Which of the two.
    state : mapping of str to array, optional
        Arrays of your own to keep states in, by name, with the content they have; the others are made.
    executor : {"auto", "serial", "parallel", "reference"}
        Where the loop runs. The result is the same, to the last bit.
    """

    maximize: bool
    clip_value: Setting | None
    weight_decay: Setting
    decoupled_weight_decay: bool
    state: Mapping[str, Any] | None
    executor: str


# How a step is carried out, as against what is computed.
_MEANS = ("state", "executor")

_SHARED_DEFAULTS: dict[str, Any] = {
    "maximize": False,
    "clip_value": None,
    "weight_decay": 0.0,
    "decoupled_weight_decay": False,
}


def gradient_parts(s: SimpleNamespace) -> list[Transform]:
    """The transforms that act on the gradient before the optimizer's own."""
    parts = []
    if flag("maximize", s.maximize):
        parts.append(t.scale(-1.0))
    if s.clip_value is not None:
        parts.append(t.clip_by_value(s.clip_value))
    if not flag("decoupled_weight_decay", s.decoupled_weight_decay):
        parts += _decay(s)
    return parts


def decoupled_parts(s: SimpleNamespace, lr: Setting = 1.0) -> list[Transform]:
    """Decoupled decay: in front of the learning rate, or behind it with the rate given."""
    return _decay(s, lr) if s.decoupled_weight_decay else []


def _decay(s: SimpleNamespace, lr: Setting = 1.0) -> list[Transform]:
    return (
        [t.add_decayed_weights(s.weight_decay, lr)]
        if is_on(nonnegative("weight_decay", s.weight_decay))
        else []
    )


class NamedOptimizer(Optimizer):
    """An optimizer whose chain is made from named settings.

    A subclass declares its settings as the arguments of ``__init__``, and says in ``make_chain`` what
    they mean. Numbers can be assigned between steps; what decides which transforms there are cannot.
    """

    _settings: SimpleNamespace
    _fixed: ClassVar[frozenset[str]] = frozenset({"initial_accumulator"})

    def __init__(self, params: Any, settings: dict[str, Any], shared: Shared) -> None:
        means: dict[str, Any] = {name: value for name, value in shared.items() if name in _MEANS}
        options = {name: value for name, value in shared.items() if name not in _MEANS}
        unknown = options.keys() - _SHARED_DEFAULTS.keys()
        if unknown:
            known = ", ".join([*settings, *_SHARED_DEFAULTS, *_MEANS])
            raise TypeError(
                f"{type(self).__name__} has no argument {', '.join(sorted(unknown))}; it takes {known}"
            )
        self._settings = SimpleNamespace(**settings, **{**_SHARED_DEFAULTS, **options})
        super().__init__(params, self.make_chain(self._settings), **means)

    @staticmethod
    def make_chain(s: SimpleNamespace) -> Chain:
        """The chain for these settings."""
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [
            p.name
            for p in inspect.signature(cls.__init__).parameters.values()
            if p.kind != p.VAR_KEYWORD
        ]
        for name in [*own[2:], *_SHARED_DEFAULTS]:
            setattr(cls, name, _setting_property(name, cls._fixed))

    def _assign(self, name: str, value: Any) -> None:
        chain = self.make_chain(SimpleNamespace(**{**vars(self._settings), name: value}))
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if is_number and not _same_parts(chain, self._chain):
            # Switching a part off leaves it in place, at zero strength.
            always = SimpleNamespace(**{**vars(self._settings), name: lambda step: value})
            chain = self.make_chain(always)
        if not _same_parts(chain, self._chain):
            raise ValueError(
                f"{name} = {value!r} would change which transforms the optimizer is made of: "
                "make a new optimizer"
            )
        self._replace_chain(chain)
        setattr(self._settings, name, value)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self._settings).items())
        size = sum(leaf.size for leaf in self._leaves)
        return f"{type(self).__name__}(<{size} elements>, {settings}, executor={self._executor!r})"


def _same_parts(one: Chain, other: Chain) -> bool:
    return [(part.update, part.state) for part in one] == [(part.update, part.state) for part in other]


def _setting_property(name: str, fixed: frozenset[str]) -> property:
    def read(self: NamedOptimizer) -> Any:
        return getattr(self._settings, name)

    def write(self: NamedOptimizer, value: Any) -> None:
        if name in fixed:
            raise AttributeError(f"{name} says where a state starts: make a new optimizer to change it")
        self._assign(name, value)

    return property(read, write, doc=f"The setting `{name}`.")
