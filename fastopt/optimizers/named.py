"""What the named optimizers have in common: settings that make a chain, and can be assigned."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Real
from types import SimpleNamespace
from typing import Any, ClassVar, Self, TypedDict

from fastopt import transforms as t
from fastopt.arrays import tree
from fastopt.changes import assign
from fastopt.optimizers.dialects import translate
from fastopt.optimizers.optimizer import Optimizer
from fastopt.optimizers.repr import show_all
from fastopt.optimizers.saved_settings import check_settings, merge, plain
from fastopt.transforms.base import Chain, Transform
from fastopt.validation import Setting, flag, fraction, is_on, nonnegative, shown


class Shared(TypedDict, total=False):
    """Options of every optimizer. All of them act in the same pass over memory.

    Parameters
    ----------
    maximize : bool, default False
        Climb instead of descending.
    clip_value : float or schedule, optional
        Limit each element of the gradient to ``[-clip_value, clip_value]``, before everything else.
    clip_norm : float or schedule, optional
        Scale all gradients down so that the norm of all of them together is at most this. Costs one
        more read of the gradients. The norm is then in ``opt.last``.
    weight_decay : float or schedule, default 0
        Added to the gradient as ``weight_decay * w``; with `decoupled_weight_decay` it bypasses the
        normalisation and takes ``lr * weight_decay * w`` from the parameter.
    decoupled_weight_decay : bool, default False (AdamW: True)
        Which of the two.
    bounds : (low, high), optional
        Project the new parameters: each a number, a schedule, an array like `params`, or None.
    average_decay : float or schedule, optional
        Keep ``a = average_decay * a + (1 - average_decay) * w`` in ``opt.state["average"]``.
    copy_to : array or structure like `params`, optional
        Receives the new parameters, rounded to its own format: float16, bfloat16, float32 or float64.
    skip_nonfinite : bool, default False
        Leave out steps with a NaN or infinity in any gradient: they change nothing, not even the
        count. Costs the same read as `clip_norm`.
    zero_grad : bool, default False
        Clear the gradients.
    state : mapping of str to array, optional
        Arrays of your own to keep states in, by name, with the content they have; the others are made.
    state_dir : path, optional
        Keep the states in files of this new or empty folder, as memory maps: they may be larger than
        memory.
    sparse : {"exact", "lazy"}, optional
        Take gradients of some rows too: pairs ``(rows, values)`` and the arrays of `scipy.sparse`,
        in time proportional to the rows touched. Exact gives what zeros in the other rows would
        give, where there is a closed form; lazy leaves the other rows and their states alone.
    state_dtype : dtype, "8bit" or mapping of str to these, optional
        How states are stored: for all, or by the name of the state. By default as the parameters are;
        averages of the parameters in float32 at least. ``"8bit"`` keeps blocks of 256 elements with a
        scale each, and arrays of fewer than 4096 elements in float32. Parameters of float64 have
        states of float64.
    stochastic_rounding : bool, optional
        Round parameters and states of less than 32 bits up or down at random, so that they are right
        in the mean, instead of to the nearest. By default 8-bit states only.
    seed : int, default 0
        Of stochastic rounding, which depends on it, the step and the element alone.
    executor : {"auto", "serial", "parallel", "fast", "reference", "cuda", "cuda-fast"}
        Where the loop runs. The result is the same, to the last bit, but for "fast", with which
        float32 may be a few units in the last place off, and "cuda-fast".
    capturable : bool, default False
        On a CUDA device: let steps be captured in a graph that goes on with the schedule.
    """

    maximize: bool
    clip_value: Setting | None
    clip_norm: Setting | None
    weight_decay: Setting
    decoupled_weight_decay: bool
    bounds: tuple[Any, Any] | None
    average_decay: Setting | None
    copy_to: Any
    skip_nonfinite: bool
    zero_grad: bool
    state: Mapping[str, Any] | None
    state_dir: Any
    sparse: str | None
    state_dtype: Any
    stochastic_rounding: bool | None
    seed: int
    executor: str
    capturable: bool


# What is computed, by the chain of each group.
_CHAIN_OPTIONS: dict[str, Any] = {
    "maximize": False,
    "clip_value": None,
    "weight_decay": 0.0,
    "decoupled_weight_decay": False,
    "bounds": None,
    "average_decay": None,
    "copy_to": None,
}
_STRUCTURES = "bounds", "copy_to"  # options that have arrays
# What concerns the step as a whole.
_MEANS = (
    "clip_norm",
    "skip_nonfinite",
    "zero_grad",
    "state",
    "state_dir",
    "sparse",
    "state_dtype",
    "stochastic_rounding",
    "seed",
    "executor",
    "capturable",
)


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
    on = is_on(nonnegative("weight_decay", s.weight_decay))
    return [t.add_decayed_weights(s.weight_decay, lr)] if on else []


def momentum_and_rate(s: SimpleNamespace, dampening: Setting = 0.0) -> list[Transform]:
    """Momentum, decoupled decay and learning rate, in the order that `lr_in_momentum` asks for."""
    on = is_on(fraction("momentum", s.momentum))
    if flag("nesterov", s.nesterov) and not on:
        raise ValueError("nesterov=True needs a momentum > 0, got momentum=0")
    gather = [t.trace(s.momentum, dampening, nesterov=s.nesterov)] if on else []
    rate = t.scale_by_learning_rate(s.lr)
    if flag("lr_in_momentum", s.lr_in_momentum):
        return [rate, *gather, *decoupled_parts(s, nonnegative("lr", s.lr))]
    return [*gather, *decoupled_parts(s), rate]


def own_settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """From ``locals()`` at the start of an ``__init__``: the optimizer's own settings."""
    others = ("self", "params", "shared", "decay", "__class__")
    return {name: value for name, value in arguments.items() if name not in others}


