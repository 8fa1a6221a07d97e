"""Rows of addresses from arrays; `columns` says what stands where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastopt.codecs.floats import NAMES, name_of
from fastopt.layouts.arrays import Array, Range, address
from fastopt.layouts.columns import (
    COUNT,
    DTYPE,
    FIRST,
    FLAGS,
    FORMAT,
    HEADERS,
    HYPER,
    ITEMSIZE,
    KERNEL,
    LENGTH,
    NDIM,
    NONE,
    PARAM,
    SHAPE,
    STATE,
    TYPE,
)
from fastopt.layouts.headers import ALIGNED, CONTIGUOUS, WRITEABLE, Header


class Table:
    """The table of one optimizer, and what must stay alive while it is used.

    Parameters
    ----------
    params : sequence of array
        A row each.
    states : sequence of sequence of array
        The arrays of each parameter's slots.
    headers : sequence of sequence of Header
        Of the arrays among them that are the caller's.
    guarded : iterable of range
        Memory that no gradient may share.
    zero_grad : bool
        Gradients will be written too.
    may_skip : bool
        A gradient may be None.
    """

    def __init__(
        self,
        params: Sequence[Array],
        states: Sequence[Sequence[Array]],
        headers: Sequence[Sequence[Header]],
        guarded: Iterable[Range],
        zero_grad: bool,
        may_skip: bool,
    ) -> None:
        most = max((len(own) for own in states), default=0)
        grad_flags = CONTIGUOUS | ALIGNED | (WRITEABLE if zero_grad else 0)
        self.rows = np.zeros((len(params), STATE + most), np.int64)
        self._shapes = [np.array(param.shape or (1,), np.int64) for param in params]
        self._dtypes: list[np.dtype[Any]] = [param.dtype for param in params]
        self._kernels: list[Any] = [None] * len(params)
        self._hypers: list[Any] = [None] * len(params)
        first = 0
        for row, param, own, shape in zip(self.rows, params, states, self._shapes, strict=True):
            row[LENGTH] = row[COUNT] = param.size
            row[FIRST] = first
            first += param.size
            row[NDIM], row[FLAGS], row[TYPE] = param.ndim, grad_flags, id(np.ndarray)
            row[NONE] = id(None) if may_skip else 0
            row[SHAPE] = address(shape)
            row[PARAM] = address(param)
            for column, state in enumerate(own, STATE):
                row[column] = address(state)
        self._arrays = [*params, *(array for own in states for array in own)]
        self._note_headers(headers)
        spans = sorted((start, stop) for start, stop, _ in guarded if start < stop)
        self.ranges = np.array(spans, np.int64).reshape(-1, 2).T.copy()
        # What is only read may overlap: let ends rise too, so that they can be bisected.
        np.maximum.accumulate(self.ranges[1], out=self.ranges[1])
        self.size = sum(param.size for param in params)
        for number, param in enumerate(params):
            self.expect(number, param.dtype)

    def _note_headers(self, headers: Sequence[Sequence[Header]]) -> None:
        words: list[int] = []
        starts: list[int] = []
        for own in headers:
            starts.append(len(words))
            words.append(len(own))
            for header in own:
                words += header.words()
        self._headers, self._header_words = headers, np.array(words, np.int64)
        self.rows[:, HEADERS] = address(self._header_words) + 8 * np.array(starts, np.int64)

    def expect(self, row: int, dtype: np.dtype[Any]) -> None:
        """Take gradients of this dtype for a parameter."""
        self._dtypes[row] = dtype  # keeps alive what the table has the address of
        self.rows[row, DTYPE], self.rows[row, ITEMSIZE] = id(dtype), dtype.itemsize
        self.rows[row, FORMAT] = NAMES.index(str(name_of(dtype)))

    def expected(self, row: int) -> str:
        """The format of a parameter's gradients, by name."""
        return NAMES[self.rows[row, FORMAT]]

    def use(self, row: int, kernel: Any, hyper: Array) -> None:
        """Let a kernel work on a row, with these hyperparameters."""
        self._kernels[row] = kernel
        self.rows[row, KERNEL] = kernel.address
        self.use_numbers(row, hyper)

    def use_numbers(self, row: int, hyper: Array) -> None:
        """Let a row have these hyperparameters."""
        self._hypers[row] = hyper
        self.rows[row, HYPER] = address(hyper)
