"""When arrays on a CUDA device need other hyperparameters, because they were left out of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import make
from fastopt.executors.cpu.columns import HYPER_LAG, LAG
from fastopt.executors.cpu.table import CountedTable
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.sums import Decisions


def count_step(table: CountedTable, left_out: Sequence[bool]) -> None:
    """Count a step, which some arrays were left out of."""
    make(table.counted(table.count + 1, np.add(table.lags, left_out).tolist()))


def have_moved(table: CountedTable, has_gradient: Array) -> bool:
    """Whether arrays with a gradient have the hyperparameters of another step."""
    moved = table.counts[:, LAG] != table.rows[:, HYPER_LAG]
    return bool((moved & has_gradient).any())


def are_outdated(
    table: CountedTable,
    has_gradient: Array,
    parameters: ParameterSet,
    decisions: Decisions,
    capturing: bool,
) -> bool:
    """Whether hyperparameters that the coming step reads are those of another step.

    An array that is left out again reads none. But where there are sums, those of its group are
    concluded with the hyperparameters of its arrays that lag least.

    Parameters
    ----------
    table : CountedTable
    has_gradient : array of bool
    parameters : ParameterSet
    decisions : Decisions
        What follows from sums.
    capturing : bool
        Whether a graph is captured, whose step must be like the one before it.
    """
    if have_moved(table, has_gradient):
        return True
    lags, known = table.counts[:, LAG], table.rows[:, HYPER_LAG]
    group_of = np.array(parameters.group_of if decisions.passes else [])
    return not capturing and any(
        lags[group_of == group].min() != known[group_of == group].min() for group in set(group_of)
    )
