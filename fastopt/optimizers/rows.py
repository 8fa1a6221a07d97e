"""A parameter whose steps come by rows, and its rows that are behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np

from fastopt.executors import reference, rows, sparse
from fastopt.executors.catch_up import catch_up_part
from fastopt.executors.compiled import kernel
from fastopt.executors.idle import closed_form, idle_forms
from fastopt.layouts import arrays
from fastopt.layouts.arrays import Array
from fastopt.optimizers.group import Group
from fastopt.optimizers.row_gradients import RowGradient
from fastopt.transforms.base import ONCE
from fastopt.validation import Hyper

# Steps after which all rows catch up, so that what must be remembered of a step (a small matrix) is
# bounded. A power of two; it must fit into the 16 bits that a row has for the step it was left at.
REMEMBERED = 16_384


def split_numbers(group: Group, hyper: Array) -> list[Hyper]:
    """The hyperparameters of each part, as rounded in what the kernel reads."""
    numbers = iter(hyper[1:].tolist())
    return [tuple(islice(numbers, part.hypers)) for part in group.parts]


class Rows:
    """One parameter that gets sparse gradients.

    Parameters
    ----------
    group : Group
    param : array
    slots : sequence of array
        What the chain works with beside it.
    hyper : array
        The hyperparameters of the next step, as a kernel reads them.
    exact : bool
        Whether rows that are not touched catch up.
    executor : str

    Attributes
    ----------
    now : int
        Steps since all rows were at the same one.
    moves : bool
        Whether parameters change without a gradient.
    """

    def __init__(
        self,
        group: Group,
        param: Array,
        slots: Sequence[Array],
        hyper: Array,
        exact: bool,
        executor: str,
        compiled: bool,
    ) -> None:
        self._group, self._executor, self._compiled = group, executor, compiled
        self._param, self._slots = param, slots
        self._width = math.prod(param.shape[1:])
        columns = [param, param, *slots]
        self._addresses = np.array([arrays.address(column) for column in columns], np.int64)
        self._row_bytes = np.array([self._width * column.itemsize for column in columns], np.int64)
        self._work = np.zeros(rows.WORK, np.int64)
        self._work[rows.WIDTH] = self._width
        self.now, self.moves = 0, False
        self._last = np.zeros(0, np.int16)
        self._catches_up = False
        if exact:
            self._get_ready(hyper)

    def _get_ready(self, hyper: Array) -> None:
        """Make what catching up takes, if the chain does anything without a gradient."""
        chain, parts, dtype = self._group.chain, self._group.parts, self._param.dtype
        numbers = split_numbers(self._group, hyper)
        self._form = closed_form(idle_forms(chain, numbers, dtype))
        idles = tuple(transform.idle for transform in chain)
        self._catches_up = any(row is not None for row in self._form.rows) or ONCE in idles
        if not self._catches_up:
            return
        self.moves = self._form.moves or ONCE in idles
        self._part = catch_up_part(parts, idles, self._form)
        self._entries = self._form.entries()
        constant = [n for idle, own in zip(idles, numbers, strict=True) if idle == ONCE for n in own]
        self._numbers = np.zeros((REMEMBERED, 1 + self._part.hypers), dtype)
        if constant:
            self._numbers[:, 1 + len(self._entries) :] = constant
        size = len(self._form.variables)
        self._tree = np.zeros((2 * REMEMBERED, size, size))
        self._marks = np.zeros(REMEMBERED + 1, np.uint8)
        self._last = np.zeros(len(self._param), np.int16)
        self._seen = b""
        if self._compiled:
            code = kernel((self._part,), dtype, zero_grad=False, scales=False)
            self._work[rows.CATCH_UP] = code.address
            self._work[rows.NUMBERS] = arrays.address(self._numbers)
            self._work[rows.STRIDE] = self._numbers.strides[0]

    def look_ahead(self, hyper: Array) -> None:
        """Find out what the coming step does without a gradient.

        Raises
        ------
        ValueError
            There is no closed form for it; nothing was changed.
        """
        if self._catches_up and (seen := hyper[1:].tobytes()) != self._seen:
            numbers = split_numbers(self._group, hyper)
            forms = idle_forms(self._group.chain, numbers, self._param.dtype)
            self._matrix, self._seen = self._form.matrix(forms), seen

    def step(self, gradient: RowGradient, code: int, hyper: Array) -> None:
        """Step the rows that have a gradient, caught up before; the others are one more step behind.

        `code` is the address of the kernel.
        """
        if self.now == REMEMBERED:
            self.catch_up()
        self._prepare(gradient.rows)
        if self._compiled:
            self._work[rows.KERNEL], self._work[rows.HYPER] = code, arrays.address(hyper)
            self._work[rows.ROWS] = len(gradient.values)
            self._work[rows.SUMS] = arrays.address(gradient.sums)
            self._addresses[rows.GRAD] = arrays.address(gradient.values)
            self._walk(gradient.rows, gradient.places)
        else:
            self._walk_in_python(gradient.rows)
            found = [*gradient.values, *gradient.sums]
            for row, place in zip(gradient.rows, gradient.places, strict=True):
                values = found[place]
                reference.step(self._group.parts, hyper, *self._row(row, values))
            if self._catches_up:
                self._last[gradient.rows] = self.now + 1
        if self._catches_up:
            self._remember()

    def _remember(self) -> None:
        """Note the matrix of this step, and the products that it completes."""
        node = REMEMBERED + self.now
        self._tree[node] = self._matrix
        while node & 1 and node > 1:
            node >>= 1
            np.matmul(self._tree[2 * node + 1], self._tree[2 * node], out=self._tree[node])
        self.now += 1

    def catch_up(self, some: Array | None = None) -> None:
        """Bring some rows up to date, sorted and each once, or all."""
        if self.now == 0:
            return
        if some is None:
            self._catch_up_all()
            return
        self._prepare(some)
        if self._compiled:
            self._work[rows.KERNEL] = 0
            self._walk(some, some)
        else:
            self._walk_in_python(some)
            self._last[some] = self.now

    def _catch_up_all(self) -> None:
        self._marks[: self.now] = 1
        self._prepare(np.zeros(0, np.int64))
        if self._compiled:
            work = self._work, self._addresses, self._last, self.now
            rows.sweep(self._executor, self._param.size, *work)
        else:
            self._walk_in_python(np.arange(len(self._param)))
        self._last.fill(0)
        self.now = 0

    def _prepare(self, some: Array) -> None:
        """Find what it takes to bring these rows up to date."""
        if self.now:
            find, left = sparse.products(self._param.dtype), (self._marks, self._last, some)
            find(self._tree, *left, self.now, self._entries, self._numbers)

    def _walk(self, some: Array, places: Array) -> None:
        work = self._work, self._addresses, self._row_bytes, some, places, self._last, self.now
        rows.walk(self._executor, len(some) * self._width, *work)

    def _walk_in_python(self, some: Array) -> None:
        for row in some:
            if self.now and self._last[row] < self.now:
                param, _, slots = self._row(row, self._param)
                reference.step((self._part,), self._numbers[self._last[row]], param, param, slots)

    def _row(self, row: int, grad: Array) -> tuple[Array, Array, list[Array]]:
        """A row of parameter and slots, beside a gradient for it."""
        elements = slice(row * self._width, (row + 1) * self._width)
        param, *slots = (array.reshape(-1)[elements] for array in (self._param, *self._slots))
        return param, grad.reshape(-1), slots
