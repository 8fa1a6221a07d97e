"""`Optimizer`: a chain at work on the user's arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numba
import numpy as np

from fastopt.executors import reference
from fastopt.executors.compiled import kernel, source
from fastopt.executors.gate import headers_are_readable
from fastopt.executors.launch import check_executor, launcher
from fastopt.layouts import arrays, tree
from fastopt.layouts.allocate import full
from fastopt.layouts.arrays import Array
from fastopt.layouts.columns import GRAD
from fastopt.layouts.table import Table
from fastopt.transforms.base import Chain, Part, Transform
from fastopt.transforms.base import chain as make_chain
from fastopt.validation import Hyper, finite_positive


class _Group(NamedTuple):
    """Arrays of one dtype that share a chain and so a kernel and hyperparameters."""

    chain: Chain
    parts: tuple[Part, ...]
    dtype: np.dtype[Any]
    members: list[int]
    hyper: Array


class Optimizer:
    """Update arrays in place with a chain of transforms, fused into one pass over memory.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays
        What to optimise: float32 or float64, C-contiguous, writeable, of any shape. Never copied.
    chain : Chain or Transform
        The mathematics, see `fastopt.chain`.
    state : mapping of str to array, optional
        Arrays of the caller's to keep a state in, by name, with their content; shaped like `params`.
    executor : {"auto", "serial", "parallel", "reference"}, optional
        Where the loop runs: on one core, on all, in plain Python, or on one or all by size. The
        results are the same bits, whichever it is.

    Attributes
    ----------
    state : dict
        Name of each state array -> the array, or a structure of arrays like `params`. Live.
    step_count : int
        How many steps were taken.

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
        chain: Chain | Transform,
        *,
        state: Mapping[str, Any] | None = None,
        executor: str = "auto",
    ) -> None:
        if isinstance(chain, Transform):
            chain = make_chain(chain)
        if not isinstance(chain, Chain):
            raise TypeError(f"chain must come from fastopt.chain, not be {type(chain).__name__}")
        self._executor = check_executor(executor)
        self._params = params
        self._chain = chain
        self._names = [tree.describe("params", path) for path, _ in tree.leaves(params)]
        self._leaves: list[Array] = [leaf for _, leaf in tree.leaves(params)]
        for name, leaf in zip(self._names, self._leaves, strict=True):
            arrays.check_writeable(name, leaf)
        self._step_count = 0
        self._grad_scale = 1.0
        self._groups = self._make_groups(chain)
        self._states = self._make_states(dict(state or {}))
        self.state = {name: tree.rebuild(params, iter(own)) for name, own in self._states.items()}
        arrays.check_distinct(self._written())
        self._prepare()

    def _make_groups(self, chain: Chain) -> list[_Group]:
        groups = []
        for dtype in arrays.DTYPES:
            members = [i for i, leaf in enumerate(self._leaves) if leaf.dtype == dtype]
            if members:
                parts = chain.parts()
                reference.probe(parts, dtype)
                buffer = np.empty(1 + sum(part.hypers for part in parts), dtype)
                groups.append(_Group(chain, parts, dtype, members, buffer))
        return groups

    def _make_states(self, given: dict[str, Any]) -> dict[str, list[Array]]:
        """The arrays of each state: the user's where given, else new ones."""
        initial = self._chain.states()
        unknown = given.keys() - initial.keys()
        if unknown:
            raise ValueError(
                f"state has unknown names {sorted(unknown)}; this chain has {sorted(initial)}"
            )
        states = {}
        for name, value in initial.items():
            if name not in given:
                states[name] = [full(leaf.shape, leaf.dtype, value) for leaf in self._leaves]
                continue
            label = f"state[{name!r}]"
            states[name] = list(tree.leaves_like(self._params, given[name], label))
            for array, leaf in zip(states[name], self._leaves, strict=True):
                arrays.check_writeable(label, array)
                arrays.check_like(label, array, leaf)
        return states

    def _prepare(self) -> None:
        """Compile what is needed and fill in the table that the compiled code works from."""
        self._varies = self._chain.varies
        by_leaf = [list(own) for own in zip(*self._states.values(), strict=True)]
        self._table = Table(self._leaves, by_leaf or [[] for _ in self._leaves])
        self._rows, self._ranges = self._table.rows, self._table.ranges
        self._ids = np.zeros(len(self._leaves), np.int64)
        self._addressed = np.zeros(len(self._leaves), np.int64)
        self._single = not tree.is_branch(self._params)
        self._flat = isinstance(self._params, (list, tuple)) and not any(
            map(tree.is_branch, self._params)
        )
        self._compiled = self._executor != "reference" and not numba.config.DISABLE_JIT
        self._by_header = self._compiled and headers_are_readable()
        self._fill_hyper(self._step_count)
        if not self._compiled:
            return
        for group in self._groups:
            code = kernel(group.parts, group.dtype)
            for row in group.members:
                self._table.use(row, code, group.hyper)
        self._launch = launcher(self._executor, self._table.size)

    def _replace_chain(self, chain: Chain) -> None:
        """Take other hyperparameters for the same transforms, or leave everything as it was."""
        before = self._chain, self._groups
        self._chain, self._varies = chain, chain.varies
        self._groups = [group._replace(chain=chain) for group in self._groups]
        try:
            self._fill_hyper(self._step_count)
        except BaseException:
            self._chain, self._groups = before
            self._varies = self._chain.varies
            raise

    def _fill_hyper(self, step: int) -> None:
        """Write the hyperparameters of a step where the kernels read them, all or none."""
        filled = []
        for group in self._groups:
            values = group.chain.hyper_at(step)
            numbers: Hyper = (1.0 / self._grad_scale, *(x for part in values for x in part))
            cast = _rounded(numbers, group.dtype)
            if cast.shape != group.hyper.shape:
                raise ValueError(
                    f"hyper gave {len(numbers) - 1} numbers at step {step}, "
                    f"{group.hyper.size - 1} before"
                )
            if not np.isfinite(cast).all():
                for transform, part in zip(group.chain, values, strict=True):
                    if not np.isfinite(_rounded(part, group.dtype)).all():
                        raise ValueError(
                            f"the hyperparameters of transform {transform.name!r} must be finite in "
                            f"{group.dtype}, got {part} at step {step}"
                        )
            if not 0.0 < cast[0] < np.inf:
                raise ValueError(
                    f"grad_scale must have a finite inverse above zero in {group.dtype}, "
                    f"got {self._grad_scale!r}"
                )
            filled.append(cast)
        for group, cast in zip(self._groups, filled, strict=True):
            group.hyper[:] = cast

    @property
    def step_count(self) -> int:
        """How many steps were taken."""
        return self._step_count

    @property
    def params(self) -> Any:
        """The arrays being optimised, as they were given."""
        return self._params

    @property
    def chain(self) -> Chain:
        """The mathematics: what is compiled."""
        return self._chain

    @property
    def executor(self) -> str:
        """As chosen when the optimizer was made."""
        return self._executor

    @property
    def source(self) -> str:
        """The fused loop, as the Python source that is compiled."""
        return source(self._chain.parts())

    def step(self, grads: Any, *, grad_scale: float = 1.0) -> None:
        """Update the parameters and states in place.

        Parameters
        ----------
        grads : array, or structure of arrays like `params`
            The gradients: same shapes and dtypes as the parameters, C-contiguous. Only read.
        grad_scale : float, optional
            Gradients are multiplied by ``1 / grad_scale`` first (mixed-precision training scales
            the loss up).

        Raises
        ------
        TypeError, ValueError
            A gradient or a hyperparameter is not acceptable. Nothing was changed.
        """
        if type(grad_scale) is not float or grad_scale != self._grad_scale:
            self._set_grad_scale(grad_scale)
        if self._varies:
            self._fill_hyper(self._step_count)
        if not self._by_header:
            self._step_checked(grads)
        else:
            ids = self._ids
            if self._single:
                ids[0] = id(grads)
            elif self._flat and type(grads) is list and len(grads) == len(ids):
                ids[:] = np.fromiter(map(id, grads), np.int64, len(ids))
            else:
                # A list: a mapping may make its arrays when asked, and they must outlive the step.
                found = list(tree.leaves_like(self._params, grads, "grads"))
                ids[:] = np.fromiter(map(id, found), np.int64, len(ids))
            if self._launch(self._rows, ids, self._ranges) >= 0:
                self._step_checked(grads)
        self._step_count += 1

    def _go_to_step(self, step: Any) -> None:
        """Continue as if `step` steps had been taken."""
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise TypeError(f"step must be a whole number, not {step!r}")
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        self._fill_hyper(int(step))
        self._step_count = int(step)

    def _set_grad_scale(self, grad_scale: Any) -> None:
        before = self._grad_scale
        self._grad_scale = finite_positive("grad_scale", grad_scale)
        try:
            self._fill_hyper(self._step_count)
        except BaseException:
            self._grad_scale = before
            raise

    def _step_checked(self, grads: Any) -> None:
        """Check the gradients in Python, which raises the errors, and step."""
        found = list(tree.leaves_like(self._params, grads, "grads"))
        written = list(self._written())
        for name, grad, param in zip(self._names, found, self._leaves, strict=True):
            name = name.replace("params", "grads", 1)
            arrays.check_gradient(name, grad, param)
            arrays.check_apart(name, grad, written)
        if not self._compiled:
            self._step_reference(found)
            return
        self._rows[:, GRAD] = [arrays.address(grad) for grad in found]
        self._launch(self._rows, self._addressed, self._ranges)

    def _written(self) -> Iterator[arrays.Range]:
        """The memory that a step writes, with names for errors."""
        for name, leaf in zip(self._names, self._leaves, strict=True):
            yield arrays.memory_range(name, leaf)
        for state, own in self._states.items():
            for name, array in zip(self._names, own, strict=True):
                yield arrays.memory_range(name.replace("params", f"state[{state!r}]", 1), array)

    def _step_reference(self, grads: list[Array]) -> None:
        for group in self._groups:
            hyper = group.chain.hyper_at(self._step_count)
            for i in group.members:
                states = [own[i].reshape(-1) for own in self._states.values()]
                param, grad = self._leaves[i].reshape(-1), grads[i].reshape(-1)
                reference.step(group.parts, hyper, group.hyper[0], param, grad, states)

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in self._leaves)
        return f"{type(self).__name__}({size} elements, {self._chain!r}, executor={self._executor!r})"


def _rounded(numbers: Hyper, dtype: np.dtype[Any]) -> Array:
    """In the dtype of a kernel: what is too large is infinite, without a warning."""
    with np.errstate(over="ignore"):
        return np.array(numbers, dtype)
