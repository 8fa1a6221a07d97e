"""The fast check before each step: the same parameters and states as before, and usual gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import getattr_static
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastopt.arrays.checks import Array, address
from fastopt.executors.exchange import Expected, can_be_negated, interface
from fastopt.executors.interpreter import getter_of, python_calls
from fastopt.interop.torch.parameters import Row
from fastopt.interop.torch.tensor_check import DISAGREE, REPLACED, scan
from fastopt.interop.torch.tensors import State, format_of

_GRAD = getattr_static(Tensor, "grad")
_IS_NEGATED = torch._C.TensorBase.is_neg


class Snapshot:
    """Parameters, states, gradients and step counts, checked and noted in machine code.

    Parameters
    ----------
    rows : sequence of Row
    others : sequence of Tensor
        Parameters that had no gradient so far.
    steps : MemoryStepper or CudaStepper
        The stepper of these rows, with a table that gradients can be noted in.
    exchange : array
        torch's `interface`.
    notes : bool
        Whether gradients are to be noted; else only parameters and states are checked.
    state : dict or None
        torch's states of all parameters, which is to keep its items; the caller keeps them alive.

    Attributes
    ----------
    is_noted : bool
        Whether the addresses of all gradients are in the table, as the last check left it.
    count : int
        How many rows have a gradient then,
    counts_agree : bool
        and whether torch has the step counts of the table.
    """

    is_noted, count, counts_agree = False, 0, False

    def __init__(
        self,
        rows: Sequence[Row],
        others: Sequence[Tensor],
        steps: Any,
        exchange: Array,
        notes: bool,
        state: Mapping[Tensor, State] | None,
    ) -> None:
        self._tensors = [tensor for row in rows for tensor in row.tensors()]
        tensors = Expected(self._tensors, exchange)
        self._names = [(row.state, name) for row in rows for name in (None, *row.tracked)]
        states = (t for t, (_, name) in zip(self._tensors, self._names, strict=True) if name)
        self._references = list(map(_reference, states))
        # Kept alive, like what follows: compiled code knows objects by their address.
        found_in = np.array(
            [(id(state) if name else 0, id(name)) for state, name in self._names], np.int64
        )
        likes = [(row.param if row.shadow is None else row.shadow).detach() for row in rows]
        noted_rows = len(rows) if notes else 0
        # Asking each tensor for lazy negation takes 90 ns.
        asked = [can_be_negated(like.stride()) for like in likes]
        params = np.array(
            [(id(row.param), ask) for row, ask in zip(rows, asked, strict=True)], np.int64
        )
        self._grads, self._others = Expected(likes, exchange), list(others)
        gradients = steps.gradients
        gradients.noted = np.zeros(len(rows), np.int64)
        self._gradients = gradients
        counts = [row.count for row in rows if row.count is not None]
        counts_at = [(address(count), count.itemsize) for count in counts]
        self._counts_at = np.array(counts_at, np.int64).reshape(-1, 2)
        states_at = 0 if state is None else id(state)
        asked_of = id(_IS_NEGATED), states_at, not rows[0].param.is_cuda
        self._arguments = (
            python_calls(),
            exchange,
            np.array([*getter_of(_GRAD), *asked_of], np.int64),
            np.array([*(id(o) for item in (state or {}).items() for o in item), 0, 0, 0], np.int64),
            tensors.table,
            found_in.reshape(-1, 2),
            np.array(list(map(id, others)), np.int64),
            params[:noted_rows].reshape(-1, 2),
            self._grads.table,
            steps.rows,
            steps.ranges,
            gradients.noted,
            self._counts_at,
        )
        self._expected = tensors
        self._scan, self._notes, self._all = scan(), notes, np.ones(len(rows), np.bool_)

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        others: Sequence[Tensor],
        steps: Any,
        notes: bool,
        state: Mapping[Tensor, State] | None,
    ) -> Snapshot | None:
        """The snapshot of rows, or None if they cannot be checked in machine code."""
        exchange = interface(type(rows[0].param)) if rows else None
        if (
            exchange is None
            or not isinstance(state, (dict, type(None)))
            or not steps.by_table
            or not all(map(_is_usual, rows))
        ):
            return None
        params = [*others, *(row.param for row in rows)]
        if any(getattr_static(type(param), "grad") is not _GRAD for param in params):
            return None
        try:
            snapshot = cls(rows, others, steps, exchange, notes, state)
        except (RuntimeError, BufferError):  # of torch: it cannot describe one of them
            return None
        return snapshot if snapshot.is_same() else None

    def is_same(self) -> bool:
        """Whether all are the same tensors as at construction, with the same memory.

        Gradients are noted by the way, if they are all as expected.
        """
        status = self._scan(*self._arguments)
        self.is_noted = status >= 0 and self._notes
        self.counts_agree = 0 <= status < DISAGREE
        self.count = status % DISAGREE if self.is_noted else 0
        return bool(status != REPLACED)

    @property
    def has_gradient(self) -> Array:
        """Which rows have a gradient, of those that are noted."""
        return self._all if self.count == len(self._all) else self._gradients.noted == 0

    def take(self) -> None:
        """Have the coming step take the gradients that are noted, or else those that it is given."""
        self._gradients.is_noted = self.is_noted  # whatever a step that failed has left there


def _reference(tensor: Tensor) -> Tensor:
    """An owner of a reference to a tensor in C++.

    Where there is one torch describes the tensor in half of the time: it need not count a reference to
    the object of Python. Not for parameters, which `torch.utils.swap_tensors` would refuse.
    """
    owner = tensor.detach()
    owner.grad = tensor
    return owner


def _is_usual(row: Row) -> bool:
    """Whether compiled code can check a row."""
    return bool(format_of(row.param.dtype)) and not row.capturable and type(row.state) is dict
