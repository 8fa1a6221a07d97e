"""The arrays of all groups in a row, as the table has them, and what is to be done with each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastopt.codecs.floats import floats, name_of
from fastopt.executors import reference
from fastopt.executors.compiled import Job
from fastopt.layouts.arrays import Array
from fastopt.optimizers.group import Group
from fastopt.optimizers.hyperparameters import Hyperparameters


class Work:
    """What a step does to every array.

    Parameters
    ----------
    groups : sequence of Group
    zero_grad : bool
        Clear the gradients on the way.

    Attributes
    ----------
    leaves : list of array
        The parameters.
    """

    def __init__(self, groups: Sequence[Group], zero_grad: bool) -> None:
        self._members = [(group, i) for group in groups for i in range(len(group.leaves))]
        self._zero_grad = zero_grad
        self.leaves = [group.leaves[i] for group, i in self._members]
        self.slots = [own for group in groups for own in group.slots()]

    def job(self, row: int, gradient: str, scales: bool) -> Job:
        """What the kernel of one array is compiled for, given the format of its gradient."""
        group, own = self._members[row]
        return Job(group.parts, group.storage(own, gradient), self._zero_grad, scales)

    def interpret(self, found: Sequence[Any], hyper: Hyperparameters) -> None:
        """Step in plain Python, with gradients that were checked."""
        first = 0
        for row, grad in enumerate(found):
            size = self.leaves[row].size
            if grad is not None:
                self._interpret(row, grad, hyper.of(row), first, slice(0, size))
            first += size

    def interpret_stretch(self, grad: Array, hyper: Array, first: int, start: int, stop: int) -> None:
        """Step a stretch of the only array; `first` is the number of its first element."""
        self._interpret(0, grad, hyper, first, slice(start, stop))

    def _interpret(self, row: int, grad: Array, hyper: Array, first: int, part: slice) -> None:
        group, own = self._members[row]
        arrays: list[Array] = [self.leaves[row], grad, *self.slots[row]]
        storage = group.storage(own, str(name_of(grad.dtype)))
        codecs = group.codecs_of(own, floats(storage[1].codec))
        slots = []
        for array, codec, how in zip(arrays, codecs, storage, strict=True):
            items = slice(part.start // codec.block, -(-part.stop // codec.block))
            slots.append(reference.Slot(array.reshape(-1)[items], codec, how.dithered))
        reference.step(group.parts, hyper, first + part.start, self._zero_grad, slots)
