"""The plan of a step, a launch for each device; rebuilt when parameters or states are replaced."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, compress, groupby
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor
from torch.autograd.graph import increment_version

from fastopt.arrays.checks import Array
from fastopt.arrays.object_layout import identities
from fastopt.executors.norm import Reducer
from fastopt.interop.torch.param_groups import ParamGroup
from fastopt.interop.torch.parameters import MakeChain, Row, sections
from fastopt.interop.torch.shards import part, placed
from fastopt.interop.torch.snapshot import Snapshot
from fastopt.interop.torch.tensor_stepper import TensorStepper
from fastopt.interop.torch.tensors import State, check_memory, plain
from fastopt.kernels.job import CORRECTION
from fastopt.steps.clipping import GradientStats
from fastopt.steps.stats import Stats
from fastopt.transforms.base import Chain


def layout_of(tensor: Tensor) -> tuple[object, ...]:
    """The address, dtype, shape and strides of a tensor, or of what this process has of it."""
    tensor = part(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


class Plan:
    """Rows to step, with checks that they are still those of torch's optimizer.

    Parameters
    ----------
    key
        What the plan depends on, besides the content of `state` and the layouts of tensors.
    rows : list of Row
    sparse : list of (group, Chain, Tensor)
        Parameters with a sparse gradient, which torch's functions step.
    others : list of Tensor
        Parameters without a gradient so far.
    state : mapping
        torch's, of all parameters.
    groups : list of dict
        torch's param groups.
    make_chain : callable
        The chain of a group, given NAdam's products.
    across : Reducer, optional
        The reductions over the processes that have the other shards.
    options : mapping
        Those of `steps.build.build`.
    before : Plan, optional
        The plan of the previous step.
    is_whole : bool
        Whether no other plan steps parameters that are in `state`.
    """

    def __init__(
        self,
        key: object,
        rows: list[Row],
        sparse: list[tuple[ParamGroup, Chain, Tensor]],
        others: list[Tensor],
        state: Mapping[Tensor, State],
        groups: list[ParamGroup],
        make_chain: MakeChain,
        across: Reducer | None,
        options: Mapping[str, Any],
        previous: Plan | None,
        is_whole: bool,
    ) -> None:
        self._taken = 0 if previous is None else previous.taken
        self.key, self.sparse, self._others = key, sparse, others
        self._groups = list(groups)  # kept alive: the key has their ids
        self._sections = sections(rows, groups, make_chain)
        self.rows = [row for section in self._sections for row in section.rows]
        self._params = [row.param for row in self.rows]
        self._counts = [row.count for row in self.rows]
        self._counted = any(count is not None for count in self._counts)
        self._is_sharded = any(row.is_sharded for row in self.rows)
        self._any_fresh = any(row.fresh for row in self.rows)
        self._has_products = any(row.ahead for row in self.rows)
        self._shadows = [(row.part, row.shadow) for row in self.rows if row.shadow is not None]
        self._state, self._stateful = state, [row for row in self.rows if row.tracked]
        self._owned = [*state, *state.values()] if is_whole else []
        self._identities = identities(self._owned) if is_whole else None
        self._tensors = [tensor for row in self.rows for tensor in row.tensors()]
        self._layouts = list(map(layout_of, self._tensors))
        self._multiply()
        self._of_no_gradients: GradientStats | None = None  # what `last` is after a step without any
        self._stats_before = None if previous is None else self._mine(previous.read_stats(wait=True))
        self.launches: list[tuple[TensorStepper, slice]] = []
        position = 0
        for _, group in groupby(
            self._sections, key=lambda section: (section.device, section.capturable)
        ):
            together = list(group)
            first, position = position, position + sum(len(section.rows) for section in together)
            is_split = any(CORRECTION in row.names for section in together for row in section.rows)
            master_bits = options["master_bits"] if is_split else None
            launch = TensorStepper(together, **{**options, "master_bits": master_bits})
            self.launches.append((launch, slice(first, position)))
        if across is not None:
            self.launches[0][0].stepper.take_part(0, across)
        if not self._counted:
            starts = np.array([self._start(row) for row in self.rows], np.int64)
            for launch, rows_ in self.launches:
                launch.continue_from(starts[rows_])
        self.carried = [each.carried for each, _ in self.launches if each.carried is not None]
        for each in self.carried:  # of several devices only numbers of single parameters
            each.load(None if previous is None else next(iter(previous.carried), None))
        self._snapshot = None
        if len(self.launches) == 1 and not self._is_sharded:
            stepper = self.launches[0][0].stepper
            # In memory a norm that overflows is measured again, with arrays.
            # Transforms with sums are told which arrays have a gradient.
            first = stepper.reads_first or stepper.decisions.passes
            notes = bool(self.rows) and (self.rows[0].param.is_cuda or not first)
            self._snapshot = Snapshot.of(self.rows, others, stepper, notes, state if is_whole else None)

    def _start(self, row: Row) -> int:
        """The step count of a row where torch does not count: a momentum must know its first step."""
        if row.fresh:
            return 0
        return max(1, self._taken) if "momentum_buffer" in row.names else self._taken

    @property
    def last(self) -> GradientStats | None:
        """The statistics of the last gradients, if there is a limit."""
        if self._of_no_gradients is not None:
            return self._of_no_gradients
        return self.launches[0][0].stepper.last if self.launches else None

    def read_stats(self, *, wait: bool) -> Stats | None:
        """The statistics of the last step, or of the newest that has arrived; by parameter."""
        stats: Stats | None = None
        if self.launches:
            stats = self.launches[0][0].stepper.read_stats(wait=wait)
        if stats is None:
            return self._stats_before
        each = {
            name: {
                row.param: number
                for row, number in zip(self.rows, chain(*lists), strict=True)
                if number is not None
            }
            for name, lists in stats.per_array.items()
        }
        return Stats(dict(stats), each, stats.step)

    def _mine(self, stats: Stats | None) -> Stats | None:
        """Statistics without parameters that this plan does not step, whose memory they would keep."""
        if stats is None:
            return None
        each = {
            name: {param: numbers[param] for param in self._params if param in numbers}
            for name, numbers in stats.per_array.items()
        }
        return Stats(dict(stats), each, stats.step)

    def forget_stats(self) -> None:
        """Have no statistics until the next step: torch has other states now."""
        self._stats_before = None
        for launch, _ in self.launches:
            launch.stepper.forget_stats()

    def save_carried(self) -> None:
        """Put what goes from step to step beside states into param groups and states."""
        for each in self.carried:
            each.save()

    def _multiply(self) -> bool:
        return not self._has_products or all(section.multiply() for section in self._sections)

    def is_current(self, state: Mapping[Tensor, State]) -> bool:
        """Whether all states are the same tensors, with the same layouts, and none is new.

        Anything may have been replaced since the last step: by loading, by ``.data``, by hand.
        """
        if state is not self._state:
            return False
        if self._identities is None:
            if any(state.get(row.param) is not row.state for row in self._stateful):
                return False
        elif self._snapshot is None and identities([*state, *state.values()]) != self._identities:
            return False
        if not (self._are_same() if self._snapshot is None else self._snapshot.is_same()):
            return False
        if self._snapshot is None and any(param.grad is not None for param in self._others):
            return False
        if any(param.grad is not None and not param.grad.is_sparse for *_, param in self.sparse):
            return False
        return self._multiply()

    def _are_same(self) -> bool:
        """Whether all are the same tensors as at construction, with the same memory."""
        tensors = [tensor for row in self.rows for tensor in row.tensors()]
        return (
            len(tensors) == len(self._tensors)
            and all(map(is_, tensors, self._tensors))
            and list(map(layout_of, tensors)) == self._layouts
        )

    def gradients(self) -> list[object] | None:
        """The gradients of the rows as arrays, None for a missing one; None for all if one is sparse.

        An empty list if their addresses are in the table already.
        """
        if self._snapshot is not None and self._snapshot.is_noted:
            return []
        grads = [param.grad for param in self._params]
        if self._is_sharded:
            grads = [
                None if grad is None else part(placed(grad, param))
                for grad, param in zip(grads, self._params, strict=True)
            ]
        check_memory(grads)
        reads = [
            row.read if grad is None or grad.dtype == row.part.dtype else row.read_other
            for row, grad in zip(self.rows, grads, strict=True)
        ]
        try:
            return [
                None if grad is None else read(grad) for read, grad in zip(reads, grads, strict=True)
            ]
        except (RuntimeError, TypeError):  # what arrays cannot have: history, lazy signs, no elements
            if any(grad is not None and grad.is_sparse for grad in grads):
                return None
            return [
                None if grad is None else read(plain(grad))
                for read, grad in zip(reads, grads, strict=True)
            ]

    def _steps(self) -> Array:
        """The step count of each row, as torch has it; only in a plan that is current."""
        if self._counted:
            return np.array([0 if count is None else int(count) for count in self._counts])
        return self._steps_taken()

    def _steps_taken(self) -> Array:
        """The step count of each row after the last step.

        A plan that is not current may have the addresses of memory that was freed, as by
        ``tensor.share_memory_()``: it must not read torch's counts.
        """
        return np.concatenate([launch.taken for launch, _ in self.launches])

    @property
    def taken(self) -> int:
        """The largest step count, from which random bits follow."""
        return int(self._steps_taken().max(initial=self._taken)) if self.rows else self._taken

    def note_fresh(self) -> None:
        """Note which rows have started their momentum."""
        if self._any_fresh:
            for row, step in zip(self.rows, self._steps_taken(), strict=True):
                row.fresh = row.fresh and not step
            self._any_fresh = any(row.fresh for row in self.rows)

    def step(self, grads: list[object], grad_scale: float, clip_norm: float | None) -> None:
        """Step the rows that have a gradient."""
        noted = self._snapshot if self._snapshot is not None and self._snapshot.is_noted else None
        if noted is None:
            has_gradient = np.array([grad is not None for grad in grads], np.bool_)
            count = int(has_gradient.sum())
        else:
            has_gradient, count = noted.has_gradient, noted.count
        # As of the stepper, which takes no step where no array has a gradient.
        none = clip_norm is not None and not count
        self._of_no_gradients = GradientStats(0.0, False) if none else None
        if not count:
            return
        if noted is None or not noted.counts_agree:
            steps = self._steps()
            for launch, rows in self.launches:
                launch.continue_from(steps[rows])
        for launch, _ in self.launches:
            if clip_norm != launch.clip.clip_norm:
                launch.clip.change(clip_norm)
        for param, shadow in self._shadows:
            shadow.copy_(param)
        if self._snapshot is not None:
            self._snapshot.take()
        for launch, rows in self.launches:
            if len(self.launches) == 1 or has_gradient[rows].any():
                launch.step(grads[rows], has_gradient[rows], grad_scale)
        self.note_fresh()
        # autograd checks versions.
        whole = count == len(self._params)
        params = self._params if whole else list(compress(self._params, has_gradient))
        increment_version(params)
        if self._is_sharded:
            increment_version(list(map(part, params)))
