"""The sums of transforms over arrays in memory: compiled, or in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastopt.arrays.checks import Array
from fastopt.codecs.formats import name_of
from fastopt.executors.cpu.sum_kernels import sum_kernel
from fastopt.executors.cpu.table import Table
from fastopt.executors.dispatch import TableSums
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet, sum_job
from fastopt.steps.sums import SumPass


class MemorySums:
    """The passes of a step over the arrays of a table.

    Parameters
    ----------
    passes : sequence of SumPass
    parameters : ParameterSet
    table : Table
    executor : str
    compiled : bool
    scales : bool
        Whether gradients are multiplied by a factor first.
    """

    def __init__(
        self,
        passes: Sequence[SumPass],
        parameters: ParameterSet,
        table: Table,
        executor: str,
        compiled: bool,
        scales: bool,
    ) -> None:
        self._passes, self._parameters, self._table = passes, parameters, table
        self._sums = [TableSums(executor, parameters.sizes, p.sums, p.per_array) for p in passes]
        self._compiled = compiled
        self._for: Any = None, False  # the formats that there are kernels for, and the factor
        self.prepare(scales)

    def prepare(self, scales: bool) -> None:
        """Get the kernels for the gradients that are in the table, compiled now if they are new."""
        dtypes = self._table.dtypes
        if not self._compiled or (self._for[0] is dtypes and self._for[1] == scales):
            return
        names = [str(name_of(dtype)) for dtype in dtypes]
        jobs = [self._parameters.job(row, name, scales) for row, name in enumerate(names)]
        pairs = list(zip(jobs, self._parameters.group_of, strict=True))
        for sum_pass, sums in zip(self._passes, self._sums, strict=True):
            if not sum_pass.sums:
                continue
            at = sum_pass.positions
            sums.use([sum_kernel(sum_job(job, at[g])) if g in at else None for job, g in pairs])
        self._for = dtypes, scales

    def totals(self, number: int, grads: Sequence[Any], hyper: Hyperparameters) -> Array:
        """The sums of a pass: a row for each, with a number for each array or one for all."""
        if not self._compiled:
            return self._parameters.interpret_sums(self._passes[number], grads, hyper)
        totals: Array = self._sums[number].measure(self._table.rows)
        return totals
