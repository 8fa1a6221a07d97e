"""The arrays of all groups in the order of the table, with the job of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change, put
from fastopt.codecs.floats import floats
from fastopt.codecs.formats import name_of
from fastopt.executors import reference
from fastopt.executors.norm import SUM_BLOCK, tree_sum
from fastopt.kernels.job import SLOTS, Job
from fastopt.steps.group import Group
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.sums import SumPass


class ParameterSet:
    """The arrays of an optimizer, and what a step does to each.

    Parameters
    ----------
    groups : sequence of Group
    zero_grad : bool
        Clear the gradients on the way.
    fast : bool
        With approximate roots and quotients.
    indices : sequence of int, optional
        The attribute, where it is not `firsts`.

    Attributes
    ----------
    members : list of (Group, int)
        The group of each array, and its number there.
    leaves : list of array
        The parameters.
    slots : list of list of array
        What the chain works with beside each.
    headers : list of list of Header
        Of those among them that are the caller's.
    sizes : list of int
        How many elements each parameter has.
    firsts : list of int
        The number of the first of them among all, counted from 0.
    size : int
        How many there are in all.
    indices : sequence of int
        The index of the first element of each for random bits.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        zero_grad: bool,
        fast: bool,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.members = [(group, i) for group in groups for i in range(len(group.leaves))]
        self.groups = list(groups)
        self.group_of = [i for i, group in enumerate(groups) for _ in group.leaves]
        self._zero_grad, self._fast = zero_grad, fast
        self.leaves = [group.leaves[i] for group, i in self.members]
        self.slots = [arrays for group in groups for arrays in group.slots()]
        self.headers = [headers for group in groups for headers in group.headers()]
        self.sizes = [leaf.size for leaf in self.leaves]
        *self.firsts, self.size = accumulate(self.sizes, initial=0)
        self.indices = self.firsts if indices is None else indices

    def check_headers(self, row: int) -> None:
        """Check that the caller's arrays have not been changed, or raise ValueError."""
        for header in self.headers[row]:
            header.check()

    def job(self, row: int, gradient: str, scales: bool) -> Job:
        """The job of one array, given the format of its gradient."""
        group, index = self.members[row]
        storage = group.storage(index, gradient)
        return Job(group.parts, storage, self._zero_grad, scales, self._fast, group.stats)

    @property
    def gradient_formats(self) -> list[str]:
        """For each array, the format of gradients like it, by name."""
        return [str(name_of(leaf.dtype)) for leaf in self.leaves]

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """The rows in a stretch of all elements, each with its own elements there."""
        for row, (first, size) in enumerate(zip(self.firsts, self.sizes, strict=True)):
            if first < stop and start < first + size:
                yield row, slice(max(start - first, 0), min(stop - first, size))

    def interpret(
        self,
        grads: Sequence[object],
        hyper: Hyperparameters,
        first: int,
        start: int,
        stop: int,
        view: Callable[[object], Array] = np.asarray,
        sums: Sequence[Array] = (),
    ) -> list[Change]:
        """What steps a stretch of all elements, computed in plain Python, with checked gradients.

        `first` is added to the index of each element, and `view` shows an array as NumPy's. `sums` has
        the sums of the blocks of each array, where the step adds up any.
        """
        changes = list[Change]()
        for row, part in self.spans(start, stop):
            grad = grads[row]
            if grad is None:
                continue
            arrays = [view(array) for array in (self.leaves[row], grad, *self.slots[row])]
            parts = []
            for array, slot in zip(arrays, self.interpreted(row, arrays), strict=True):
                block = slot.codec.block
                items = array.reshape(-1)[part.start // block : -(-part.stop // block)]
                parts.append(slot._replace(array=items))
            group, _ = self.members[row]
            number = first + self.indices[row] + part.start
            values = hyper.of(row)
            how = group.parts, values, number, self._zero_grad, parts
            changes += reference.stepped(*how)
            if sums and group.terms:
                blocks = sums[row][part.start // SUM_BLOCK : -(-part.stop // SUM_BLOCK)]
                changes.append(put(blocks, reference.observed(group.parts, group.stats, values, parts)))
        return changes

    def interpret_sums(
        self,
        sum_pass: SumPass,
        grads: Sequence[object],
        hyper: Hyperparameters,
        touched: Mapping[int, list[list[reference.StoredArray]]],
    ) -> Array:
        """The sums of a pass, computed in plain Python.

        Of arrays with sparse gradients, those of their `touched` rows, one after the other.
        """
        blocks: list[list[list[Any]]] = [[[] for _ in self.leaves] for _ in range(sum_pass.sums)]
        for row, group in enumerate(self.group_of):
            if group not in sum_pass.positions or grads[row] is None:
                continue
            parts = self.groups[group].parts[: sum_pass.positions[group] + 1]
            for views in touched[row] if row in touched else [self._flat(row, grads[row])]:
                summed = reference.summed(parts, hyper.of(row), views)
                for total, by_block in zip(blocks, summed, strict=True):
                    total[row] += by_block
        if sum_pass.per_array:
            return np.array([[_total(each) for each in total] for total in blocks])
        return np.array([[_total(list(chain(*total)))] for total in blocks])

    def _flat(self, row: int, grad: Any) -> list[reference.StoredArray]:
        arrays = [np.asarray(array) for array in (self.leaves[row], grad, *self.slots[row])]
        return self.interpreted(row, [array.reshape(-1) for array in arrays])

    def interpreted(self, row: int, arrays: Sequence[Array]) -> list[reference.StoredArray]:
        """Parameter, gradient and slots of one array, or chunks of them, for the reference."""
        group, index = self.members[row]
        storage = group.storage(index, str(name_of(arrays[1].dtype)))
        codecs = group.codecs_of(index, floats(storage[1].codec))
        return [
            reference.StoredArray(array, codec, how.dithered)
            for array, codec, how in zip(arrays, codecs, storage, strict=True)
        ]


def _total(blocks: list[object]) -> float:
    return float(tree_sum(np.array(blocks))) if blocks else 0.0


def sum_job(job: Job, position: int) -> Job:
    """The job that sums what a transform in the chain of another job declares."""
    parts = job.parts[: position + 1]
    slots = sum(len(part.slots) for part in parts) + (job.correction is not None)
    storage = job.storage[: SLOTS + slots]
    return job._replace(parts=parts, storage=storage, zero_grad=False, stats=())
