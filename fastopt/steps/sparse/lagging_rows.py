"""A parameter that is stepped by rows, and its lagging rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from fastopt.arrays import checks
from fastopt.arrays.checks import Array
from fastopt.changes import Change, make, put
from fastopt.codecs.base import flat
from fastopt.codecs.formats import name_of
from fastopt.executors import reference
from fastopt.executors.cpu.columns import FIRST
from fastopt.executors.cpu.kernels import kernel
from fastopt.executors.dispatch import RowSums
from fastopt.executors.norm import blocks_of
from fastopt.kernels.job import NUMBERS, Job
from fastopt.steps.group import Group
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.pass_sums import BlockSums
from fastopt.steps.sparse import row_driver, row_loops
from fastopt.steps.sparse.catch_up import catch_up_part
from fastopt.steps.sparse.closed_form import ZeroGradientStep, closed_form, zero_gradient_step
from fastopt.steps.sparse.entries import RowGradient
from fastopt.steps.sparse.untouched import check_exact_sums, check_sums
from fastopt.transforms.base import ONCE
from fastopt.validation import Hyper

# Steps after which all rows catch up, so that what must be remembered of a step (a small matrix) is
# bounded. A power of two; it must fit into the 16 bits that a row has for the step it was left at.
REMEMBERED = 16_384


def split_numbers(group: Group, hyper: Array, *, decided: bool) -> list[Hyper]:
    """The hyperparameters that each part's `update` gets, from the buffer that the kernel reads.

    Those that follow from sums are there when they are `decided`; before, they are those of a trial.
    """
    numbers, split = iter(hyper[NUMBERS:].tolist()), []
    for part in group.parts:
        from_host, of_update = (tuple(islice(numbers, n)) for n in (part.from_host, part.hypers))
        if part.sums is not None and not decided:
            of_update, _ = part.sums.trial(part.name, from_host)
        split.append(of_update)
    return split


def _zero_gradient_step(group: Group, hyper: Array, *, decided: bool) -> ZeroGradientStep:
    numbers = split_numbers(group, hyper, decided=decided)
    return zero_gradient_step(group.chain, group.no_gradient, numbers, hyper.dtype)


def check_rows_can_step(work: ParameterSet, index: int, hyper: Array, exact: bool) -> None:
    """Check that a parameter can have sparse gradients, or raise ValueError."""
    group, member = work.members[index]
    codecs = (codec for each in group.codecs.values() for codec in each[member : member + 1])
    if any(codec.block > 1 for codec in codecs):
        raise ValueError(
            f"sparse gradients cannot go with states of 8 bits, which {group.names[member]} has: their "
            "blocks reach across rows"
        )
    check_sums(group)
    storage = group.storage(member, str(name_of(work.leaves[index].dtype)))
    if exact and any(how.dithered for how in storage):
        raise ValueError(
            "sparse='exact' cannot go with stochastic_rounding: its random bits belong to blocks, "
            "which catching up cuts otherwise than steps do; sparse='lazy' can"
        )
    if exact:
        check_exact_sums(group, _zero_gradient_step(group, hyper, decided=False))


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
        self._terms = self._group.terms
        self._has_sums = any(part.sums is not None for part in self._group.parts)
        columns = [self._param, self._param, *self._slots]
        itemsizes = [0, *(column.itemsize for column in columns)] + [0] * bool(self._terms)
        self._addresses = table[FIRST : FIRST + len(itemsizes)].copy()
        self._row_bytes = self._width * np.array(itemsizes, np.int64)
        self._work = np.zeros(row_driver.WORK, np.int64)
        self._work[row_driver.WIDTH] = self._width
        self._work[row_driver.SUM_BYTES] = 8 * blocks_of(self._width) * self._terms
        self.moves = False
        self._last = np.zeros(0, np.int16)
        self._catches_up = False
        if exact:
            self._get_ready(hyper)

    def _get_ready(self, hyper: Array) -> None:
        """Prepare catching up, if zero-gradient steps of the chain have an effect."""
        parts, no_gradient = self._group.parts, self._group.no_gradient
        self._form = closed_form(_zero_gradient_step(self._group, hyper, decided=False).forms)
        self._catches_up = any(row is not None for row in self._form.rows) or ONCE in no_gradient
        if not self._catches_up:
            return
        self.moves = self._form.moves or ONCE in no_gradient
        self._part = catch_up_part(parts, tuple(no_gradient), self._form)
        self._entries = self._form.entries()
        constant = [
            n
            for function, hyper_of_part in zip(
                no_gradient, split_numbers(self._group, hyper, decided=False), strict=True
            )
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
        """Prepare the next step, before its sums are known.

        Raises
        ------
        ValueError
            As `find_matrix`.
        """
        if self._catches_up and not self._has_sums:
            self.find_matrix(hyper)
        if self.now == REMEMBERED:
            self.catch_up()

    def find_matrix(self, hyper: Array) -> None:
        """Find the matrix of the next step without a gradient.

        Raises
        ------
        ValueError
            There is no closed form for it; nothing was changed.
        """
        if self._catches_up and (bytes_of_hyper := hyper[NUMBERS:].tobytes()) != self._last_hyper:
            forms = _zero_gradient_step(self._group, hyper, decided=True).forms
            self._matrix, self._last_hyper = self._form.matrix(forms), bytes_of_hyper

    def summing(self, gradient: RowGradient, hyper: Array) -> RowSums:
        """What adds up sums before the step over the rows with a gradient, which are up to date."""
        self._bind(gradient, hyper, 0)
        size, blocks = len(gradient.rows) * self._width, len(gradient.rows) * blocks_of(self._width)
        walk = (*self._walk(gradient.rows, gradient.positions)[:-1],)
        return RowSums(blocks, size, row_driver.summing(self._executor, size, *walk))

    def stepped(
        self,
        gradient: RowGradient,
        code: int,
        hyper: Array,
        clears: bool,
        threads: int,
        sums: BlockSums | None,
    ) -> list[Change]:
        """What steps the rows that have a gradient, caught up before; the others are one more step
        behind.

        `code` is the address of the kernel; what is added up is written to `sums`.
        """
        self._find_products(gradient.rows)
        if self._catches_up:
            self._note()
        cleared = [put(array, 0) for array in gradient.copied_from] if clears else []
        if not self._compiled:
            return [*self._stepped_in_python(gradient, hyper, clears, sums), *cleared]
        self._bind(gradient, hyper, code)
        added: list[Change] = []
        if self._terms and sums is not None:
            numbers = np.zeros(len(gradient.rows) * blocks_of(self._width) * self._terms)
            self._addresses[-1] = checks.address(numbers)
            added = sums.of_rows(self._index, numbers)
        size = len(gradient.rows) * self._width
        walk = row_driver.walking(
            self._executor, size, threads, *self._walk(gradient.rows, gradient.positions)
        )
        return [walk, *added, *cleared]

    def _bind(self, gradient: RowGradient, hyper: Array, code: int) -> None:
        """Have compiled code find a gradient, hyperparameters and the kernel of the step."""
        work = self._work
        work[row_driver.KERNEL], work[row_driver.HYPER] = code, checks.address(hyper)
        work[row_driver.ROWS] = len(gradient.values)
        work[row_driver.SUMS] = checks.address(gradient.sums)
        self._addresses[row_driver.GRAD] = checks.address(gradient.values)
        self._row_bytes[row_driver.GRAD] = self._width * gradient.values.itemsize

    def _stepped_in_python(
        self, gradient: RowGradient, hyper: Array, clears: bool, sums: BlockSums | None
    ) -> list[Change]:
        self._walk_in_python(gradient.rows)
        changes: list[Change] = []
        parts, numbers = self._group.parts, []
        for row, views in zip(gradient.rows, self.views(gradient), strict=True):
            changes += reference.stepped(parts, hyper, self._first(row), clears, views)
            if self._terms:
                numbers.append(reference.observed(parts, self._group.stats, hyper, views))
        if self._terms and sums is not None:
            changes += sums.of_rows(self._index, np.concatenate([np.zeros(0), *map(np.ravel, numbers)]))
        if self._catches_up:
            reached = self.now + 1
            changes += [
                put(self._last, reached, gradient.rows),
                put(self._work, reached, row_driver.NOW),
            ]
        return changes

    def views(self, gradient: RowGradient) -> Iterator[list[reference.StoredArray]]:
        """Each row that has a gradient, for the reference."""
        numbers = [*gradient.values, *gradient.sums]
        for row, position in zip(gradient.rows, gradient.positions, strict=True):
            yield self._view(row, numbers[position])

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
                views = self._view(row, values)
                changes = reference.stepped((self._part,), numbers, self._first(row), False, views)
                make([*changes, put(self._last, self.now, row)])

    def _view(self, row: int, grad: Array) -> list[reference.StoredArray]:
        start, stop = row * self._width, (row + 1) * self._width
        param, *slots = (flat(array)[start:stop] for array in (self._param, *self._slots))
        return self._all.interpreted(self._index, [param, flat(grad), *slots])

    def _first(self, row: int) -> int:
        """The index of a row's first element among all."""
        return int(self._addresses[row_driver.FIRST]) + int(row) * int(self._width)
