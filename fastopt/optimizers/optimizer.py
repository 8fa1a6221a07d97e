"""`Optimizer`: a chain at work on the user's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

from fastopt.arrays import checks, placement, tree
from fastopt.arrays.checks import Range
from fastopt.arrays.memory_maps import StateFiles
from fastopt.changes import Change, assign
from fastopt.executors.dispatch import FAST, check_executor
from fastopt.executors.places import check_home
from fastopt.optimizers.readable import Readable
from fastopt.optimizers.repr import show_all
from fastopt.steps.clipping import GradientStats, NormClip
from fastopt.steps.gradients import Gradients
from fastopt.steps.group import make_groups
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.memory_stepper import MemoryStepper
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.sparse.row_stepper import check_mode
from fastopt.steps.state_formats import StateFormats
from fastopt.steps.stepper import Stepper
from fastopt.transforms.base import Chain, Transform
from fastopt.validation import EachCalledOnce, Setting, flag


class Optimizer(Readable):
    """Update arrays in place with a chain of transforms, fused into one pass over memory.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, nested at will
        What to optimise: float16, bfloat16, float32 or float64, C-contiguous, writeable, of any shape.
        Never copied. 16-bit numbers are computed with in float32.
    chain : Chain, or list of Chain
        The mathematics, see `fastopt.chain`. A list has a chain for each entry of the list `params`.
    clip_norm : float or schedule, optional
        Scale all gradients down so that their global norm is at most this. One more read of them.
    skip_nonfinite : bool, optional
        Leave out steps with a NaN or infinity in any gradient: they change nothing.
    zero_grad : bool, optional
        Clear the gradients in the same pass.
    state : mapping of str to array, optional
        Arrays of the caller's to keep a state in, by name, with their content; shaped like `params`.
    state_dir : path, optional
        Keep the states in files of this new or empty folder, as memory maps.
    sparse : {"exact", "lazy"}, optional
        Take gradients of some rows too: pairs ``(rows, values)`` and the arrays of `scipy.sparse`.
        Exact gives what zeros in the other rows would give; lazy leaves the other rows alone.
    state_dtype : dtype, "8bit" or mapping of str to these, optional
        How states are stored, for all or by name; by default like the parameters. See
        `fastopt.optimizers.named.Shared`.
    stochastic_rounding : bool, optional
        Round what has less than 32 bits up or down at random, right in the mean; by default 8-bit
        states only.
    seed : int, optional
        Of stochastic rounding.
    executor : {"auto", "serial", "parallel", "fast", "reference", "cuda", "cuda-fast"}, optional
        Where the loop runs: on one core, on all, in plain Python, or on one or all by size. Arrays
        on a CUDA device step there. The results are the same bits, whichever it is, but for "fast",
        which is "auto" with fused multiply-adds and roots and quotients that may be a few units in
        the last place off; "cuda-fast" is the same for a device only.
    capturable : bool, optional
        On a CUDA device: let steps be captured in a graph that goes on with the schedule, see
        `advance`.

    Attributes
    ----------
    state : mapping
        Name of each state array -> the array, or a structure of arrays like `params`. Live: the arrays
        can be written to, but not be replaced.
    step_count : int
        How many steps were taken.
    last : GradientStats or None
        Norm of the last gradients, and whether the step was skipped; None while nothing asks for it.

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
        "_capturable",
        "_executor",
        "_formats",
        "_groups",
        "_leaves",
        "_params",
        "_sparse",
        "_state",
        "_structure",
        "_watch",
        "_work",
        "_zero_grad",
    )

    _takes: ClassVar[type[Gradients]] = Gradients  # in memory

    def __init__(
        self,
        params: Any,
        chain: Chain | Transform | Sequence[Chain],
        *,
        clip_norm: Setting | None = None,
        skip_nonfinite: bool = False,
        zero_grad: bool = False,
        state: Mapping[str, Any] | None = None,
        state_dir: Any = None,
        sparse: str | None = None,
        state_dtype: Any = None,
        stochastic_rounding: bool | None = None,
        seed: int = 0,
        executor: str = "auto",
        capturable: bool = False,
    ) -> None:
        self._executor = check_executor(executor)
        self._capturable = flag("capturable", capturable)
        self._watch = NormClip(clip_norm, skip_nonfinite)
        self._zero_grad = flag("zero_grad", zero_grad)
        self._sparse = check_mode(sparse)
        self._formats = StateFormats(state_dtype, stochastic_rounding, seed)
        self._structure, leaves = tree.take_apart(params)
        self._params = self._structure.build_read_only(leaves)
        # Schedules are called once here, with step 0, so that a bad one is known at once.
        with EachCalledOnce(), StateFiles(state_dir) as files:
            self._watch.limit_at(0)
            self._groups = make_groups(
                self._structure, leaves, chain, dict(state or {}), files, self._formats
            )
            on_device = placement.check_one_home(
                pair for group in self._groups for pair in group.everything()
            )
            check_home(self._executor, on_device, self._capturable, self._sparse)
            self._work = ParameterSet(self._groups, self._zero_grad, self._executor in FAST)
            self._leaves = self._work.leaves
            written = [span for group in self._groups for span in group.written()]
            checks.check_distinct(written)
            self._formats.check_names([group.chain for group in self._groups])
            for group in self._groups:
                group.check_inputs_apart(written)
            # Gradients that are cleared must leave alone what is only read.
            read = [span for group in self._groups for span in group.read()]
            self._state = {name: self._shown(name) for name in self._state_names()}
            self._steps = self._make_steps(on_device, written + read if self._zero_grad else written)

    def _make_steps(self, on_device: bool, guarded: list[Range]) -> Stepper:
        """Get ready for the first step; no gradient may share the memory that is guarded."""
        dithers = any(group.dithers for group in self._groups)
        hyper = Hyperparameters(self._groups, self._formats.phase if dithers else None)
        common: dict[str, Any] = {
            "structure": self._structure,
            "guarded": guarded,
            "zero_grad": self._zero_grad,
        }
        if not on_device:
            common |= {"sparse": self._sparse, "executor": self._executor, "takes": self._takes}
            return MemoryStepper(self._work, hyper, self._watch, **common)
        from fastopt.steps.cuda_stepper import CudaStepper

        return CudaStepper(self._work, hyper, self._watch, capturable=self._capturable, **common)

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
    def clip_norm(self) -> Setting | None:
        """The largest norm of all gradients together; another number or schedule can be assigned."""
        return self._watch.clip_norm

    @clip_norm.setter
    def clip_norm(self, clip_norm: Setting | None) -> None:
        self._watch.change(clip_norm)

    @property
    def chain(self) -> Any:
        """The mathematics: what is compiled. A list if every group has its own."""
        chains = [group.chain for group in self._groups]
        return chains[0] if self._groups[0].structure is self._structure else chains

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

    def _go_to_step(self, step: Any) -> None:
        """Continue as if `step` steps had been taken."""
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise TypeError(f"step must be a whole number, not {step!r}")
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        self._steps.go_to(int(step))

    def _set_up(self, params: Any, arguments: tuple[Any, ...], means: dict[str, Any]) -> None:
        """``__init__`` for a copy, from `_arguments`: a subclass may have another one."""
        Optimizer.__init__(self, params, *arguments, **means)

    def _replace_chains(self, chains: Sequence[Chain], also: Sequence[Change] = ()) -> None:
        """Take other hyperparameters for the same transforms, and make what goes with them."""
        groups = zip(self._groups, chains, strict=True)
        changes = [assign(group, "chain", chain) for group, chain in groups]
        self._steps.refresh(chains, [*changes, *also])

    def _described(self) -> str:
        """What `repr` shows of the mathematics."""
        return repr(self.chain)

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in self._leaves)
        names = "clip_norm", "skip_nonfinite", "zero_grad", "sparse"
        means = {name: getattr(self, name) for name in names}
        means = {name: value for name, value in means.items() if value not in (None, False)}
        shown = f"{self._described()}, {show_all({**means, 'executor': self.executor})}"
        return f"{type(self).__name__}(<{size} elements>, {shown})"