def _after_parts(s: SimpleNamespace) -> list[Transform]:
    """The transforms that act on the new parameter."""
    parts = []
    if s.bounds is not None:
        if not isinstance(s.bounds, (list, tuple)) or len(s.bounds) != 2:
            raise TypeError(f"bounds must be a pair (low, high), not {s.bounds!r}")
        low, high = s.bounds
        if isinstance(low, Real) and isinstance(high, Real) and low > high:
            raise ValueError(f"bounds must have low <= high, got {shown(s.bounds)}")
        parts += [] if low is None else [t.at_least(low)]
        parts += [] if high is None else [t.at_most(high)]
    if s.average_decay is not None:
        parts.append(t.average_params(s.average_decay))
    if s.copy_to is not None:
        parts.append(t.copy_params(s.copy_to))
    return parts


class NamedOptimizer(Optimizer):
    """An optimizer whose chain is made from named settings.

    A subclass declares its settings as the arguments of ``__init__``, and says in ``make_chain`` what
    they mean. Numbers can be assigned between steps; what decides which transforms there are cannot.
    """

    __slots__ = ("_grouped", "_on", "_overrides", "_settings", "groups")

    _settings: SimpleNamespace
    _fixed: ClassVar[frozenset[str]] = frozenset(
        {"initial_accumulator", "guard_zero", "copy_to", "bounds"}
    )
    _names: ClassVar[tuple[str, ...]]

    def __init__(self, params: Any, settings: dict[str, Any], shared: Shared) -> None:
        means: dict[str, Any] = {name: value for name, value in shared.items() if name in _MEANS}
        options = {name: value for name, value in shared.items() if name not in _MEANS}
        settings = {**settings, **{k: v for k, v in _CHAIN_OPTIONS.items() if k not in settings}}
        self._refuse_unknown(options, [*settings, *_MEANS])
        overrides = None
        if _are_groups(params):
            overrides = [{k: v for k, v in own.items() if k != "params"} for own in params]
            for own in overrides:
                self._refuse_unknown(own, list(settings))
            params = [own["params"] for own in params]
        self._set_up(params, ({**settings, **options}, overrides, None), means)

    def _set_up(self, params: Any, arguments: tuple[Any, ...], means: dict[str, Any]) -> None:
        settings, overrides, on = arguments
        self._settings = SimpleNamespace(**_kept(settings))
        self._grouped = overrides is not None
        self._overrides: list[dict[str, Any]] = list(map(_kept, overrides or [{}]))
        # What was given a strength stays in the chain when that is set to zero, and for good.
        self._on: list[frozenset[str]] = on or [
            frozenset(name for name, value in {**settings, **own}.items() if _is_strength(value))
            for own in self._overrides
        ]
        chains = self._chains(self._settings, self._overrides)
        Optimizer.__init__(self, params, chains if self._grouped else chains[0], **means)
        self.groups = tuple(GroupSettings(self, i) for i in range(len(chains)))

    def _arguments(self) -> tuple[Any, ...]:
        return vars(self._settings), self._overrides if self._grouped else None, self._on

    def _refuse_unknown(self, given: Mapping[str, Any], known: list[str]) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no argument {', '.join(unknown)}; "
                f"it takes {', '.join(known)}"
            )

    @staticmethod
    def make_parts(s: SimpleNamespace) -> list[Transform]:
        """The transforms for these settings, from the gradient to what is subtracted."""
        raise NotImplementedError

    def _chains(self, common: SimpleNamespace, overrides: list[dict[str, Any]]) -> list[Chain]:
        """The chain of each group, by these settings."""
        chains = []
        for own, on in zip(overrides, self._on, strict=True):
            settings = {**vars(common), **own}
            s = SimpleNamespace(
                **{k: _zero if k in on and _is_zero(v) else v for k, v in settings.items()}
            )
            chains.append(t.chain(*gradient_parts(s), *self.make_parts(s), *_after_parts(s)))
        return chains

    @classmethod
    def like(cls, dialect: str, params: Any, **their_names: Any) -> Self:
        """The same optimizer with the algebra, defaults and argument names of another library.

        Parameters
        ----------
        dialect : str
            ``"torch"``, ``"keras"``, ``"optax"`` and, where they have one of their own,
            ``"tensorflow1"``, ``"timm"`` and ``"graves"``.
        params
            As always.
        **their_names
            That library's arguments, such as ``alpha`` or ``rho``; and fastopt's shared options.

        Raises
        ------
        ValueError
            There is no such dialect, or a setting has no equivalent.
        TypeError
            An argument that the library does not have.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.array([1.0])
        >>> opt = fastopt.RMSProp.like("torch", w, lr=0.1, alpha=0.99, weight_decay=0.01)
        >>> opt.beta, opt.eps_inside_sqrt
        (0.99, False)
        """
        return cls(params, **translate(cls.__name__, dialect, their_names, [*_CHAIN_OPTIONS, *_MEANS]))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        arguments = inspect.signature(cls.__init__).parameters.values()
        own = [argument.name for argument in arguments if argument.kind != argument.VAR_KEYWORD]
        cls._names = tuple(dict.fromkeys([*own[2:], *_CHAIN_OPTIONS]))
        for name in cls._names:
            setattr(cls, name, _setting_property(name, cls._fixed))

    def _assign(self, changes: Mapping[str, Any], group: int | None = None) -> None:
        """Take other numbers for settings, of one group or of all that have none of their own."""
        settings, overrides = self._settings, self._overrides
        if group is None:
            settings = SimpleNamespace(**{**vars(settings), **changes})
        else:
            own = {**overrides[group], **changes}
            overrides = [own if i == group else other for i, other in enumerate(overrides)]
        what = ", ".join(f"{k} = {shown(v)}" for k, v in changes.items())
        self._use_settings(settings, overrides, what)

    def _use_settings(
        self, common: SimpleNamespace, overrides: list[dict[str, Any]], what: str
    ) -> None:
        chains = self._chains(common, overrides)
        if not all(map(_same_parts, chains, self.chain if self._grouped else [self.chain])):
            raise ValueError(
                f"{what} would change which transforms the optimizer is made of: make a new optimizer"
            )
        also = [assign(self, "_settings", common), assign(self, "_overrides", overrides)]
        self._replace_chains(chains, also)

    def _plain_settings(self) -> dict[str, Any]:
        own = [plain(own, self._fixed) for own in (vars(self._settings), *self._overrides)]
        return {**super()._plain_settings(), "common": own[0], "groups": own[1:]}

    def _take_settings(self, settings: Mapping[str, Any], what: str) -> None:
        super()._take_settings(settings, what)
        common, groups = check_settings(
            settings, set(self._names) - self._fixed, len(self._overrides), what
        )
        now = vars(self._settings)
        own_settings = SimpleNamespace(**{**now, **merge(now, common, self._fixed)})
        overrides = [
            merge(own, saved, self._fixed) for own, saved in zip(self._overrides, groups, strict=True)
        ]
        self._use_settings(own_settings, overrides, f"the settings of {what}")

    def _described(self) -> str:
        groups = {"groups": self._overrides} if self._grouped else {}
        return show_all({**vars(self._settings), **groups})


