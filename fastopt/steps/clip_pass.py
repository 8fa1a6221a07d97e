"""The pass over gradients in memory from which their factor follows, before the passes of a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastopt.executors import norm
from fastopt.executors.cpu.table import Table
from fastopt.executors.dispatch import TableNorm
from fastopt.executors.global_norm import sum_of_squares
from fastopt.executors.norm import Reducer
from fastopt.steps.clipping import NormClip
from fastopt.steps.gradients import Gradients
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.sparse.entries import RowGradient


class ClipPass:
    """The sums of `transforms.gradient_clip` over all gradients, and what follows from them.

    They have a kernel of their own for all chains, which checks gradients and reads them in one call.

    Parameters
    ----------
    clip : NormClip
    table : Table
    gradients : Gradients
    sizes : sequence of int
        Of the arrays.
    executor : str
    compiled : bool

    Attributes
    ----------
    is_measured : bool
        Whether `check` has let the gradients of the step through.
    """

    is_measured = False

    def __init__(
        self,
        clip: NormClip,
        table: Table,
        gradients: Gradients,
        sizes: Sequence[int],
        executor: str,
        compiled: bool,
    ) -> None:
        self._clip, self._compiled = clip, compiled
        self._table, self._gradients = table, gradients
        self._norm = TableNorm(executor, sizes)
        self.check = self._norm.measure

    def decide(
        self,
        grads: Sequence[Any],
        sparse: Mapping[int, RowGradient],
        hyper: Hyperparameters,
        grad_scale: float,
        limit: float,
        reducer: Reducer,
    ) -> bool:
        """Have gradients multiplied by what follows from their sums; False to skip the step.

        Parameters
        ----------
        grads : sequence of array or None
        sparse : mapping of int to RowGradient
            Those among them that are sparse.
        hyper : Hyperparameters
        grad_scale, limit : float
            What gradients are divided by, and the largest norm after that.
        reducer : Reducer
            Adds the sums of several processes.
        """
        if sparse or not self._compiled:
            grads = [sparse[i].once() if i in sparse else grad for i, grad in enumerate(grads)]
            present = [grad for grad in grads if grad is not None]
            squares = sum_of_squares(present) if self._compiled else norm.reference(present)
        else:
            if not self.is_measured:
                self.check(self._table.rows, self._gradients.zero_items, self._table.ranges)
            squares = self._norm.squares
        factor = self._clip.conclude(norm.clip_sums(squares, grads, reducer), grad_scale, limit)
        if factor is None:
            return False
        hyper.scale_gradients(factor)
        return True
