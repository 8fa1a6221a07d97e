"""`Optimizer`: a chain at work on the user's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numba
import numpy as np

from fastopt.executors import drivers, norm, reference
from fastopt.executors.compiled import kernel, source
from fastopt.executors.gate import SKIPPED, headers_are_readable
from fastopt.executors.launch import check_executor, launcher, norm_launcher
from fastopt.layouts import arrays, tree
from fastopt.layouts.arrays import Array
from fastopt.layouts.columns import COUNT, GRAD, HYPER, ITEMSIZE, LENGTH
from fastopt.layouts.table import Table
from fastopt.optimizers.checkpoint import Checkpoint
from fastopt.optimizers.group import Group
from fastopt.optimizers.hyperparameters import Hyperparameters
from fastopt.transforms.base import Chain, Transform
from fastopt.transforms.base import chain as make_chain
from fastopt.validation import Setting, at, finite_positive, flag, positive


class Last(NamedTuple):
    """What is known of the last step when `clip_norm` or `skip_nonfinite` is on."""

    norm: float
    """The global norm of the gradients after unscaling, before clipping."""
    skipped: bool
    """Whether the step was left out."""


class Optimizer(Checkpoint):
    """Update arrays in place with a chain of transforms, fused into one pass over memory.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, nested at will
        What to optimise: float32 or float64, C-contiguous, writeable, of any shape. Never copied.
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
        Keep the states in files of this folder, as memory maps.
    executor : {"auto", "serial", "parallel", "reference"}, optional
        Where the loop runs: on one core, on all, in plain Python, or on one or all by size. The
        results are the same bits, whichever it is.

    Attributes
    ----------
    state : dict
        Name of each state array -> the array, or a structure of arrays like `params`. Live.
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
        executor: str = "auto",
    ) -> None:
        self._executor = check_executor(executor)
        self._clip_norm = None if clip_norm is None else positive("clip_norm", clip_norm)
        self._skip_nonfinite = flag("skip_nonfinite", skip_nonfinite)
        self._zero_grad = flag("zero_grad", zero_grad)
        self._params = params
        self._groups = self._make_groups(chain, dict(state or {}), state_dir)
        self._leaves = [leaf for group in self._groups for leaf in group.leaves]
        self._written = [span for group in self._groups for span in group.written()]
        arrays.check_distinct(self._written)
        for group in self._groups:
            group.check_inputs_apart(self._written)
        self.state = {name: self._structure_of(name) for name in self._state_names()}
        self.last: Last | None = None
        self._step_count = 0
        self._grad_scale = 1.0
        self._hyper = Hyperparameters(self._groups)
        self._hyper.fill(0, 1.0)
        self._prepare()

    def _make_groups(self, chain: Any, state: dict[str, Any], state_dir: Any) -> list[Group]:
        if isinstance(chain, (list, tuple)):
            if not isinstance(self._params, (list, tuple)) or len(self._params) != len(chain):
                raise ValueError(f"params must be a list with {len(chain)} entries, one for each chain")
            sections = [
                (own, _as_chain(part), f"params[{i}]", {name: all_[i] for name, all_ in state.items()})
                for i, (own, part) in enumerate(zip(self._params, chain, strict=True))
            ]
        else:
            sections = [(self._params, _as_chain(chain), "params", state)]
        known = {name for _, part, _, _ in sections for name in part.states()}
        unknown = sorted(state.keys() - known)
        if unknown:
            raise ValueError(f"state has unknown names {unknown}; the chain has {sorted(known)}")
        return [Group(*section, state_dir) for section in sections]

    def _state_names(self) -> list[str]:
        return list(dict.fromkeys(name for group in self._groups for name in group.states))

    def _structure_of(self, name: str) -> Any:
        """One state of all groups, in the form of `params`; None where a chain does not have it."""
        own: list[Array | None] = []
        for group in self._groups:
            own += group.states.get(name, [None] * len(group.leaves))
        return tree.rebuild(self._params, iter(own))

    def _prepare(self) -> None:
        """Compile what is needed and fill in the table that the compiled code works from."""
        slots = [own for group in self._groups for own in group.slots()]
        self._table = Table(
            self._leaves, slots, self._written, self._zero_grad, may_skip=tree.is_branch(self._params)
        )
        self._rows, self._ranges = self._table.rows, self._table.ranges
        self._ids = np.zeros(len(self._leaves), np.int64)
        self._addressed = np.zeros(len(self._leaves), np.int64)
        self._single = not tree.is_branch(self._params)
        branches = () if self._single else self._params
        self._flat = isinstance(self._params, (list, tuple)) and not any(map(tree.is_branch, branches))
        self._varies = self._hyper.varies
        self._watches_norm = self._clip_norm is not None or self._skip_nonfinite
        self._looks_first = self._watches_norm or (self._zero_grad and not self._single)
        self._compiled = self._executor != "reference" and not numba.config.DISABLE_JIT
        self._by_header = self._compiled and headers_are_readable()
        if not self._compiled:
            return
        row = 0
        for group in self._groups:
            for leaf in group.leaves:
                code = kernel(group.parts, leaf.dtype, self._zero_grad)
                self._table.use(row, code, self._hyper.of(row))
                row += 1
        self._launch = launcher(self._executor, self._table.size)
        if self._watches_norm:
            self._sums = np.zeros(norm.blocks([leaf.size for leaf in self._leaves]))
            self._launch_norm = norm_launcher(self._executor, self._table.size)

    @property
    def step_count(self) -> int:
        """How many steps were taken."""
        return self._step_count

    @property
    def params(self) -> Any:
        """The arrays being optimised, as they were given."""
        return self._params

    @property
    def executor(self) -> str:
        """As chosen when the optimizer was made."""
        return self._executor

    @property
    def chain(self) -> Any:
        """The mathematics: what is compiled. A list if every group has its own."""
        chains = [group.chain for group in self._groups]
        return chains[0] if self._groups[0].params is self._params else chains

    @property
    def source(self) -> str:
        """The fused loop, as the Python source that is compiled (of the first group)."""
        return source(self._groups[0].parts, self._zero_grad)

    def step(self, grads: Any, *, grad_scale: float = 1.0) -> None:
        """Update the parameters and states in place.

        Parameters
        ----------
        grads : array, or structure of arrays like `params`
            The gradients: same shapes and dtypes as the parameters, C-contiguous. With None in the
            place of a gradient, that parameter and its states are left out of this step.
        grad_scale : float, optional
            Gradients are multiplied by ``1 / grad_scale`` first (mixed-precision training scales
            the loss up).

        Raises
        ------
        TypeError, ValueError
            A gradient or a hyperparameter is not acceptable. Nothing was changed.
        """
        if grad_scale != self._grad_scale:
            self._set_grad_scale(grad_scale)
        elif self._varies:
            self._hyper.fill(self._step_count, grad_scale)
        if self._looks_first:
            self._step_in_two(grads)
            return
        if self._by_header:
            ids = self._ids
            if self._single:
                ids[0] = id(grads)
            else:
                self._identify(grads)
            status = self._launch(self._rows, ids, self._ranges)
            if status == -1:
                self._step_count += 1
                return
            if status == SKIPPED:
                self._count_step()
                return
        self._run(self._check(grads))
        self._count_step()

    def _identify(self, grads: Any) -> None:
        """Note which objects the gradients are, for the gate to look at."""
        if self._flat and type(grads) is list and len(grads) == len(self._ids):
            found = iter(grads)
        else:
            found = tree.leaves_like(self._params, grads, "grads")
        self._ids[:] = np.fromiter(map(id, found), np.int64, len(self._ids))

    def _check(self, grads: Any) -> list[Array | None]:
        """Check the gradients in Python, which raises the errors, and fill in their addresses."""
        found = list(tree.leaves_like(self._params, grads, "grads"))
        paths = [tree.describe("grads", path) for path, _ in tree.leaves(self._params)]
        for name, grad, param in zip(paths, found, self._leaves, strict=True):
            if grad is None and not self._single:
                continue
            arrays.check_gradient(name, grad, param)
            arrays.check_apart(name, grad, self._written)
            if self._zero_grad:
                arrays.check_writeable(name, grad)
        if self._zero_grad:
            named = zip(paths, found, strict=True)
            arrays.check_distinct(arrays.memory_range(n, g) for n, g in named if g is not None)
        addresses = [0 if grad is None else arrays.address(grad) for grad in found]
        self._rows[:, GRAD] = addresses
        self._rows[:, COUNT] = [
            0 if grad is None else leaf.size for grad, leaf in zip(found, self._leaves, strict=True)
        ]
        return found

    def _run(self, grads: Sequence[Array | None]) -> None:
        """Step with gradients that were checked and whose addresses are in the table."""
        if self._compiled:
            self._launch(self._rows, self._addressed, self._ranges)
            return
        row = 0
        for group in self._groups:
            for param, slots in zip(group.leaves, group.slots(), strict=True):
                grad, step = grads[row], self._step_count - self._hyper.lags[row]
                if grad is not None:
                    reference.step(
                        group.parts,
                        group.chain.hyper_at(step),
                        self._hyper.of(row)[0],
                        param.reshape(-1),
                        grad.reshape(-1),
                        [array.reshape(-1) for array in slots],
                    )
                    if self._zero_grad:
                        grad[...] = 0
                row += 1

    def _count_step(self) -> None:
        """Count a step in which some arrays may have been left out: their own count stays."""
        left_out = (self._rows[:, COUNT] == 0) & (self._rows[:, LENGTH] > 0)
        self._step_count += 1
        if left_out.any():
            lags = [lag + int(out) for lag, out in zip(self._hyper.lags, left_out, strict=True)]
            self._arrange(lags)

    def _arrange(self, lags: Sequence[int]) -> None:
        self._hyper.arrange(lags)
        self._hyper.fill(self._step_count, self._grad_scale)
        for row in range(len(self._leaves)):
            self._rows[row, HYPER] = arrays.address(self._hyper.of(row))

    def _step_in_two(self, grads: Any) -> None:
        """Look at all gradients first, to measure them or see that they can be cleared; then step."""
        checked: list[Array | None] = []
        status = 0
        if self._by_header:
            if self._single:
                self._ids[0] = id(grads)
            else:
                self._identify(grads)
            status = self._look(self._ids)
        if status >= 0:
            checked = self._check(grads)
            if self._compiled:
                self._look(self._addressed)
            else:
                self._sums = norm.reference([grad for grad in checked if grad is not None])
        elif self._zero_grad and not self._single and self._share_memory():
            self._check(grads)  # raises the error
        if self._watches_norm and not self._measure(grads):
            return
        self._run(checked)
        self._count_step()

    def _look(self, ids: Array) -> int:
        """Note the gradients' addresses, and sum their squares if the norm is wanted."""
        if self._watches_norm:
            return self._launch_norm(self._rows, ids, self._ranges, self._sums)
        return drivers.bind()(self._rows, ids, self._ranges)

    def _share_memory(self) -> bool:
        """Whether any two gradients overlap."""
        used = self._rows[self._rows[:, COUNT] > 0]
        starts = np.sort(used[:, GRAD])
        stops = np.sort(used[:, GRAD] + used[:, COUNT] * used[:, ITEMSIZE])
        return bool((stops[:-1] > starts[1:]).any())

    def _measure(self, grads: Any) -> bool:
        """Take the norm, set the factor that clips, and say whether to step."""
        size, finite = norm.total(self._sums) ** 0.5, True
        if not np.isfinite(size):
            found = tree.leaves_like(self._params, grads, "grads")
            size, finite = norm.careful([grad for grad in found if grad is not None])
        factor = 1.0 / self._grad_scale
        size *= factor
        self.last = Last(size if finite else float("nan"), self._skip_nonfinite and not finite)
        if self._clip_norm is not None and not self.last.skipped:
            limit = at(self._clip_norm, self._step_count)
            self._hyper.scale_gradients(factor * limit / size if size > limit else factor)
        return not self.last.skipped

    def _set_grad_scale(self, grad_scale: Any) -> None:
        scale = finite_positive("grad_scale", grad_scale)
        self._hyper.fill(self._step_count, scale)
        self._grad_scale = scale

    def _go_to_step(self, step: int) -> None:
        """Continue as if `step` steps had been taken."""
        self._hyper.fill(step, self._grad_scale)
        self._step_count = step

    @classmethod
    def _from_parts(cls, params: Any, arguments: tuple[Any, ...], means: dict[str, Any]) -> Self:
        return cls(params, *arguments, **means)

    def _replace_chains(self, chains: Sequence[Chain]) -> None:
        """Take other hyperparameters for the same transforms, or leave everything as it was."""
        before = [group.chain for group in self._groups]
        try:
            for group, chain in zip(self._groups, chains, strict=True):
                group.chain = chain
            self._hyper.fill(self._step_count, self._grad_scale)
        except BaseException:
            for group, chain in zip(self._groups, before, strict=True):
                group.chain = chain
            raise
        self._varies = self._hyper.varies

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in self._leaves)
        return f"{type(self).__name__}(<{size} elements>, {self.chain!r}, executor={self._executor!r})"


def _as_chain(chain: Any) -> Chain:
    if isinstance(chain, Transform):
        return make_chain(chain)
    if not isinstance(chain, Chain):
        raise TypeError(f"chain must come from fastopt.chain, not be {type(chain).__name__}")
    return chain
