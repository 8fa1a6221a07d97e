"""The options of every optimizer, and the transforms that they add to its chain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from numbers import Real
from typing import Any, Literal, TypeAlias

from fastopt import transforms as t
from fastopt.arrays.tree import Tree
from fastopt.executors.dispatch import Executor
from fastopt.optimizers.settings import (
    Declared,
    Field,
    Flag,
    Number,
    OptionalNumber,
    SettingField,
    option,
    setting,
)
from fastopt.steps.state_formats import StateDType
from fastopt.transforms.base import Chain, Transform, labelled
from fastopt.transforms.decay import decay_update
from fastopt.validation import (
    PathLike,
    Schedule,
    Setting,
    flag,
    fraction,
    is_number_or_schedule,
    is_on,
    nonnegative,
    shown,
)

SparseMode: TypeAlias = Literal["exact", "lazy"]


class SharedOptions(Declared, shared=True):
    """Options of every optimizer. All of them act in the same pass over memory.

    They are attributes too, and numbers can be assigned: ``opt.weight_decay = 1e-3``.

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
        normalization and takes ``lr * weight_decay * w`` from the parameter.
    decoupled_weight_decay : bool, default False (AdamW: True)
        Which of the two. A chain that was given has its learning rate inside: there the decoupled
        decay is a transform in the chain.
    bounds : (low, high), optional
        Project the new parameters: each a number, a schedule, an array like `params`, or None.
    schedule_free : float, optional
        In (0, 1], usually 0.9. Take gradients between a point that steps and its average, instead of
        momentum (which is best left out) and a falling rate: see `transforms.schedule_free`, and
        `Optimizer.averaged_params` for the point to evaluate with.
    average_decay : float or schedule, optional
        Keep ``a = average_decay * a + (1 - average_decay) * w`` in ``opt.state["average"]``.
    copy_to : array or structure like `params`, optional
        Receives the new parameters, rounded to its own format: float16, bfloat16, float32 or float64.
    stats : sequence of str, optional
        Statistics to be added up in the same pass, such as ``("grad_norm", "update_norm")``, which
        ``opt.stats`` then has: see `fastopt.Stats`. With `sparse` those to which rows without a
        gradient add nothing.
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
    master_bits : {24, 32}, optional
        Keep parameters of 16 bits as numbers of so many bits: the array that was given has them rounded
        to nearest, and ``opt.state["correction"]`` the rest, in 8 or 16 bits an element. 32 gives the
        steps of float32, 24 nearly so. States are then float32 unless `state_dtype` says otherwise.
        Parameters of float32 and float64 in the same structure stay as they are. See
        `Optimizer.set_params` and `Optimizer.decoded_params`.
    stochastic_rounding : bool, optional
        Round parameters and states of less than 32 bits stochastically: up or down at random, so that
        the expectation is exact (unbiased). By default 8-bit states only; the others to nearest.
        With `master_bits` it concerns the states alone.
    seed : int, default 0
        The seed of stochastic rounding, whose bits depend on it, the step and the element alone.
    executor : {"auto", "serial", "parallel", "reference", "cuda"}
        Where the loop runs: "serial" on one core, "parallel" on all, "reference" in plain Python,
        "cuda" on a CUDA device. "auto" chooses by size, and "cuda" for device arrays. The result is
        the same, to the last bit.
    fast : bool, default False
        Allow fused multiply-adds, and roots and quotients of float32 that are a few ULP off.
    capturable : bool, default False
        On a CUDA device: let steps be captured in a graph, each replay of which takes the next
        hyperparameters: see `Optimizer.advance`.
    """

    __slots__ = ()

    # What is computed, by the chain of each group.
    maximize: Flag = setting(default=False, kw_only=True)
    clip_value: OptionalNumber = setting(default=None, kw_only=True)
    weight_decay: Number = setting(default=0.0, kw_only=True)
    decoupled_weight_decay: Flag = setting(default=False, kw_only=True)
    bounds: SettingField[tuple[Tree, Tree] | None, tuple[object, object] | None] = setting(
        default=None, kw_only=True, fixed=True
    )
    schedule_free: SettingField[float | None, float | None] = setting(
        default=None, kw_only=True, fixed=True
    )
    average_decay: OptionalNumber = setting(default=None, kw_only=True)
    copy_to: SettingField[Tree, object] = setting(default=None, kw_only=True, fixed=True)
    # What concerns the step as a whole.
    skip_nonfinite: Field[bool, bool] = option(default=False, kw_only=True)
    zero_grad: Field[bool, bool] = option(default=False, kw_only=True)
    state_dir: Field[PathLike | None, PathLike | None] = option(default=None, kw_only=True)
    sparse: Field[SparseMode | None, SparseMode | None] = option(default=None, kw_only=True)
    state_dtype: Field[StateDType, StateDType] = option(default=None, kw_only=True)
    stochastic_rounding: Field[bool | None, bool | None] = option(default=None, kw_only=True)
    master_bits: Field[Literal[24, 32] | None, Literal[24, 32] | None] = option(
        default=None, kw_only=True
    )
    seed: Field[int, int] = option(default=0, kw_only=True)
    executor: Field[Executor, Executor] = option(default="auto", kw_only=True)
    fast: Field[bool, bool] = option(default=False, kw_only=True)
    capturable: Field[bool, bool] = option(default=False, kw_only=True)


def complete(s: SharedOptions, parts: Iterable[Transform]) -> Chain:
    """The chain of an optimizer's own transforms, with what the options add before and behind."""
    front, limits, after = _gradient_parts(s), _limits(s), _after_parts(s)
    between = _interpolation(s)
    if isinstance(parts, Chain) and not (front or between or limits or after):
        return parts
    transforms = t.chain(*parts).transforms
    late = [part for part in transforms if part.after]
    early = [*front, *transforms[: len(transforms) - len(late)], *between]
    if isinstance(parts, Chain):  # the user's has bounds and averages in an order of its own
        return t.chain(*early, *late, *limits, *after)
    return t.chain(*early, *limits, *late, *after)  # an average is one of parameters within the bounds


