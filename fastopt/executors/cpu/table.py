"""The table of the arrays of an optimizer that compiled code reads; `columns` has its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastopt.arrays.checks import Array, Guarded, address
from fastopt.arrays.object_headers import Header
from fastopt.arrays.object_layout import ALIGNED, CONTIGUOUS, WRITEABLE
from fastopt.changes import Change, assign, put
from fastopt.codecs.base import BLOCK, DType
from fastopt.codecs.formats import name_of, number_of
from fastopt.executors.cpu.columns import (
    COUNT,
    COUNTS,
    DTYPE,
    FIRST,
    FLAGS,
    FORMAT,
    GRAIN,
    HEADERS,
    HYPER,
    HYPER_LAG,
    ITEMSIZE,
    KERNEL,
    LAG,
    LENGTH,
    NDIM,
    NONE,
    PARAM,
    STATE,
    STEPS,
    TYPE,
)

if TYPE_CHECKING:
    from fastopt.executors.cpu.kernels import Kernel

# The columns of a row that change together.
_PLAN = np.s_[:, :LENGTH]


class CountedTable:
    """A table of arrays that counts the steps of each.

    Parameters
    ----------
    rows : array
        Its rows, which get the addresses of their counts.
    """

    def __init__(self, rows: Array) -> None:
        self.rows = rows
        # Separate from the rows, which the threads of a step read: they would wait for each cache line
        # that one of them has written to, 20 ns for each of a thousand arrays.
        self.counts = np.zeros((len(rows), 2), np.int64)
        rows[:, COUNTS] = address(self.counts) + self.counts.strides[0] * np.arange(len(rows))
        self.nothing = 0  # the step count where there are no arrays

    @property
    def count(self) -> int:
        """The step count."""
        if not len(self.rows):
            return self.nothing
        return self.counts.item(0, STEPS) + self.counts.item(0, LAG)

    @property
    def lags(self) -> list[int]:
        """For each array, the number of steps without its gradient."""
        lags: list[int] = self.counts[:, LAG].tolist()
        return lags

    @property
    def lags_moved(self) -> bool:
        """Whether a lag has changed since the table got its hyperparameters."""
        return bool((self.counts[:, LAG] != self.rows[:, HYPER_LAG]).any())

    def counted(self, count: int, lags: Sequence[int]) -> list[Change]:
        """The changes that set the step count and the lag of each array."""
        counts = np.array([[count - lag, lag] for lag in lags], np.int64).reshape(-1, 2)
        return [put(self.counts, counts), assign(self, "nothing", count)]


class Table(CountedTable):
    """The table of one optimizer, with the objects that it has addresses of.

    Parameters
    ----------
    params : sequence of array
        One row each.
    states : sequence of sequence of array
        The arrays of each parameter's slots.
    headers : sequence of sequence of Header
        For each parameter its own header, then those of its other arrays that are the caller's.
    indices : sequence of int
        The index of the first element of each, for random bits.
    guarded : Guarded
        Memory that gradients must not overlap.
    zero_grad : bool
        Gradients will be written too.
    may_skip : bool
        A gradient may be None.
    kernels : sequence of Kernel
        For gradients of the dtypes of the parameters; none where nothing is compiled.
    hypers : sequence of array
        The hyperparameters of each parameter.
    grain : int
        Threads share an array at multiples of so many elements: at least whole cache lines and blocks
        of codes.

    Attributes
    ----------
    may_lag : bool
        Whether a gradient of the step that was begun may be None.
    """

    may_lag = True

    def __init__(
        self,
        params: Sequence[Array],
        states: Sequence[Sequence[Array]],
        headers: Sequence[Sequence[Header]],
        indices: Sequence[int],
        guarded: Guarded,
        zero_grad: bool,
        may_skip: bool,
        kernels: Sequence[Kernel],
        hypers: Sequence[Array],
        grain: int = BLOCK,
    ) -> None:
        most = max(map(len, states), default=0)
        grad_flags = CONTIGUOUS | ALIGNED | (WRITEABLE if zero_grad else 0)
        # Kept alive: the rows have their addresses.
        self._arrays = [*params, *(array for arrays in states for array in arrays)]
        words, starts = _words(headers)
        self._headers, self._words = headers, np.array(words, np.int64)
        self._kernels, self._hypers = kernels, hypers
        self.dtypes: list[DType] = [param.dtype for param in params]  # of the gradients
        self.size, headers_at = 0, address(self._words)
        rows = []
        codes = [kernel.address for kernel in kernels] or [0] * len(params)
        for param, slots, headers_of_row, start, index, code, hyper in zip(
            params, states, headers, starts, indices, codes, hypers, strict=True
        ):
            row = [0] * (STATE + most)
            row[KERNEL], row[HYPER], row[HEADERS] = code, address(hyper), headers_at + 8 * start
            row[FORMAT], row[ITEMSIZE], row[DTYPE] = _format_words(param.dtype)
            row[LENGTH] = row[COUNT] = param.size
            row[GRAIN] = grain
            row[TYPE], row[NONE] = id(np.ndarray), id(None) if may_skip else 0
            row[FLAGS], row[NDIM] = grad_flags, param.ndim
            row[FIRST], row[PARAM] = index, headers_of_row[0].address
            row[STATE : STATE + len(slots)] = map(address, slots)
            rows.append(row)
            self.size += param.size
        super().__init__(np.array(rows, np.int64).reshape(len(params), STATE + most))
        self.ranges = np.array([guarded.starts, guarded.stops], np.int64)

    def planned(
        self,
        dtypes: Mapping[int, DType],
        kernels: Sequence[Kernel] = (),
        hypers: Sequence[Array] = (),
        lags: Sequence[int] = (),
    ) -> list[Change]:
        """The changes that set the formats of some gradients, the kernels, or the hyperparameters.

        Kernels and hyperparameters, which are for these lags, are of all rows.
        """
        block = self.rows[_PLAN].copy()
        for row, dtype in dtypes.items():
            block[row, [FORMAT, ITEMSIZE, DTYPE]] = _format_words(dtype)
        if kernels:
            block[:, KERNEL] = [kernel.address for kernel in kernels]
        if hypers:
            block[:, HYPER], block[:, HYPER_LAG] = list(map(address, hypers)), lags
        # Kept alive: the table has their addresses.
        updated = [dtypes.get(row, dtype) for row, dtype in enumerate(self.dtypes)]
        changes = [put(self.rows, block, _PLAN), assign(self, "dtypes", updated)]
        changes += [assign(self, "_kernels", kernels)] if kernels else []
        return [*changes, assign(self, "_hypers", hypers)] if hypers else changes


def _format_words(dtype: DType) -> tuple[int, int, int]:
    """What a row says of the format of its gradient."""
    return number_of(str(name_of(dtype))), dtype.itemsize, id(dtype)


def _words(headers: Sequence[Sequence[Header]]) -> tuple[list[int], list[int]]:
    """The headers as words, for each parameter their number and then they; and where these begin."""
    words, starts = list[int](), list[int]()
    for some in headers:
        starts.append(len(words))
        words.append(len(some))
        for header in some:
            words += header.words()
    return words, starts
