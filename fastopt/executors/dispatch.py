"""The choice of the executor of a step, and how it is started."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from fastopt.changes import Change
from fastopt.codecs.formats import FORMATS
from fastopt.executors import norm as order_of_sums
from fastopt.executors import threads
from fastopt.executors.cpu import drivers, norm
from fastopt.executors.cpu import sums as cpu_sums
from fastopt.executors.cpu.columns import FORMAT
from fastopt.validation import choice, flag

Launch: TypeAlias = Callable[[Any, int, Any], int]
NormLaunch: TypeAlias = Callable[[Any, int, Any, Any], int]

Executor: TypeAlias = Literal["auto", "serial", "parallel", "reference", "cuda"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
FAST = {"fast": "auto", "cuda-fast": "cuda"}  # what these names have become, with fast=True

# Below this many elements `auto` stays on one core. Measured for float32 RMSProp (bench_threshold.py)
# on two cores with AVX-512 and GNU OpenMP, the threads awake from the previous step: starting them
# takes about 4 us, so that 16,384 elements take the same on one core and on two (8.3 and 8.5 us), 8,192
# take 4.6 and 6.5, 32,768 take 15.9 and 12.2. Twice the break-even, because a late thread costs more
# than a timely one gains: where others use the cores too, a step can wait milliseconds for it.
AUTO_THRESHOLD = 32_768


def check_executor(executor: Any, fast: Any) -> None:
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


def _parallel(rows: Any, items: int, ranges: Any) -> int:
    count, turn = threads.parallel_turn()
    with turn:
        if count == 1:
            return drivers.serial()(rows, items, ranges)
        return drivers.parallel()(rows, items, ranges, count)


def on_one_core(executor: str, size: int) -> bool:
    """Whether `size` elements are stepped on one core."""
    return executor == "serial" or (executor != "parallel" and size < AUTO_THRESHOLD)


def norm_launcher(executor: str, size: int, formats: Collection[int]) -> NormLaunch:
    """The function that checks gradients of `size` elements in all and sums their squares.

    Raises
    ------
    RuntimeError
        The processor lacks the instructions for one of the formats, which are given by number.
    """
    names = tuple(name for number, name in enumerate(FORMATS) if number in formats)
    if on_one_core(executor, size):
        run = norm.serial(names)
        return lambda rows, items, ranges, sums: run(rows, items, ranges, sums, 1)

    def launch(rows: Any, items: int, ranges: Any, sums: Any) -> int:
        count, turn = threads.parallel_turn()
        with turn:
            run = norm.serial(names) if count == 1 else norm.parallel(names)
            return run(rows, items, ranges, sums, count)

    return launch


class TableNorm:
    """The sum of the squares of all gradients of a table.

    Parameters
    ----------
    executor : str
    sizes : sequence of int
        Of the arrays.
    """

    def __init__(self, executor: str, sizes: Sequence[int]) -> None:
        # Compiled code writes here: the sum of each block, and finally the total in the first element.
        self._sums = np.zeros(max(order_of_sums.blocks(sizes), 1))
        self._executor, self._size = executor, sum(sizes)
        self._launch: NormLaunch | None = None

    def measure(self, rows: Any, items: int, ranges: Any) -> int:
        """Check gradients, note addresses and sum squares; return the status of the header check."""
        status = norm.OTHER_FORMATS
        if self._launch is not None:
            status = self._launch(rows, items, ranges, self._sums)
        if status == norm.OTHER_FORMATS:
            self._launch = norm_launcher(self._executor, self._size, set(rows[:, FORMAT].tolist()))
            status = self._launch(rows, items, ranges, self._sums)
        return status

    @property
    def squares(self) -> float:
        """The sum of the last measurement."""
        return float(self._sums[0])


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
    """

    def __init__(self, executor: str, sizes: Sequence[int], count: int, per_array: bool) -> None:
        self._sums = np.zeros(count * max(order_of_sums.blocks(sizes), 1))
        self._totals = np.zeros((count, len(sizes) if per_array else 1))
        self._kernels = np.zeros(len(sizes), np.int64)
        self._kept_alive: Sequence[Any] = ()
        self._executor, self._size = executor, sum(sizes)

    def use(self, kernels: Sequence[Any]) -> None:
        """Take the kernel of each array, None where nothing is summed."""
        self._kept_alive = kernels  # the machine code
        self._kernels[:] = [0 if kernel is None else kernel.address for kernel in kernels]

    def measure(self, rows: Any) -> Any:
        """Sum all arrays of a table, whose gradients were checked: a row of totals for each sum."""
        count, turn = turn_for(self._executor, [self._size])
        with turn:
            run = cpu_sums.serial() if count == 1 else cpu_sums.parallel()
            run(rows, self._kernels, self._sums, self._totals, count)
        return self._totals


def turn_for(executor: str, sizes: Sequence[int]) -> threads.Turn:
    """The number of threads that tasks of these sizes may use together, see `parallel_turn`."""
    if all(on_one_core(executor, size) for size in sizes):
        return threads.ALONE
    return threads.parallel_turn()


def stepping(executor: str, size: int, count: int, *arguments: Any) -> Change:
    """A change that checks and steps a table of `size` elements with at most `count` threads."""
    if count == 1 or on_one_core(executor, size):
        return partial(drivers.serial(), *arguments)
    return partial(drivers.parallel(), *(*arguments, count))


def stepping_stretch(executor: str, count: int, rows: Any, start: int, stop: int) -> Change:
    """A change that steps a stretch of the elements of a table, whose gradients were checked."""
    if count == 1 or on_one_core(executor, stop - start):
        return partial(drivers.stretch_serial(), rows, start, stop, 1)
    return partial(drivers.stretch_parallel(), rows, start, stop, count)


def launcher(executor: str, size: int) -> Launch:
    """The function that steps a table of `size` elements in all."""
    return drivers.serial() if on_one_core(executor, size) else _parallel