def _gradient_parts(s: SharedOptions) -> list[Transform]:
    """The transforms that act on the gradient before the optimizer's own."""
    parts = []
    if flag("maximize", s.maximize):
        parts.append(t.scale(-1.0))
    if s.clip_value is not None:
        parts.append(t.clip_by_value(s.clip_value))
    if not flag("decoupled_weight_decay", s.decoupled_weight_decay):
        parts += _decay(s)
    return parts


def decoupled_decay(s: SharedOptions, lr: Setting = 1.0) -> list[Transform]:
    """Decoupled decay: in front of the learning rate, or behind it with the rate given."""
    return _decay(s, lr) if s.decoupled_weight_decay else []


def _decay(s: SharedOptions, lr: Setting = 1.0) -> list[Transform]:
    on = is_on(nonnegative("weight_decay", s.weight_decay))
    return [t.add_decayed_weights(s.weight_decay, lr)] if on else []


def check_decoupled_decay(
    s: SharedOptions,
    parts: Iterable[Transform],
    advice: str = "have transforms.add_decayed_weights in the chain, in front of the learning rate",
) -> None:
    """See that decoupled decay is among the parts, if it is asked for."""
    if decoupled_decay(s) and not any(
        part.update is decay_update or "weight_decay" in part.settings for part in parts
    ):
        raise ValueError(f"decoupled_weight_decay=True needs the learning rate: {advice}")


def momentum_and_rate(s: Any, dampening: Setting = 0.0) -> list[Transform]:
    """Momentum, decoupled decay and learning rate, in the order that `lr_in_momentum` asks for."""
    on = is_on(fraction("momentum", s.momentum))
    if flag("nesterov", s.nesterov) and not on:
        raise ValueError("nesterov=True needs a momentum > 0, got momentum=0")
    gather = [t.trace(s.momentum, dampening, nesterov=s.nesterov)] if on else []
    rate = t.scale_by_learning_rate(s.lr)
    if flag("lr_in_momentum", s.lr_in_momentum):
        return [rate, *gather, *decoupled_decay(s, nonnegative("lr", s.lr))]
    return [*gather, *decoupled_decay(s), rate]


def derived_rate(rate: Schedule, lr: Setting) -> Transform:
    """Multiply by a rate that is computed from `lr`: errors name that."""
    part = replace(t.scale_by_learning_rate(rate), settings={"lr": (nonnegative, lr)})
    return labelled("lr", part)


def _interpolation(s: SharedOptions) -> list[Transform]:
    """The transform of `schedule_free`, which knows the learning rate if the optimizer has one."""
    if s.schedule_free is None:
        return []
    if s.bounds is not None:
        raise ValueError("bounds must be None with schedule_free, whose average they would not hold")
    lr = getattr(s, "lr", 1.0)
    return [t.schedule_free(s.schedule_free, lr if is_number_or_schedule(lr) else 1.0)]


def _limits(s: SharedOptions) -> list[Transform]:
    """The bounds of the new parameter."""
    if s.bounds is None:
        return []
    if not isinstance(s.bounds, (list, tuple)) or len(s.bounds) != 2:
        raise TypeError(f"bounds must be a pair (low, high), not {s.bounds!r}")
    low, high = s.bounds
    if isinstance(low, Real) and isinstance(high, Real) and low > high:
        raise ValueError(f"bounds must have low <= high, got {shown(s.bounds)}")
    return [
        *([] if low is None else [labelled("bounds", t.at_least(low))]),
        *([] if high is None else [labelled("bounds", t.at_most(high))]),
    ]


def _after_parts(s: SharedOptions) -> list[Transform]:
    """The transforms that use the new parameter."""
    parts = []
    if s.average_decay is not None:
        parts.append(t.average_params(s.average_decay))
    if s.copy_to is not None:
        parts.append(t.copy_params(s.copy_to))
    return parts
