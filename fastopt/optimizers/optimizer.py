"""`Optimizer`: a chain at work on the user's arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.arrays import checks, tree
from fastopt.arrays.device_array import leave
from fastopt.changes import assign
from fastopt.optimizers import repr as text
from fastopt.optimizers.checkpoint import Checkpoint
from fastopt.optimizers.group_settings import GroupSettings, SettingValues, are_groups, number_at
from fastopt.optimizers.settings import Field, Values, argument
from fastopt.optimizers.shared_options import SharedOptions, check_decoupled_decay, complete
from fastopt.steps.build import build
from fastopt.steps.clipping import GradientStats
from fastopt.transforms.base import Chain, Transform, as_chain
from fastopt.validation import Setting, shown, whole_number


def read_chain(optimizer: Any) -> Any:
    """The chain of an optimizer, a list if every group has its own."""
    chains = [group.chain for group in optimizer._groups]
    return chains[0] if optimizer._groups[0].structure is optimizer._structure else chains


class Optimizer(Checkpoint, SharedOptions, shared=True):
    """Update arrays in place with a chain of transforms, fused into one pass over memory.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, nested at will
        What to optimise: float16, bfloat16, float32 or float64, C-contiguous, writeable, of any shape.
        Never copied. 16-bit numbers are computed with in float32.
    chain : Chain, or list of Chain
        The mathematics, see `fastopt.chain`. A list has a chain for each entry of the list `params`.
        Named optimizers, such as `RMSProp`, make it from their settings.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    params
        The arrays being optimised: those that were given, in containers that cannot be changed.
    chain
        What is compiled, with what the options added; a list if every group has its own.
    state : mapping
        Name of each state array -> the array, or a structure of arrays like `params`. Live: the arrays
        can be written to, but not be replaced.
    step_count : int
        How many steps were taken.
    last : GradientStats or None
        Norm of the last gradients, and whether the step was skipped; None while nothing asks for it.
    groups : tuple
        The settings of each group, to read and to assign.

    The options are attributes too. Those that are numbers can be assigned: ``opt.clip_norm = 0.5``.

    Raises
    ------
    TypeError, ValueError
        Something about the arrays or the chain is not acceptable; nothing was changed.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([5.0])
    >>> opt = fastopt.Optimizer(w, fastopt.chain(t.scale_by_rms(), t.scale_by_learning_rate(0.1)))
    >>> opt.step(2 * w)
    >>> w
    array([4.68377223])
    """

    # With slots a misspelt setting, `opt.learning_rate = 0.1`, is an error and not without effect.
    __slots__ = (
        "__weakref__",
        "_chains_given",
        "_formats",
        "_groups",
        "_leaves",
        "_options",
        "_params",
        "_state",
        "_structure",
        "_watch",
    )

    params: Field[Any, Any] = argument(lambda opt: opt._params_now())
    chain: Field[Any, Chain | Transform | Sequence[Chain]] = argument(read_chain)
    clip_norm: Field[float | Any, Setting | None] = argument(
        lambda opt: opt._watch.clip_norm,
        lambda opt, value: opt._watch.change(value),
        default=None,
        kw_only=True,
    )
    state: Field[Mapping[str, Any], Mapping[str, Any] | None] = argument(
        lambda opt: opt._state_now(), default=None, kw_only=True
    )

    def _make(self, values: Values) -> None:
        settings = {name: values.pop(name) for name in self._setting_names}
        params, given = values.pop("params"), None
        groups: list[Values] | None = None
        if "chain" in values:
            given = values.pop("chain")
            given = given if isinstance(given, (list, tuple)) else as_chain(given)
            groups = [{} for _ in given] if isinstance(given, (list, tuple)) else None
        elif are_groups(params):
            groups = [{k: v for k, v in own.items() if k != "params"} for own in params]
            for own in groups:
                self._refuse_unknown(own, self._setting_names)
            params = [own["params"] for own in params]
            self._refuse_unused(settings, groups)
        self._set_up(params, (settings, groups, None, given), values)

    def _refuse_unused(self, settings: Values, groups: list[Values]) -> None:
        """Settings for all groups are for some."""
        for name in set.intersection(*map(set, groups)):
            if settings[name] is not self._fields[name].default:
                raise ValueError(
                    f"{name} = {shown(settings[name])} has no effect: every group has its own {name}"
                )

    def _set_up(self, params: Any, arguments: tuple[Any, ...], options: Values) -> None:
        """What is made of checked arguments, or for a copy of `_arguments`."""
        self._settings = SettingValues.of(*arguments[:3])
        many = isinstance(arguments[3], (list, tuple))
        chains_given = arguments[3] if many else [arguments[3]]
        self._chains_given = None if arguments[3] is None else list(map(as_chain, chains_given))
        self._options = {k: v for k, v in options.items() if k not in ("state", "clip_norm")}
        chains = self._chains(self._settings)
        built = build(params, chains if self._settings.are_grouped else chains[0], **options)
        self._structure, self._groups, self._formats, self._watch, self._steps = built
        self._leaves = self._steps.parameters.leaves
        self._params = self._structure.build_read_only(map(leave, self._leaves))
        names = dict.fromkeys(name for group in self._groups for name in group.states)
        self._state = tree.ReadOnlyDict((name, self._shown(name)) for name in names)

    def _chains(self, settings: SettingValues) -> list[Chain]:
        """The chain of each group, by these settings."""
        chains = []
        for index, values in enumerate(settings.of_groups()):
            group = type(self).__new__(type(self))  # has settings, and nothing else
            group._settings, group._options = SettingValues(values, None, ()), self._options
            group._chains_given = self._chains_given
            chains.append(complete(group, group._parts(index)))
        return chains

    def _parts(self, index: int) -> Iterable[Transform]:
        """The transforms of a group without what the options add."""
        advice = "have transforms.add_decayed_weights in the chain, in front of the learning rate"
        check_decoupled_decay(self, (), advice)
        return self._chains_given[index] if self._chains_given else ()

    def _assign(self, name: str, value: Any, group: int | None = None) -> None:
        """Take another value for a setting of one group, or of all that have none of their own."""
        settings = self._settings.assigned(name, value, group)
        self._use_settings(settings, f"{name} = {shown(value)}")

    def _use_settings(self, settings: SettingValues, what: str) -> None:
        chains = self._chains(settings)
        if list(map(_kinds, chains)) != [_kinds(group.chain) for group in self._groups]:
            raise ValueError(
                f"{what} would change which transforms the optimizer is made of: make a new optimizer"
            )
        groups = zip(self._groups, chains, strict=True)
        changes = [assign(group, "chain", chain) for group, chain in groups]
        self._steps.refresh(chains, [*changes, assign(self, "_settings", settings)])

    @property
    def groups(self) -> tuple[GroupSettings, ...]:
        """The settings of each group, to read and to assign: ``opt.groups[1].lr = 1e-4``."""
        return tuple(GroupSettings(self, index) for index in range(len(self._groups)))

    def current(self, name: str) -> float:
        """A number as it is in the coming step: of a schedule its value.

        Parameters
        ----------
        name : str
            Of a setting, such as ``"lr"``, or ``"clip_norm"``.

        Raises
        ------
        AttributeError
            There is no such setting.
        TypeError
            It is not a number.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD(np.zeros(3), lr=fastopt.schedules.exponential(0.5, 0.1))
        >>> opt.step(np.ones(3))
        >>> opt.current("lr")
        0.05
        """
        if name not in self._setting_names and name != "clip_norm":
            raise AttributeError(f"{type(self).__name__} has no setting {name!r}")
        return number_at(name, getattr(self, name), self.step_count)

    def _params_now(self) -> Any:
        if self._steps.params_behind:
            self._steps.catch_up()
        return self._params

    def _state_now(self) -> Mapping[str, Any]:
        self.catch_up()
        return self._state

    def _shown(self, name: str) -> Any:
        """A state in the form of `params`, with the arrays as the user knows them."""
        found = [array for group in self._groups for array in group.shown(name)]
        return self._structure.build_read_only(found)

    @property
    def last(self) -> GradientStats | None:
        """Norm of the last gradients and whether the step was skipped, where something asks for it."""
        return self._steps.last

    @property
    def step_count(self) -> int:
        """How many steps were taken."""
        self._steps.settle()
        return self._steps.count

    @property
    def source(self) -> str:
        """The fused loop, as the Python source that is compiled (of the first group)."""
        return self._steps.source

    def step(self, grads: Any, *, grad_scale: float = 1.0, stream: Any = None) -> None:
        """Update the parameters and states in place.

        Parameters
        ----------
        grads : array, or structure of arrays like `params`
            The gradients: shaped like the parameters, C-contiguous; float64 for parameters of float64,
            else of any of the other dtypes. With None in the place of a gradient, that parameter and
            its states are left out of this step. With `sparse` also pairs ``(rows, values)`` and
            arrays of `scipy.sparse`; duplicates are summed.
        grad_scale : float, optional
            Gradients are multiplied by ``1 / grad_scale`` first (mixed-precision training scales
            the loss up).
        stream : stream, optional
            On a CUDA device: of Numba, CuPy, torch, with ``__cuda_stream__``, or a handle. Where none
            is given, that on which the gradients' library works now. The call does not wait.

        Raises
        ------
        TypeError, ValueError
            A gradient or a hyperparameter is not acceptable. Nothing was changed.
        """
        self._steps.step(grads, grad_scale, stream)

    def advance(self, *, stream: Any = None) -> None:
        """Get ready for the next replay of a CUDA graph that a step was captured in.

        A captured launch cannot be given other arguments. With ``capturable=True`` the numbers of a
        step (learning rate, bias corrections, the limit of `clip_norm`) are in the memory of the
        device; this puts those of the next step there and counts it. Call it before each replay.

        Parameters
        ----------
        stream : stream, optional
            As for `step`: the one that the graph is launched on.

        Raises
        ------
        ValueError
            The optimizer was made without ``capturable=True``.
        """
        self._steps.advance(stream)

    @property
    def _depends_on_step(self) -> bool:
        """Whether the number of a step has an effect on it."""
        return self._steps.varies or self._watch.varies

    def _go_to_step(self, step: Any) -> None:
        """Continue as if `step` steps had been taken."""
        self._steps.go_to(whole_number("step", step))

    def decoded(self, name: str) -> Any:
        """A state as numbers to compute with, whatever it is stored in.

        Parameters
        ----------
        name : str
            Of the state.

        Returns
        -------
        array, or structure of arrays like `params`
            Copies, shaped like the parameters; None where a chain does not have the state.
        """
        if name not in self._state:
            raise ValueError(f"name must be one of {list(self._state)}, got {name!r}")
        self.catch_up()
        numbers = [own for group in self._groups for own in group.decoded(name)]
        return self._structure.build(numbers)

    def catch_up(self, rows: Any = None) -> None:
        """Bring rows up to date that had no gradient lately, where ``sparse="exact"`` left them behind.

        Reading `state` does so by itself. It is needed before parameters are read, copied or saved that
        move without a gradient (with momentum or weight decay); other parameters never are behind.

        Parameters
        ----------
        rows : array of int, or structure of them like `params`, optional
            Only these rows, in time proportional to their number: those that the next gradient is
            taken at. None in a structure stands for no rows. By default all.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.ones((1000, 2))
        >>> opt = fastopt.SGD(w, lr=0.5, momentum=0.5, sparse="exact")
        >>> opt.step((np.array([3]), np.array([[1.0, 1.0]])))
        >>> opt.step((np.array([7]), np.array([[1.0, 1.0]])))
        >>> opt.catch_up(np.array([3, 4]))
        >>> w[3]
        array([0.25, 0.25])
        """
        if rows is None:
            self._steps.catch_up()
            return
        wanted = {}
        names, found = self._structure.names("rows"), self._structure.match(rows, "rows")
        for index, (name, own) in enumerate(zip(names, found, strict=True)):
            if own is not None:
                wanted[index] = np.unique(checks.check_rows(name, own, self._leaves[index]))
        self._steps.catch_up(wanted)

    def _arguments(self) -> tuple[Any, ...]:
        """What `_set_up` makes another one like this from, beside the parameters and options."""
        chains, settings = self._chains_given, self._settings.arguments
        return *settings, chains[0] if chains and settings[1] is None else chains

    def __repr__(self) -> str:
        return text.as_call(self)

    def _repr_html_(self) -> str:
        return text.as_table(self)


def _kinds(chain: Chain) -> list[Any]:
    return [(transform.update, transform.slots()) for transform in chain]
