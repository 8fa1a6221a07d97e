"""`Optimizer`: a chain at work on the user's arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastopt.arrays.device_array import leave
from fastopt.arrays.tree import Tree
from fastopt.optimizers import group_settings
from fastopt.optimizers import repr as text
from fastopt.optimizers.automatic import current_rate, is_automatic
from fastopt.optimizers.averaged import Averaged
from fastopt.optimizers.chains import make_chains, read_chain, use_settings
from fastopt.optimizers.decoded import decoded_params, set_params
from fastopt.optimizers.group_settings import SettingValues
from fastopt.optimizers.saved import Saved
from fastopt.optimizers.settings import Field, Values, argument
from fastopt.optimizers.shared_options import SharedOptions, check_decoupled_decay
from fastopt.optimizers.suggestions import misspelt, suggestion
from fastopt.steps.build import build
from fastopt.steps.clipping import GradientStats
from fastopt.steps.group import shown_states
from fastopt.steps.sparse.entries import wanted_rows
from fastopt.steps.stats import Stats
from fastopt.text import name_methods_as
from fastopt.transforms.base import Chain, Transform, as_chain
from fastopt.validation import Setting, flag, shown


class Optimizer(Averaged, Saved, SharedOptions, shared=True):
    """Update arrays in place with a chain of transforms, fused into one pass over memory.

    Parameters
    ----------
    params : array, or nested lists, tuples and dicts of arrays
        What to optimize: float16, bfloat16, float32 or float64, C-contiguous, writeable, of any shape.
        Never copied. 16-bit numbers are computed with in float32.
    chain : Chain, or list of Chain
        The mathematics, see `fastopt.chain`. A list has a chain for each entry of the list `params`.
        Named optimizers, such as `RMSProp`, make it from their settings.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    params
        The arrays being optimized: those that were given, in containers that cannot be changed.
    chain
        What is compiled, with what the options added; a list if every group has its own.
    state : mapping
        Name of each state array -> the array, or a structure of arrays like `params`. Live: the arrays
        can be written to, but not be replaced.
    step_count : int
        How many steps were taken.
    last : GradientStats or None
        Norm of the last gradients, and whether the step was skipped; None while nothing asks for it.
    stats : mapping or None
        The statistics that were asked for, of the last step.
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
        "_settings",
        "_state",
        "_steps",
        "_structure",
        "_watch",
    )

    params: Field[Tree, object] = argument(lambda opt: opt._params_now())
    chain: Field[Any, Chain | Transform | Sequence[Chain]] = argument(read_chain)
    clip_norm: Field[float | Any, Setting | None] = argument(
        lambda opt: opt._watch.clip_norm,
        lambda opt, value: opt._watch.change(value),
        default=None,
        kw_only=True,
    )
    state: Field[Mapping[str, Tree], Mapping[str, object] | None] = argument(
        lambda opt: opt._state_now(), default=None, kw_only=True
    )
    stats: Field[Stats | None, Sequence[str] | None] = argument(
        lambda opt: opt._steps.read_stats(wait=False), default=None, kw_only=True
    )

    if not TYPE_CHECKING:  # checkers would allow any attribute

        def __setattr__(self, name, value):
            if not hasattr(type(self), name):
                self._refuse_attribute(name)
            super().__setattr__(name, value)

    def _refuse_attribute(self, name: str) -> None:
        """Raise AttributeError: for any unknown name, or for misspelt ones if others may be set."""
        accepted = [each for each, field in self._fields.items() if not field.fixed]
        takes_any = hasattr(self, "__dict__")
        hint = (misspelt if takes_any else suggestion)(name, accepted)
        if hint or not takes_any:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to assign{hint}")

    def _make(self, values: Values) -> None:
        settings = {name: values.pop(name) for name in self._setting_names}
        params, chains = values.pop("params"), None
        groups: list[Values] | None = None
        if "chain" in values:
            chains = values.pop("chain")
            several = isinstance(chains, (list, tuple))
            chains = list(map(as_chain, chains if several else [chains]))
            groups = [{} for _ in chains] if several else None
        elif group_settings.are_groups(params):
            params, groups = group_settings.read_groups(type(self), params, settings)
        self._set_up(params, (settings, groups, None, chains), values)

    def _set_up(self, params: object, arguments: tuple[Any, ...], options: Values) -> None:
        """What is made of checked arguments, or of those that a copy has."""
        self._settings = SettingValues.of(*arguments[:3])
        self._chains_given = arguments[3]
        self._options = {k: v for k, v in options.items() if k not in ("state", "clip_norm")}
        chains = make_chains(self, self._settings)
        built = build(params, chains if self._settings.are_grouped else chains[0], **options)
        self._structure, self._groups, self._formats, self._watch, self._steps = built
        self._leaves = self._steps.parameters.leaves
        self._params = self._structure.build_read_only(map(leave, self._leaves))
        self._state = shown_states(self._structure, self._groups)

    def _parts(self, index: int) -> Iterable[Transform]:
        """The transforms of a group without what the options add."""
        check_decoupled_decay(self, ())
        return self._chains_given[index] if self._chains_given else ()

    def _assign(self, name: str, value: object, group: int | None = None) -> None:
        """Take another value for a setting of one group, or of all that have none of their own."""
        use_settings(self, self._settings.assigned(name, value, group), f"{name} = {shown(value)}")

    @property
    def groups(self) -> tuple[group_settings.GroupSettings, ...]:
        """The settings of each group, to read and to assign: ``opt.groups[1].lr = 1e-4``."""
        return tuple(group_settings.GroupSettings(self, index) for index in range(len(self._groups)))

    def current(self, name: str) -> float:
        """The value of a setting at the coming step, of a schedule too; of ``lr="auto"`` at the last.

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
            hint = suggestion(name, self._setting_names)
            raise AttributeError(f"{type(self).__name__} has no setting {name!r}{hint}")
        if is_automatic(value := getattr(self, name)):
            return current_rate(self, range(len(self._groups)))
        return group_settings.number_at(name, value, self.step_count)

    def _params_now(self) -> Tree:
        if self._steps.params_behind:
            self._steps.catch_up()
        return self._params

    def _state_now(self) -> Mapping[str, Tree]:
        self.catch_up()
        return self._state

    @property
    def last(self) -> GradientStats | None:
        """Norm of the last gradients and whether the step was skipped; None if no option needs them."""
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

    def step(self, grads: object, *, grad_scale: float = 1.0, stream: object = None) -> None:
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

    def read_stats(self, *, wait: bool = True) -> Stats | None:
        """The statistics that the option `stats` asks for, of the last step that was taken.

        Parameters
        ----------
        wait : bool, default True
            Wait for a device to take the step. False gives the newest statistics that have arrived from
            there, as ``opt.stats`` does, whose `step` tells of which step they are. In memory, and with
            ``capturable=True``, there is no difference.

        Returns
        -------
        Stats or None
            None where there are none: before the first step, or after a load.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD(np.zeros(2), stats=["grad_norm"])
        >>> opt.step(np.array([3.0, 4.0]))
        >>> opt.read_stats()["grad_norm"]
        5.0
        """
        return self._steps.read_stats(wait=flag("wait", wait))

    def advance(self, *, stream: object = None) -> None:
        """Prepare the next replay of a CUDA graph in which a step was captured.

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

    def catch_up(self, rows: object = None) -> None:
        """Bring lagging rows up to date, those without recent gradients under ``sparse="exact"``.

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
            return self._steps.catch_up()
        self._steps.catch_up(wanted_rows(rows, self._structure, self._leaves))

    def decoded(self, name: str) -> Tree:
        """A state as floating-point numbers, decoded from the format that it is stored in.

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
        return self._structure.build(array for group in self._groups for array in group.decoded(name))

    def decoded_params(self) -> Tree:
        """The parameters as floating-point numbers, with what `master_bits` keeps beside them.

        Returns
        -------
        array, or structure of arrays like `params`
            Copies in the dtype of the arithmetic: float32, or float64 for parameters of float64.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.ones(2, np.float16)
        >>> opt = fastopt.SGD(w, lr=1e-4, master_bits=32)
        >>> opt.step(np.ones(2, np.float16))
        >>> w, opt.decoded_params()
        (array([1., 1.], dtype=float16), array([0.9999, 0.9999], dtype=float32))
        """
        return self._structure.build(decoded_params(self._steps, self._groups))

    def set_params(self, params: object) -> None:
        """Give the parameters other values, with what `master_bits` keeps beside them.

        Writing into the arrays is as good without `master_bits`. With it the corrections, which nobody
        sees, would stay those of the old values: by half a unit of the 16-bit number at most they would
        make others of the new ones. States stay as they are; but while no step was taken, those that
        start from the parameters, such as an average of them, start from the new ones.

        Parameters
        ----------
        params : array, or structure of arrays like `params`
            Shaped alike, of float16, bfloat16, float32 or float64: rounded to float32 first where the
            parameters are narrower than float64.

        Raises
        ------
        TypeError, ValueError
            An array is not acceptable. Nothing was changed.
        """
        set_params(self._steps, self._structure, self._groups, params)

    def __repr__(self) -> str:
        return text.as_call(self)

    def _repr_html_(self) -> str:
        return text.as_table(self)


name_methods_as("Optimizer", Averaged, Saved)
