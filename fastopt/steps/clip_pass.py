"""The pass over gradients in memory from which their factor follows, before the passes of a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastopt.codecs.formats import name_of
from fastopt.executors import norm
from fastopt.executors.cpu.sum_kernels import squares_kernel
from fastopt.executors.cpu.table import Table
from fastopt.executors.dispatch import TableSums
from fastopt.executors.global_norm import sum_of_squares
from fastopt.executors.norm import Reducer
from fastopt.steps.clipping import NormClip
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.sparse.entries import RowGradient


# Not one of the passes of `memory_sums`, whose kernels and drivers it has, for what is decided another
# way. The limit is that of the optimizer's step, not of each array's, which lags if gradients are None.
# The factor is merged with ``1 / grad_scale``. And the second and third sum are only computed where the
# first is not enough: with all three 10^8 float32 took 3.2 times as long.
class ClipPass:
    """The sums of `transforms.gradient_clip` over all gradients, and what follows from them.

    Parameters
    ----------
    clip : NormClip
    table : Table
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
        sizes: Sequence[int],
        executor: str,
        compiled: bool,
    ) -> None:
        self._clip, self._table, self._compiled = clip, table, compiled
        self._sums = TableSums(executor, sizes, 1, per_array=False)
        self._for: Any = None  # the formats that there are kernels for

    def _prepare(self) -> None:
        """Get the kernels for the gradients that are in the table, compiled now if they are new."""
        dtypes = self._table.dtypes
        self._sums.use([squares_kernel(str(name_of(dtype))) for dtype in dtypes])
        self._for = dtypes  # last: whatever interrupts it, the next step prepares anew

    def check(self, rows: Any, items: int, ranges: Any) -> int:
        """Check gradients, and read them in the same call; return the status of the header check."""
        if self._for is not self._table.dtypes:
            self._prepare()
        return self._sums.check(rows, items, ranges)

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
            grads = [sparse[i].in_order() if i in sparse else grad for i, grad in enumerate(grads)]
            present = [grad for grad in grads if grad is not None]
            squares = sum_of_squares(present) if self._compiled else norm.reference(present)
        else:
            if not self.is_measured:
                if self._for is not self._table.dtypes:
                    self._prepare()
                self._sums.measure(self._table.rows)
            squares = self._sums.totals.item(0)
        factor = self._clip.conclude(norm.clip_sums(squares, grads, reducer), grad_scale, limit)
        if factor is None:
            return False
        hyper.scale_gradients(factor)
        return True
