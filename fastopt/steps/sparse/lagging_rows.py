"""A parameter that is stepped by rows, and its lagging rows."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np

from fastopt.arrays import checks
from fastopt.arrays.checks import Array
from fastopt.changes import Change, make, put
from fastopt.codecs.formats import name_of
from fastopt.executors import reference
from fastopt.executors.cpu.columns import FIRST, PARAM
from fastopt.executors.cpu.kernels import kernel
from fastopt.kernels.job import NUMBERS, Job
from fastopt.steps.group import Group
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.sparse import row_driver, row_loops
from fastopt.steps.sparse.catch_up import catch_up_part
from fastopt.steps.sparse.closed_form import closed_form, no_gradient_forms
from fastopt.steps.sparse.entries import RowGradient
from fastopt.transforms.base import ONCE, Part
from fastopt.validation import Hyper

# Steps after which all rows catch up, so that what must be remembered of a step (a small matrix) is
# bounded. A power of two; it must fit into the 16 bits that a row has for the step it was left at.
REMEMBERED = 16_384


def split_numbers(group: Group, hyper: Array) -> list[Hyper]:
    """The hyperparameters of each part, from the buffer that the kernel reads."""
    numbers = iter(hyper[NUMBERS:].tolist())
    return [tuple(islice(numbers, part.hypers)) for part in group.parts]


def check_rows_can_step(work: ParameterSet, index: int, hyper: Array, exact: bool) -> None:
    """Check that a parameter can have sparse gradients, or raise ValueError."""
    group, member = work.members[index]
    codecs = (codec for each in group.codecs.values() for codec in each[member : member + 1])
    if any(codec.block > 1 for codec in codecs):
        raise ValueError(
            f"sparse gradients cannot go with states of 8 bits, which {group.names[member]} has: their "
            "blocks reach across rows"
        )
    storage = group.storage(member, str(name_of(work.leaves[index].dtype)))
    if exact and any(how.dithered for how in storage):
        raise ValueError(
            "sparse='exact' cannot go with stochastic_rounding: its random bits belong to blocks, "
            "which catching up cuts otherwise than steps do; sparse='lazy' can"
        )
    if exact:
        no_gradient_forms(group.chain, group.no_gradient, split_numbers(group, hyper), hyper.dtype)


class LaggingRows:
    """A parameter with sparse gradients.

    Parameters
    ----------
    work : ParameterSet
    index : int
        The number of the parameter.
    table : array
        Its row in the table.
    hyper : array
        The hyperparameters of the next step, as a kernel reads them.
    exact : bool
        Whether rows that are not touched catch up.
    executor : str
    compiled : bool

    Attributes
    ----------
    moves : bool
        Whether parameters change without a gradient.
    """

    def __init__(
        self,
        work: ParameterSet,
        index: int,
        table: Array,
        hyper: Array,
        exact: bool,
        executor: str,
        compiled: bool,
    ) -> None:
        check_rows_can_step(work, index, hyper, exact)
        self._all, self._index = work, index
        self._group, self._member = work.members[index]
        self._executor, self._compiled = executor, compiled
        self._param, self._slots = work.leaves[index], work.slots[index]
        self._width = math.prod(self._param.shape[1:])
        columns = [self._param, self._param, *self._slots]
        self._addresses = table[FIRST : PARAM + len(columns)].copy()
        itemsizes = [0, *(column.itemsize for column in columns)]
        self._row_bytes = self._width * np.array(itemsizes, np.int64)
        self._work = np.zeros(row_driver.WORK, np.int64)
        self._work[row_driver.WIDTH] = self._width
        self.moves = False
        self._last = np.zeros(0, np.int16)
        self._catches_up = False
        if exact:
            self._get_ready(hyper)

    def _get_ready(self, hyper: Array) -> None:
        """Prepare catching up, if zero-gradient steps of the chain have an effect."""
        chain, parts, no_gradient = self._group.chain, self._group.parts, self._group.no_gradient
        numbers = split_numbers(self._group, hyper)
        self._form = closed_form(no_gradient_forms(chain, no_gradient, numbers, hyper.dtype))
        self._catches_up = any(row is not None for row in self._form.rows) or ONCE in no_gradient
        if not self._catches_up:
            return
        self.moves = self._form.moves or ONCE in no_gradient
        self._part = catch_up_part(parts, tuple(no_gradient), self._form)
        self._entries = self._form.entries()
        constant = [
            n
            for function, hyper_of_part in zip(no_gradient, numbers, strict=True)
            if function == ONCE
            for n in hyper_of_part
        ]
        self._numbers = np.zeros((REMEMBERED, NUMBERS + self._part.hypers), hyper.dtype)
        if constant:
            self._numbers[:, NUMBERS + len(self._entries) :] = constant
        size = len(self._form.variables)
        self._tree = np.zeros((2 * REMEMBERED, size, size))
        self._marks = np.zeros(REMEMBERED + 1, np.uint8)
        self._last = np.zeros(len(self._param), np.int16)
        self._last_hyper: bytes | None = None
        if self._compiled:
            storage = self._group.storage(self._member, str(name_of(self._param.dtype)))
            code = kernel(Job((self._part,), storage, zero_grad=False, scales=False))
            self._work[row_driver.CATCH_UP] = code.address
            self._code = code  # owns what is there
            self._work[row_driver.NUMBERS] = checks.address(self._numbers)
            self._work[row_driver.STRIDE] = self._numbers.strides[0]

    @property
    def now(self) -> int:
        """The number of steps since all rows were up to date."""
        return int(self._work[row_driver.NOW])

    def prepare(self, hyper: Array) -> None:
        """Find the matrix of the next step without a gradient, and make room to store it.

        Raises
        ------
        ValueError
            There is no closed form for it; nothing was changed.
        """
        if self._catches_up and (bytes_of_hyper := hyper[NUMBERS:].tobytes()) != self._last_hyper:
            numbers = split_numbers(self._group, hyper)
            forms = no_gradient_forms(self._group.chain, self._group.no_gradient, numbers, hyper.dtype)
            self._matrix, self._last_hyper = self._form.matrix(forms), bytes_of_hyper
        if self.now == REMEMBERED:
            self.catch_up()

    def stepped(
        self, gradient: RowGradient, code: int, hyper: Array, clears: bool, threads: int
    ) -> list[Change]:
        """What steps the rows that have a gradient, caught up before; the others are one more step
        behind.

        `code` is the address of the kernel.
        """
        self._find_products(gradient.rows)
        if self._catches_up:
            self._note()
        if self._compiled:
            self._work[row_driver.KERNEL], self._work[row_driver.HYPER] = code, checks.address(hyper)
            self._work[row_driver.ROWS] = len(gradient.values)
            self._work[row_driver.SUMS] = checks.address(gradient.sums)
            self._addresses[row_driver.GRAD] = checks.address(gradient.values)
            self._row_bytes[row_driver.GRAD] = self._width * gradient.values.itemsize
            size = len(gradient.rows) * self._width
            walk = row_driver.walking(
                self._executor, size, threads, *self._walk(gradient.rows, gradient.positions)
            )
            return [walk, *(put(array, 0) for array in gradient.copied_from if clears)]
        self._walk_in_python(gradient.rows)
        numbers_ = [*gradient.values, *gradient.sums]
        changes: list[Change] = []
        for row, position in zip(gradient.rows, gradient.positions, strict=True):
            changes += self._step_in_python(self._group.parts, hyper, row, numbers_[position], clears)
        if self._catches_up:
            reached = self.now + 1
            changes += [
                put(self._last, reached, gradient.rows),
                put(self._work, reached, row_driver.NOW),
            ]
        return [*changes, *(put(array, 0) for array in gradient.copied_from if clears)]

    def _note(self) -> None:
        """Store the matrix of the next step, and the products that it completes.

        They have no part in what catches up before that step was taken.
        """
        node = REMEMBERED + self.now
        self._tree[node] = self._matrix
        with np.errstate(all="ignore"):  # what decayed to nothing underflows
            while node & 1 and node > 1:
                node >>= 1
                np.matmul(self._tree[2 * node + 1], self._tree[2 * node], out=self._tree[node])

    def catch_up(self, some: Array | None = None) -> None:
        """Bring some rows up to date, sorted and each once, or all."""
        if self.now == 0:
            return
        if some is None:
            self._catch_up_all()
            return
        self._find_products(some)
        if self._compiled:
            self._work[row_driver.KERNEL] = 0
            row_driver.walk(self._executor, len(some) * self._width, *self._walk(some, some))
        else:
            self._walk_in_python(some)

    def _catch_up_all(self) -> None:
        self._marks[: self.now] = 1
        self._find_products(np.zeros(0, np.int64))
        if self._compiled:
            row_driver.sweep(self._executor, self._param.size, self._work, self._addresses, self._last)
        else:
            self._walk_in_python(np.arange(len(self._param)))
            make([put(self._last, 0), put(self._work, 0, row_driver.NOW)])

    def _find_products(self, some: Array) -> None:
        """Compute the hyperparameters that bring these rows up to date."""
        if self.now:
            find, left = row_loops.products(self._numbers.dtype), (self._marks, self._last, some)
            find(self._tree, *left, self.now, self._entries, self._numbers)

    def _walk(self, some: Array, positions: Array) -> tuple[Array, ...]:
        return self._work, self._addresses, self._row_bytes, some, positions, self._last

    def _walk_in_python(self, some: Array) -> None:
        for row in some:
            if self.now and self._last[row] < self.now:
                numbers, values = self._numbers[self._last[row]], self._param[row]
                changes = self._step_in_python((self._part,), numbers, row, values, False)
                make([*changes, put(self._last, self.now, row)])

    def _step_in_python(
        self, parts: tuple[Part, ...], hyper: Array, row: int, grad: Array, clears: bool
    ) -> list[Change]:
        """The changes that step one row by the reference."""
        start, stop = row * self._width, (row + 1) * self._width
        param, *slots = (array.reshape(-1)[start:stop] for array in (self._param, *self._slots))
        views = self._all.interpreted(self._index, [param, grad.reshape(-1), *slots])
        return reference.stepped(parts, hyper, int(self._addresses[0]) + start, clears, views)
