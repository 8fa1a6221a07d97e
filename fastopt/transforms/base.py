"""Transforms, the mathematics of one element, and chains of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from inspect import signature
from typing import Any, NamedTuple, ParamSpec, TypeAlias

from fastopt.arrays.tree import read_only
from fastopt.owned import owned
from fastopt.text import arguments
from fastopt.transforms.states import check_states
from fastopt.transforms.sums import FromSums, Summand, Sums, check_declared, sums_of
from fastopt.validation import Check, Hyper, Setting, call, check_numbers, shown

ONCE = "once"
_MADE_BY, _LABEL = "_made_by", "_label"

Update: TypeAlias = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True, eq=False)
class Transform:
    """One step of an optimizer's mathematics, for one element.

    Parameters
    ----------
    update : function
        ``update(update, param, state, hyper) -> (update, state)``, on scalars. The first argument
        is the gradient on its way to becoming the step that is *subtracted* from the parameter,
        ``state`` a tuple with one number for each state array and ``hyper`` a tuple with the
        hyperparameters of this step. It may use arithmetic, comparisons, ``math`` and helper
        functions of the same kind. Float literals take the dtype of the arithmetic; write ``1.0``
        for ``1``, since an integer would turn float32 into float64 (which is an error).
    state : mapping of str to float, optional
        Name and initial value of each state array, in the order of the tuple. With the value
        ``START_FROM_PARAM`` it starts as a copy of the parameter.
    hyper : tuple of float or callable, optional
        The hyperparameters: a tuple, or a function from the step count (0, 1, ...) to a tuple of
        constant length. It is evaluated on the host in float64 and rounded once.
    after : bool, optional
        With True the function acts after the update was applied: its first argument and result
        are then the *new* parameter, while ``param`` still is the old one.
    inputs : mapping of str to array or structure of arrays, optional
        Arrays like the parameters that are only read. Their elements follow the states in the tuple
        ``state`` that the function gets; it returns the states only.
    outputs : mapping of str to array or structure of arrays, optional
        Arrays like the parameters, of any of their dtypes, that are only written: the
        function returns their elements after those of the states.
    nonnegative : tuple of str, optional
        The states that are never negative, such as averages of squares: in 8 bits they need no sign.
    no_gradient : function or "once", optional
        What a step without a gradient does, for ``sparse="exact"``: a function like `update`, but
        called on the host with linear forms in place of numbers, which can be added to each other
        and multiplied by numbers. ``no_gradient=update`` says that `update` itself is linear. Any
        other function says how the states change when the update is zero (with `after`, when the
        parameter does not change); it may raise ValueError with a reason. With sums, `hyper` is what
        `from_sums` returned for the step. ``"once"``, with `after`,
        is for an idempotent function, such as bounds. By default exact mode refuses the chain.
    settings : mapping of str to (callable, float or schedule), optional
        The entries of `hyper` that are settings of the user's, by name, each with its check in
        `fastopt.validation`. Constants must also pass it when rounded to the dtype of the
        arithmetic; the error names them.
    round_towards : float, optional
        An infinity: the direction in which `hyper` is rounded to the parameters' format, as for
        limits of the parameters. By default rounding is to nearest.
    sums : mapping of str to function, optional
        Name and summand of each sum over all elements, which `from_sums` gets in the same step. The
        arrays are read once more for them. ``summand(update, param, state, hyper) -> number`` gets
        what `update` will get in this step, but in float64, and its literals are float64. With
        sparse gradients it must be 0 for an update of 0, as untouched rows are not read.
    from_sums : function, optional
        ``from_sums(hyper, sums, carried) -> (hyper, carried)``, on tuples of float64, once in each
        step: the hyperparameters that `update` gets, from those of `hyper` and the sums. It may use
        what `update` may use, and is compiled like it. With a flag behind them, ``(hyper, carried,
        skip)``, it may have the whole step skipped.
    carried : mapping of str to float, optional
        Name and initial value of numbers that `from_sums` hands to that of the next step.
    per_array : bool, optional
        With True each array has sums, carried numbers and hyperparameters of its own.
    averaged : function, optional
        ``averaged(param, state) -> param``, on NumPy arrays: what `Optimizer.averaged_params` returns.
    sums_after : mapping of str to function, optional
        The same as `sums`, but added up while the step is taken, at no further read: `from_sums` gets
        those of the previous step, behind those of `sums`. Before the first step they are 0.0.

    Notes
    -----
    In optax a chain ends with a negative factor and the update is added; here the update is
    subtracted, so that learning rates are positive and formulas read as in print.

    Examples
    --------
    >>> import math, numpy as np, fastopt
    >>> def sign_update(update, param, state, hyper):
    ...     (exp_avg,) = state
    ...     beta, mix, one = hyper
    ...     exp_avg = beta * exp_avg + mix * update
    ...     return math.copysign(one, exp_avg), (exp_avg,)
    >>> scale_by_sign = fastopt.Transform(
    ...     sign_update, state={"exp_avg": 0.0}, hyper=(0.9, 1 - 0.9, 1.0)
    ... )
    >>> w = np.zeros(3, np.float32)
    >>> rate = fastopt.transforms.scale_by_learning_rate(0.5)
    >>> opt = fastopt.Optimizer(w, fastopt.chain(scale_by_sign, rate))
    >>> opt.step(np.array([1.0, -2.0, 3.0], np.float32))
    >>> w
    array([-0.5,  0.5, -0.5], dtype=float32)
    """

    update: Update
    state: Mapping[str, float | str] = field(default_factory=dict)
    hyper: Hyper | Callable[[int], Hyper] = ()
    after: bool = False
    inputs: Mapping[str, object] = field(default_factory=dict)
    outputs: Mapping[str, object] = field(default_factory=dict)
    nonnegative: tuple[str, ...] = ()
    no_gradient: Update | str | None = None
    settings: Mapping[str, tuple[Check, Setting]] = field(default_factory=dict)
    round_towards: float | None = None
    sums: Mapping[str, Summand] = field(default_factory=dict)
    from_sums: FromSums | None = None
    carried: Mapping[str, float] = field(default_factory=dict)
    per_array: bool = False
    averaged: Callable[[Any, tuple[Any, ...]], Any] | None = None
    sums_after: Mapping[str, Summand] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not hasattr(self.update, "__code__") and not hasattr(self.update, "py_func"):
            raise TypeError(f"update must be a Python function, not {self.update!r}")
        check_states(self.state, self.nonnegative)
        if not isinstance(self.hyper, tuple) and not callable(self.hyper):
            raise TypeError(f"hyper must be a tuple or a function of the step, not {shown(self.hyper)}")
        self._check_no_gradient()
        declared = self.sums or self.sums_after or self.from_sums is not None or self.carried
        if declared or self.per_array is not False:
            check_declared(self)
        elif not (self.inputs or self.outputs):
            return
        for name in "inputs", "outputs", "sums", "sums_after", "carried":  # the caller may change them
            if container := getattr(self, name):
                object.__setattr__(self, name, read_only(dict(container)))

    def _check_no_gradient(self) -> None:
        if self.no_gradient == ONCE:
            if not self.after or self.state or self.outputs:
                raise ValueError("no_gradient='once' needs after=True, and neither states nor outputs")
        elif self.no_gradient is not None and not callable(self.no_gradient):
            raise TypeError(f"no_gradient must be a function or 'once', not {self.no_gradient!r}")

    @property
    def name(self) -> str:
        return self.update.__name__

    @property
    def label(self) -> str:
        """What users know it by: an option that it is for, what made it, or else its `update`."""
        return vars(self).get(_LABEL) or repr(self).partition("(")[0]

    def slots(self) -> tuple[Slot, ...]:
        """The transform's arrays, in the order of the table's columns."""
        kinds = {"state": self.state, "input": self.inputs, "output": self.outputs}
        return tuple(Slot(name, kind) for kind, names in kinds.items() for name in names)

    def hyper_at(self, step: int) -> Hyper:
        """The hyperparameters of a step."""
        return call(self.hyper, step) if callable(self.hyper) else self.hyper

    def __getstate__(self) -> dict[str, object]:
        """The fields, or for a transform of a `factory` its call, so that no closure is pickled."""
        state = vars(self)
        return {_MADE_BY: state[_MADE_BY]} if _MADE_BY in state else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {name: owned(value) for name, value in state.items()}
        if _MADE_BY in state:
            make, args, kwargs = state[_MADE_BY]
            transform = make(*args, **kwargs)
        else:
            transform = Transform(**state)
        vars(self).update(vars(transform))

    def __repr__(self) -> str:
        if (factory_call := vars(self).get(_MADE_BY)) is not None:
            make, args, kwargs = factory_call
            return f"{make.__name__}({arguments(signature(make).bind(*args, **kwargs).arguments)})"
        hyper = "per step" if callable(self.hyper) else ", ".join(f"{h:g}" for h in self.hyper)
        return f"{self.name}({hyper})"


def labelled(label: str, transform: Transform) -> Transform:
    """Have errors call a transform by the option that it is for."""
    vars(transform)[_LABEL] = label
    return transform


def factory(make: Callable[_Arguments, Transform]) -> Callable[_Arguments, Transform]:
    """Decorate a function that makes a transform, so that the transform can be pickled.

    Pickles and copies then hold the function, by name, and its arguments: `update` and `hyper` may be
    closures.

    Parameters
    ----------
    make : callable
        A function of a module that returns a `Transform`.

    Examples
    --------
    >>> from fastopt import Transform, transforms as t
    >>> def scale_update(update, param, state, hyper):
    ...     return hyper[0] * update, state
    >>> @t.factory
    ... def scale_by_inverse_time(rate):
    ...     return Transform(scale_update, hyper=lambda step: (rate / (1 + step),))
    """

    @wraps(make)
    def remembered(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Transform:
        transform = make(*args, **kwargs)
        if not isinstance(transform, Transform):
            raise TypeError(f"{make.__name__} must return a Transform, not {type(transform).__name__}")
        if transform.inputs or transform.outputs:  # the caller may change these containers
            args, kwargs = read_only((args, kwargs))
        # Not if another factory made it.
        vars(transform).setdefault(_MADE_BY, (remembered, args, kwargs))
        return transform

    return remembered


class Slot(NamedTuple):
    """An array of a transform, besides parameter and gradient."""

    name: str
    kind: str  # "state" is read and written, "input" only read, "output" only written


class Part(NamedTuple):
    """What the compiled code of a transform depends on: all but its hyperparameters."""

    update: Update
    slots: tuple[Slot, ...]
    hypers: int  # that `update` takes
    after: bool
    sums: Sums | None = None

    @property
    def from_host(self) -> int:
        """The number of hyperparameters from the host that `update` does not take itself."""
        return 0 if self.sums is None else self.sums.from_host

    @property
    def read(self) -> int:
        """The length of the tuple `state` that the function takes."""
        return sum(slot.kind != "output" for slot in self.slots)

    @property
    def written(self) -> int:
        """The length of the tuple `state` that the function returns."""
        return sum(slot.kind != "input" for slot in self.slots)

    @property
    def name(self) -> str:
        return self.update.__name__


def sums_in(part: Part) -> Sums:
    """The sums of a part that has some."""
    if part.sums is None:
        raise AssertionError(f"transform {part.name!r} has no sums")
    return part.sums


class Chain:
    """Transforms applied one after the other; made by `chain`.

    Parameters
    ----------
    transforms : tuple of Transform
        Those with ``after=True`` at the end.

    Examples
    --------
    >>> from fastopt import chain, transforms as t
    >>> chain(t.clip_by_value(1.0), t.scale_by_learning_rate(0.1))
    chain(clip_by_value(limit=1.0), scale_by_learning_rate(lr=0.1))
    """

    def __init__(self, transforms: tuple[Transform, ...]) -> None:
        for position, transform in enumerate(transforms):
            if not isinstance(transform, Transform):
                hint = ": call it with its arguments" if callable(transform) else ""
                raise TypeError(
                    f"part {position} of a chain must be a Transform, not {shown(transform)}{hint}"
                )
        afters = [transform.after for transform in transforms]
        if afters != sorted(afters):
            raise ValueError("transforms with after=True must stand at the end of a chain")
        self.transforms = transforms
        self.varies = any(callable(transform.hyper) for transform in transforms)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)

    @cached_property
    def _states(self) -> dict[str, tuple[str, Transform]]:
        """Each state by its name in the chain: its name in its transform, and the transform."""
        by_name: dict[str, tuple[str, Transform]] = {}
        for transform in self.transforms:
            for name in transform.state:
                unique, count = name, 1
                while unique in by_name:  # a name used again gets a number
                    unique, count = f"{name}_{count}", count + 1
                by_name[unique] = name, transform
        return by_name

    @cached_property
    def _starts(self) -> dict[str, float | str]:
        return {unique: transform.state[name] for unique, (name, transform) in self._states.items()}

    def states(self) -> dict[str, float | str]:
        """Names and initial values of all state arrays; a name used again gets a number."""
        return self._starts.copy()

    def nonnegative(self) -> frozenset[str]:
        """The names of the states that are never negative."""
        return frozenset(unique for unique, (name, t) in self._states.items() if name in t.nonnegative)

    def hyper_at(self, step: int) -> tuple[Hyper, ...]:
        """The hyperparameters of each transform at a step."""
        return tuple(transform.hyper_at(step) for transform in self.transforms)

    def parts(self, copy: Callable[[Update], Update]) -> tuple[Part, ...]:
        """What the code compiled from the chain depends on, with copies of the functions."""
        return tuple(_part(transform, copy) for transform in self.transforms)

    def inputs(self) -> list[object]:
        """The arrays of the inputs, in order."""
        return [arrays for t in self.transforms for arrays in t.inputs.values()]

    def outputs(self) -> list[object]:
        """The arrays of the outputs, in order."""
        return [arrays for t in self.transforms for arrays in t.outputs.values()]

    def __repr__(self) -> str:
        return "chain(" + ", ".join(map(repr, self.transforms)) + ")"


def _part(transform: Transform, copy: Callable[[Any], Any]) -> Part:
    update, hyper, sums = copy(transform.update), transform.hyper_at(0), None
    check_numbers(transform.name, hyper, 0)
    if transform.from_sums is not None:
        sums = sums_of(transform, len(hyper), copy)
        hyper, skips = sums.trial(transform.name, hyper)
        sums = sums._replace(skips=skips)
    return Part(update, transform.slots(), len(hyper), transform.after, sums)


def chain(*transforms: Transform | Chain) -> Chain:
    """Chain transforms: each takes the update that the previous one returned.

    Parameters
    ----------
    *transforms : Transform or Chain
        Applied from left to right; the first one gets the gradient. What the last one returns is
        subtracted from the parameter. A chain inside a chain counts as its parts.

    Returns
    -------
    Chain
        To be given to `Optimizer`, which compiles it into one loop.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> parts = chain(t.clip_by_value(1.0), t.scale_by_rms(), t.scale_by_learning_rate(0.1))
    >>> w = np.array([5.0])
    >>> fastopt.Optimizer(w, parts).step(2 * w)
    >>> w.round(4)
    array([4.6838])
    """
    flat: list[Transform] = []
    for part in transforms:
        flat.extend(part.transforms if isinstance(part, Chain) else (part,))
    return Chain(tuple(flat))


def as_chain(value: object) -> Chain:
    """The chain itself, or a chain of a single transform."""
    if isinstance(value, Transform):
        return chain(value)
    if not isinstance(value, Chain):
        raise TypeError(f"chain must come from fastopt.chain, not be {type(value).__name__}")
    return value