class GroupSettings:
    """The settings of one group, to read and assign: ``opt.groups[1].lr = 1e-4``."""

    def __init__(self, optimizer: NamedOptimizer, index: int) -> None:
        object.__setattr__(self, "_optimizer", optimizer)
        object.__setattr__(self, "_index", index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a copy is made, nothing is there yet
            raise AttributeError(name)
        optimizer: NamedOptimizer = self._optimizer
        if name == "params":
            return optimizer._groups[self._index].params
        if name not in optimizer._names:
            raise AttributeError(f"{type(optimizer).__name__} has no setting {name!r}")
        return optimizer._overrides[self._index].get(name, getattr(optimizer, name))

    def __setattr__(self, name: str, value: Any) -> None:
        optimizer: NamedOptimizer = self._optimizer
        if name not in optimizer._names or name in optimizer._fixed:
            raise AttributeError(f"{type(optimizer).__name__} has no setting {name!r} to assign")
        optimizer._assign({name: value}, self._index)


def _are_groups(params: Any) -> bool:
    """Whether this is ``[{"params": ...}, ...]``."""
    if not isinstance(params, (list, tuple)) or not params:
        return False
    return all(isinstance(own, Mapping) and "params" in own for own in params)


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the caller's containers, which may change."""
    given = [name for name in _STRUCTURES if settings.get(name) is not None]
    return {**settings, **{name: tree.read_only(settings[name]) for name in given}}


def _same_parts(one: Chain, other: Chain) -> bool:
    return [(t.update, t.slots()) for t in one] == [(t.update, t.slots()) for t in other]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_zero(value: Any) -> bool:
    return _is_number(value) and value == 0


def _is_strength(value: Any) -> bool:
    return callable(value) or (_is_number(value) and value != 0)


def _zero(step: int) -> float:
    """A schedule, so that the part that it belongs to is on."""
    return 0.0


def _setting_property(name: str, fixed: frozenset[str]) -> property:
    def read(self: NamedOptimizer) -> Any:
        return getattr(self._settings, name)

    def write(self: NamedOptimizer, value: Any) -> None:
        if name in fixed:
            raise AttributeError(f"{name} is fixed once an optimizer is made: make a new one")
        self._assign({name: value})

    return property(read, write, doc=f"The setting `{name}`.")
