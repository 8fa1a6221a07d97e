"""`Optimizer`: a chain at work on the user's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numba

from fastopt.executors import drivers
from fastopt.executors.compiled import kernel, source
from fastopt.executors.gate import SKIPPED, headers_are_readable
from fastopt.executors.launch import check_executor, check_home, launcher
from fastopt.layouts import arrays, homes, tree
from fastopt.layouts.columns import COUNT, HYPER, LENGTH
from fastopt.layouts.files import StateFiles
from fastopt.layouts.table import Table
from fastopt.optimizers.gradients import Gradients
from fastopt.optimizers.group import make_groups
from fastopt.optimizers.hyperparameters import Hyperparameters
from fastopt.optimizers.on_device import OnDevice
from fastopt.optimizers.row_gradients import RowGradient
from fastopt.optimizers.show import show_all
from fastopt.optimizers.sparse import RowSteps, check_mode
from fastopt.optimizers.storage import Formats
from fastopt.optimizers.watch import Last, Watch
from fastopt.optimizers.work import Work
from fastopt.transforms.base import Chain, Transform
from fastopt.validation import Setting, finite_positive, flag


class Optimizer(OnDevice):
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
    executor : {"auto", "serial", "parallel", "reference", "cuda", "cuda-fast"}, optional
        Where the loop runs: on one core, on all, in plain Python, or on one or all by size. The
        results are the same bits, whichever it is. Arrays on a CUDA device step there; "cuda-fast"
        with roots and quotients that may be a few units in the last place off.
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
    last : Last or None
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
        "_by_header",
        "_compiled",
        "_executor",
        "_formats",
        "_grad_scale",
        "_gradients",
        "_groups",
        "_guarded",
        "_hyper",
        "_launch",
        "_leaves",
        "_looks_first",
        "_params",
        "_ranges",
        "_rows",
        "_sparse",
        "_state",
        "_table",
        "_varies",
        "_watch",
        "_work",
        "_zero_grad",
    )

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
        self._device = None
        self._watch = Watch(clip_norm, skip_nonfinite)
        self._zero_grad = flag("zero_grad", zero_grad)
        self._sparse = check_mode(sparse)
        self._formats = Formats(state_dtype, stochastic_rounding, seed)
        self._params = params
        with StateFiles(state_dir) as files:
            self._groups = make_groups(params, chain, dict(state or {}), files, self._formats)
            self._work = Work(self._groups, self._zero_grad)
            self._leaves = self._work.leaves
            on_device = homes.check_one_home(
                pair for group in self._groups for pair in group.everything()
            )
            check_home(self._executor, on_device, self._capturable, self._sparse)
            written = [span for group in self._groups for span in group.written()]
            arrays.check_distinct(written)
            self._formats.check_names([group.chain for group in self._groups])
            for group in self._groups:
                group.check_inputs_apart(written)
            # Gradients that are cleared must leave alone what is only read.
            read = [span for group in self._groups for span in group.read()]
            self._guarded = written + read if self._zero_grad else written
            self._begin(on_device)

    def _begin(self, on_device: bool) -> None:
        """Get ready for the first step."""
        self._state = {name: self._structure_of(name) for name in self._state_names()}
        self._step_count = 0
        self._grad_scale = 1.0
        dithers = any(group.dithers for group in self._groups)
        self._hyper = Hyperparameters(self._groups, self._formats.phase if dithers else None)
        self._hyper.fill(0, 1.0)
        self._varies = self._hyper.varies
        if on_device:
            self._prepare_device()
        else:
            self._prepare()

    def _prepare(self) -> None:
        """Compile what is needed and fill in the table that the compiled code works from."""
        may_skip = tree.is_branch(self._params)
        self._table = Table(self._leaves, self._work.slots, self._guarded, self._zero_grad, may_skip)
        self._rows, self._ranges = self._table.rows, self._table.ranges
        self._gradients = Gradients(
            self._params, self._leaves, self._table, self._guarded, self._zero_grad, self._sparse
        )
        # Most steps do not scale their gradients: a factor is compiled in when it is first asked for.
        self._scales = self._watch.clip_norm is not None
        self._looks_first = self._watch.is_on or (self._zero_grad and len(self._leaves) > 1)
        self._compiled = self._executor != "reference" and not numba.config.DISABLE_JIT
        self._by_header = self._compiled and headers_are_readable()
        self._row_steps = RowSteps(
            self._sparse, self._work, self._hyper, self._rows, self._executor, self._compiled
        )
        if not self._compiled:
            return
        self._use_kernels()
        self._launch = launcher(self._executor, self._table.size)
        self._watch.prepare(self._executor, [leaf.size for leaf in self._leaves])

    def _use_kernels(self) -> None:
        """Let the table point to the kernels, compiled now if they are new."""
        if self._device is not None:
            self._use_device_kernels()
            return
        for row in range(len(self._leaves)):
            job = self._work.job(row, self._table.expected(row), self._scales)
            self._table.use(row, kernel(job), self._hyper.of(row))

    @property
    def last(self) -> Last | None:
        """Norm of the last gradients and whether the step was skipped, where something asks for it."""
        return self._watch.last if self._device is None else self._last_on_device()

    @property
    def step_count(self) -> int:
        """How many steps were taken."""
        self._settle()
        return self._step_count

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
        return chains[0] if self._groups[0].params is self._params else chains

    @property
    def source(self) -> str:
        """The fused loop, as the Python source that is compiled (of the first group)."""
        if self._device is not None:
            return self._device.source
        return source(self._work.job(0, self._table.expected(0), self._scales))

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
        if self._device is not None or stream is not None:
            self._step_elsewhere(grads, grad_scale, stream)
            return
        if type(grad_scale) is not float or grad_scale != self._grad_scale:
            self._set_grad_scale(grad_scale)
        elif self._varies:
            self._hyper.fill(self._step_count, grad_scale)
        found = self._gradients.find(grads)
        if self._row_steps.behind:
            self._row_steps.catch_up(found)
        if self._looks_first:
            self._step_in_two(found)
            return
        if self._by_header:
            status = self._launch(self._rows, self._gradients.items(found), self._ranges)
            if status == -1:
                self._step_count += 1
                return
            if status == SKIPPED:
                self._count_step({})
                return
        sparse = self._check(found)
        self._run(found, sparse)
        self._count_step(sparse)

    def _run(self, found: list[Any], sparse: Mapping[int, RowGradient]) -> None:
        """Step with gradients that were checked and whose addresses are in the table."""
        self._row_steps.look_ahead(sparse)
        if len(sparse) == len(found):
            pass  # nothing is left for the table
        elif self._compiled:
            self._launch(self._rows, self._gradients.known, self._ranges)
        else:
            self._work.interpret([None if i in sparse else g for i, g in enumerate(found)], self._hyper)
        self._row_steps.step(sparse, self._zero_grad)

    def _check(self, found: list[Any]) -> Mapping[int, RowGradient]:
        """Check the gradients, or raise; gradients in another format than before get other kernels."""
        sparse, changed = self._gradients.check(found)
        if changed and self._compiled:
            self._use_kernels()
        return sparse

    def _count_step(self, sparse: Mapping[int, RowGradient]) -> None:
        """Count a step in which some arrays may have been left out: their own count stays."""
        left_out = (self._rows[:, COUNT] == 0) & (self._rows[:, LENGTH] > 0)
        left_out[list(sparse)] = False
        self._step_count += 1
        if left_out.any():
            lags = [lag + int(out) for lag, out in zip(self._hyper.lags, left_out, strict=True)]
            self._arrange(lags)

    def _arrange(self, lags: Sequence[int]) -> None:
        self._hyper.arrange(lags)
        if self._device is not None:
            self._use_device_kernels()
        else:
            for row in range(len(self._leaves)):
                self._rows[row, HYPER] = arrays.address(self._hyper.of(row))
        self._varies = self._hyper.varies
        if not self._varies:  # otherwise the next step does it
            self._hyper.fill(self._step_count, self._grad_scale)

    def _step_in_two(self, found: list[Any]) -> None:
        """Look at all gradients first, to measure them or see that they can be cleared; then step."""
        status = self._look(self._gradients.items(found)) if self._by_header else 0
        sparse: Mapping[int, RowGradient] = {}
        if status >= 0:
            sparse = self._check(found)
            self._look(self._gradients.known)
        elif self._zero_grad and self._gradients.share_memory():
            self._gradients.check(found)  # raises the error
        if self._watch.is_on:
            looked = [sparse[i].once() if i in sparse else grad for i, grad in enumerate(found)]
            if not self._compiled:
                self._watch.look_in_python(looked)
            elif sparse:
                self._watch.look_at(looked)
            limit = self._watch.limit_at(self._step_count)
            factor = self._watch.decide(looked, self._grad_scale, limit)
            if factor is None:
                return
            self._hyper.scale_gradients(factor)
        self._run(found, sparse)
        self._count_step(sparse)

    def _look(self, items: int) -> int:
        """Note the gradients' addresses, and sum their squares if the norm is wanted."""
        if not self._compiled:
            return -1
        if self._watch.is_on:
            return self._watch.look(self._rows, items, self._ranges)
        return drivers.bind()(self._rows, items, self._ranges)

    def _set_grad_scale(self, grad_scale: Any) -> None:
        scale = finite_positive("grad_scale", grad_scale)
        self._hyper.fill(self._step_count, scale)
        self._grad_scale = scale
        if (self._device is not None or self._compiled) and not self._scales:
            self._scales = True
            self._use_kernels()

    def _go_to_step(self, step: Any) -> None:
        """Continue as if `step` steps had been taken."""
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise TypeError(f"step must be a whole number, not {step!r}")
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        self._settle()
        self._hyper.fill(int(step), self._grad_scale)
        self._step_count = int(step)

    def _set_up(self, params: Any, arguments: tuple[Any, ...], means: dict[str, Any]) -> None:
        """``__init__`` for a copy, from `_arguments`: a subclass may have another one."""
        Optimizer.__init__(self, params, *arguments, **means)

    def _replace_chains(self, chains: Sequence[Chain]) -> None:
        """Take other hyperparameters for the same transforms."""
        for group, chain in zip(self._groups, chains, strict=True):
            group.chain = chain
        self._hyper.fill(self._step_count, self._grad_scale)
        self._varies = self._hyper.varies

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
