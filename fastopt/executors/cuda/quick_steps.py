"""Steps of one call of machine code: gradients checked, bound, launched and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.executors import launching
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.many_arrays import ManyArrays
from fastopt.executors.exchange import STREAM, Expected

# Where a gradient must not be, if it must stay where it is.
EVERYWHERE = np.array([[0], [np.iinfo(np.int64).max]], np.int64)


class QuickStep(NamedTuple):
    """A step with gradients like the last ones, all of which were given."""

    take: Callable[[int], int]
    """Takes the step, or returns `launching.UNLIKE`; the argument is `items` of `launching.step`."""
    kept: object
    """The arrays that it has addresses of."""


def quick_step(
    driver: Array,
    rows: Array,
    launches: Array,
    batches: Sequence[Batch],
    ranges: Array,
    stays: bool,
    expected: Expected,
    stream: int,
    moved: Array,
    held: Expected,
) -> QuickStep | None:
    """The quick step of batches that are bound.

    Parameters
    ----------
    driver, rows, launches : array
        As of `launching.launch`.
    batches : sequence of Batch
    ranges : array
        The sorted starts and stops of memory where no gradient may be.
    stays : bool
        Gradients in other memory are left to Python.
    expected : Expected
        Of the gradients; of none of them where all are noted in the rows.
    stream : int
        The stream, or the negative number of the device whose stream compiled code asks for.
    moved : array
        Whether gradients were bound that Python does not know of: its first element becomes 1 then.
    held : Expected
        Of arrays that launches have bound, which must not have changed.
    """
    if stream < 0 and not expected.exchange[STREAM]:
        return None
    words = np.zeros((len(rows), 3), np.int64)
    copies, rings = list[list[int]](), list[tuple[int, int]]()
    for batch in batches:
        words[batch.rows] = batch.gradient_words()
        if isinstance(batch, ManyArrays):
            copies.append([*batch.rows_in_memory(), len(rings), 0])
            rings += batch.tables[-1].ring()
    # In the order of `launching`.
    kept = [
        driver.reshape(1, -1),
        rows,
        launches,
        words,
        np.array(copies, np.int64).reshape(-1, 5),
        np.array(rings, np.int64).reshape(-1, 2),
        EVERYWHERE if stays else ranges,
        expected.table,
        expected.exchange.reshape(1, -1),
        held.table,
        held.exchange.reshape(1, -1),
    ]
    tables = np.array(
        [*(word for array in kept for word in (address(array), *array.shape)), stream, address(moved)],
        np.int64,
    )
    return QuickStep(partial(launching.step(), address(tables)), (tables, kept, expected, moved, held))
