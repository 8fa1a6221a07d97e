"""Rows of addresses from arrays; `columns` says what stands where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.layouts.arrays import Array, address
from fastopt.layouts.columns import (
    DTYPE,
    HYPER,
    ITEMSIZE,
    KERNEL,
    LENGTH,
    NDIM,
    PARAM,
    SHAPE,
    STATE,
    TYPE,
)


class Table:
    """The table of one optimizer, and what must stay alive while it is used.

    Parameters
    ----------
    params : sequence of array
        A row each.
    states : sequence of sequence of array
        The state arrays of each parameter.
    """

    def __init__(self, params: Sequence[Array], states: Sequence[Sequence[Array]]) -> None:
        most = max((len(own) for own in states), default=0)
        self.rows = np.zeros((len(params), STATE + most), np.int64)
        self._shapes = [np.array(param.shape or (1,), np.int64) for param in params]
        for row, param, own, shape in zip(self.rows, params, states, self._shapes, strict=True):
            row[LENGTH], row[ITEMSIZE], row[NDIM] = param.size, param.itemsize, param.ndim
            row[TYPE], row[DTYPE] = id(np.ndarray), id(param.dtype)
            row[SHAPE] = address(shape)
            row[PARAM] = address(param)
            for column, state in enumerate(own, STATE):
                row[column] = address(state)
        everything = [*params, *(state for own in states for state in own)]
        spans = sorted(
            (address(array), address(array) + array.nbytes) for array in everything if array.size
        )
        self.ranges = np.array(spans, np.int64).reshape(-1, 2).T.copy()
        self.size = sum(param.size for param in params)

    def use(self, row: int, kernel: Any, hyper: Array) -> None:
        """Let a kernel work on a row, with these hyperparameters."""
        self.rows[row, KERNEL] = kernel.address
        self.rows[row, HYPER] = address(hyper)
