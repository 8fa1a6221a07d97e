"""The choice of the executor of a step, and how it is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.changes import Change
from fastopt.executors import threads
from fastopt.executors.cpu import drivers
from fastopt.executors.cpu import sums as cpu_sums
from fastopt.executors.cpu.columns import COUNT
from fastopt.executors.cpu.sums import CODE
from fastopt.executors.norm import SUM_BLOCK, blocks
from fastopt.validation import choice, flag

if TYPE_CHECKING:
    from fastopt.executors.cpu.kernels import Kernel

Launch: TypeAlias = Callable[[Array, int, Array], int]

Executor: TypeAlias = Literal["auto", "serial", "parallel", "reference", "cuda"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
FAST = {"fast": "auto", "cuda-fast": "cuda"}  # what these names have become, with fast=True

# Below this many elements `auto` stays on one core. Measured for float32 RMSProp (bench_threshold.py)
# on two cores with AVX-512 and GNU OpenMP, the threads awake from the previous step: starting them
# takes about 4 us, so that 16,384 elements take the same on one core and on two (8.3 and 8.5 us), 8,192
# take 4.6 and 6.5, 32,768 take 15.9 and 12.2. Twice the break-even, because a late thread costs more
# than a timely one gains: where others use the cores too, a step can wait milliseconds for it.
AUTO_THRESHOLD = 32_768


def check_executor(executor: object, fast: object) -> None:
    """Check the options `executor` and `fast`."""
    if isinstance(executor, str) and executor in FAST:
        raise ValueError(
            f"executor {executor!r} is executor={FAST[executor]!r} with fast=True: the executor says "
            "where the loop runs, and fast how"
        )
    choice("executor", executor, EXECUTORS)
    if flag("fast", fast) and executor == "reference":
        raise ValueError(
            "fast must be False with executor='reference', which defines the precise result"
        )


def _parallel(rows: Array, items: int, ranges: Array) -> int:
    count, turn = threads.parallel_turn()
    with turn:
        if count == 1:
            return drivers.serial()(rows, items, ranges)
        return drivers.fastest_parallel(len(rows))(rows, items, ranges, count)


def on_one_core(executor: str, size: int) -> bool:
    """Whether `size` elements are stepped on one core."""
    return executor == "serial" or (executor != "parallel" and size < AUTO_THRESHOLD)


class RowSums(NamedTuple):
    """The sums over the touched rows of an array, each of which counts as an array of its own."""

    blocks: int  # of all of them
    size: int  # elements
    write: Callable[[int, Any, int, int, int], None]  # see `steps.sparse.row_driver.summing`


class TableSums:
    """The sums of a pass over the arrays of a table, see `executors.cpu.sums`.

    Parameters
    ----------
    executor : str
    sizes : sequence of int
        Of the arrays.
    count : int
        How many sums.
    per_array : bool
        Over each array, rather than over all.

    Attributes
    ----------
    totals : array
        A row for each sum, with a number for each array or one for all.
    """

    def __init__(self, executor: str, sizes: Sequence[int], count: int, per_array: bool) -> None:
        self.totals = np.zeros((count, len(sizes) if per_array else 1))
        self._sums = np.zeros(count * max(blocks(sizes), 1))
        self._kernels = np.zeros((2, len(sizes)), np.int64)
        self._kept_alive: Sequence[Kernel | None] = ()
        self._executor = executor
        self._serial = cpu_sums.serial() if on_one_core(executor, sum(sizes)) else None
        self._no_items, self._no_ranges = np.zeros(len(sizes), np.int64), np.zeros((2, 0), np.int64)

    def use(self, kernels: Sequence[Kernel | None]) -> None:
        """Take the kernel of each array, None where nothing is summed."""
        self._kept_alive = kernels  # the machine code
        self._kernels[CODE] = [0 if kernel is None else kernel.address for kernel in kernels]

    def check(self, rows: Array, items: int, ranges: Array) -> int:
        """Check gradients, note their addresses, and sum; return the status of the header check."""
        room = self._kernels, self._sums, self.totals
        if self._serial is not None:
            return self._serial(rows, items, ranges, *room, 1)
        count, turn = threads.parallel_turn()
        with turn:
            run = cpu_sums.serial() if count == 1 else cpu_sums.parallel()
            return run(rows, items, ranges, *room, count)

    def measure(self, rows: Array) -> Array:
        """Sum all arrays of a table, whose gradients were checked: `totals`."""
        self.check(rows, address(self._no_items), self._no_ranges)
        return self.totals

    def measure_rows(self, rows: Any, touched: Mapping[int, RowSums]) -> Array:
        """The same with arrays of which only rows are `touched`, and whose count is 0 in the table."""
        sizes = [int(rows[:, COUNT].sum()), *(each.size for each in touched.values())]
        codes, of_rows = kernels = self._kernels.copy()
        touched = {index: each for index, each in touched.items() if codes[index]}
        for index, each in touched.items():
            of_rows[index] = each.blocks
        *places, size = accumulate(
            (of_rows - (-rows[:, COUNT] // SUM_BLOCK) * (codes != 0)).tolist(), initial=0
        )
        if len(self._sums) < len(self.totals) * size:
            self._sums = np.zeros(len(self.totals) * size)
        stride = len(self._sums) // len(self.totals)
        count, turn = turn_for(self._executor, sizes)
        with turn:
            for index, each in touched.items():
                each.write(int(codes[index]), self._sums, places[index], stride, count)
            run = cpu_sums.serial() if count == 1 else cpu_sums.parallel()
            room = kernels, self._sums, self.totals
            run(rows, address(self._no_items), self._no_ranges, *room, count)
        return self.totals


def turn_for(executor: str, sizes: Sequence[int]) -> threads.Turn:
    """The number of threads that tasks of these sizes may use together, see `parallel_turn`."""
    if all(on_one_core(executor, size) for size in sizes):
        return threads.ALONE
    return threads.parallel_turn()


def stepping(executor: str, size: int, count: int, *arguments: Any) -> Change:
    """A change that checks and steps a table of `size` elements with at most `count` threads."""
    if count == 1 or on_one_core(executor, size):
        return partial(drivers.serial(), *arguments)
    return partial(drivers.fastest_parallel(len(arguments[0])), *(*arguments, count))


def stepping_stretch(executor: str, count: int, rows: Array, start: int, stop: int) -> Change:
    """A change that steps a stretch of the elements of a table, whose gradients were checked."""
    if count == 1 or on_one_core(executor, stop - start):
        return partial(drivers.stretch_serial(), rows, start, stop, 1)
    return partial(drivers.stretch_parallel(), rows, start, stop, count)


def launcher(executor: str, size: int) -> Launch:
    """The function that steps a table of `size` elements in all."""
    return drivers.serial() if on_one_core(executor, size) else _parallel
