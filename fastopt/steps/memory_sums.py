"""The sums of transforms over arrays in memory: compiled, or in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.codecs.base import DType
from fastopt.codecs.formats import name_of
from fastopt.executors.cpu.columns import COUNT, LENGTH
from fastopt.executors.cpu.sum_kernels import sum_kernel
from fastopt.executors.cpu.table import Table
from fastopt.executors.dispatch import TableSums
from fastopt.executors.norm import LOCAL, Reducer
from fastopt.steps.conclusions import Conclusion, conclusions
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet, sum_job
from fastopt.steps.pass_sums import PassSums, over_all
from fastopt.steps.sparse.entries import RowGradient
from fastopt.steps.sparse.row_stepper import RowStepper
from fastopt.steps.sums import Decisions, SumPass


class MemorySums:
    """The passes of a step over the arrays of a table, and what is decided after each.

    Parameters
    ----------
    decisions : Decisions
    parameters : ParameterSet
    table : Table
    hyper : Hyperparameters
    executor : str
    compiled : bool
    scales : bool
        Whether gradients are multiplied by a factor first.
    """

    def __init__(
        self,
        decisions: Decisions,
        parameters: ParameterSet,
        table: Table,
        hyper: Hyperparameters,
        executor: str,
        compiled: bool,
        scales: bool,
    ) -> None:
        self._decisions, self._parameters, self._table = decisions, parameters, table
        passes = decisions.passes
        self._sums = [TableSums(executor, parameters.sizes, p.sums, p.per_array) for p in passes]
        self._compiled = compiled
        self._for: tuple[list[DType] | None, bool] = (
            None,
            False,
        )  # the formats that there are kernels for, and the factor
        # What is carried on is written to that one of these which is not read.
        self._room = [[np.zeros_like(table) for table in decisions.carried] for _ in range(2)]
        self._prepare(scales)
        self._conclude(hyper)

    def _prepare(self, scales: bool) -> None:
        """Get the kernels for the gradients that are in the table, compiled now if they are new."""
        dtypes = self._table.dtypes
        if not self._compiled or (self._for[0] is dtypes and self._for[1] == scales):
            return
        names = [str(name_of(dtype)) for dtype in dtypes]
        jobs = [self._parameters.job(row, name, scales) for row, name in enumerate(names)]
        pairs = list(zip(jobs, self._parameters.group_of, strict=True))
        for sum_pass, sums in zip(self._decisions.passes, self._sums, strict=True):
            if not sum_pass.sums:
                continue
            at = sum_pass.positions
            sums.use([sum_kernel(sum_job(job, at[g])) if g in at else None for job, g in pairs])
        self._for = dtypes, scales

    def _conclude(self, hyper: Hyperparameters) -> None:
        """Let what follows from the sums be written to these hyperparameters."""
        numbers = range(len(self._decisions.passes))
        self._conclusions: list[list[Conclusion]] = [
            conclusions(self._decisions, number, hyper, self._compiled) for number in numbers
        ]
        self._hyper = hyper

    def decide(
        self,
        grads: Sequence[object],
        sparse: Mapping[int, RowGradient],
        row_steps: RowStepper,
        hyper: Hyperparameters,
        scales: bool,
        reducer: Reducer,
        pass_sums: PassSums | None,
    ) -> bool:
        """Sum, and write the hyperparameters that follow, pass by pass; False to skip the step.

        Parameters
        ----------
        grads : sequence of array or None
            The gradients, which are in the table too.
        sparse : mapping of int to RowGradient
            Those among them that are sparse, and are not in the table.
        row_steps : RowStepper
            Steps these.
        hyper : Hyperparameters
        scales : bool
            Whether gradients are multiplied by a factor first.
        reducer : Reducer
            Adds the sums of several processes.
        pass_sums : PassSums, optional
            Those of the step before.
        """
        self._prepare(scales)
        if hyper is not self._hyper:
            self._conclude(hyper)
        decisions, rows = self._decisions, self._table.rows
        touched: Mapping[int, Any] = {}
        if sparse:
            rows = rows.copy()  # in which these arrays have a gradient
            rows[list(sparse), COUNT] = rows[list(sparse), LENGTH]
            if decisions.reads:
                row_steps.catch_up_touched(sparse)
                touched = (row_steps.summing if self._compiled else row_steps.views)(sparse, hyper)
        after = pass_sums.totals() if decisions.waits and pass_sums is not None else None
        carried, following = decisions.carried, self._room[self._room[0] is decisions.carried]
        for number, sum_pass in enumerate(decisions.passes):
            parts = [self._totals(number, grads, touched, reducer)] if sum_pass.sums else []
            if sum_pass.count_after and after is not None:
                parts.append(self._after(sum_pass, after))
            sums = parts[0] if len(parts) == 1 else np.concatenate(parts)
            for conclusion in self._conclusions[number]:
                if conclusion.decide(rows, sums, carried[number], following[number]):
                    return False
        decisions.next = following
        row_steps.find_matrices(sparse, hyper)
        return True

    def _totals(
        self, number: int, grads: Sequence[object], touched: Mapping[int, Any], reducer: Reducer
    ) -> Array:
        """The sums of a pass: a row for each, with a number for each array or one for all."""
        if self._compiled:
            sums, rows = self._sums[number], self._table.rows
            totals = sums.measure_rows(rows, touched) if touched else sums.measure(rows)
        else:
            sum_pass = self._decisions.passes[number]
            totals = self._parameters.interpret_sums(sum_pass, grads, self._hyper, touched)
        if reducer is LOCAL:
            return totals
        return np.array([[reducer.sum(x) for x in row] for row in totals.tolist()])

    def _after(self, sum_pass: SumPass, totals: Array) -> Array:
        """The sums of the step before: a row for each, with a number for each array or one for all."""
        group_of = self._decisions.group_of
        rows = [row for row, group in enumerate(group_of) if group in sum_pass.positions]
        firsts = np.array([sum_pass.after[group_of[row]] for row in rows], np.int64)
        picked = totals[firsts + np.arange(sum_pass.count_after)[:, np.newaxis], rows]
        if not sum_pass.per_array:
            return np.array([[number] for number in over_all(picked)])
        every = np.zeros((sum_pass.count_after, len(group_of)))
        every[:, rows] = picked
        return every
