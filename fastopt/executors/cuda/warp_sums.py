"""How a kernel adds up the terms of its step, as Python source, and the functions for it.

The order is that of `executors.norm`: rows of eight lanes, neighbours first, and then the lanes. A warp
adds its rows by shuffles, the warps of a block of threads meet in shared memory, and the lanes of a
*piece*, the elements of one block of threads, are stored: 64 bytes for 1024 elements of float32. What
follows is in `pass_kernels`.

An element that is not there counts as 0.0 in a group of rows that has some, as on the CPU, and else as
-0.0, which changes no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from llvmlite import ir
from numba import types

from fastopt.codecs.base import BLOCK
from fastopt.executors.cuda import device, element_access
from fastopt.executors.cuda.tree_sum import GROUP, THREADS
from fastopt.executors.cuda.warp_functions import shuffle
from fastopt.executors.norm import LANES
from fastopt.kernels.intrinsics import Builder, Intrinsic, Scope, Value, emits
from fastopt.kernels.job import Job
from fastopt.kernels.llvm_operations import DOUBLE, I32

WARPS = THREADS // device.WARP


def unit_of(job: Job) -> tuple[int, int]:
    """The elements of a unit of work, and the threads that share it."""
    if any(array.storage.in_blocks for array in job.arrays):
        return BLOCK, device.WARP
    return element_access.width_of(job.compute.name), 1


def piece_of(job: Job) -> int:
    """The elements of a block of threads where the step adds up terms."""
    unit, team = unit_of(job)
    return THREADS // team * unit


def absent(index: str) -> str:
    """The term of an element that is not there, by its index or that of another one of its group."""
    return f"0.0 if {index} < (stop + {GROUP - 1}) & {-GROUP} else -0.0"


def tree(items: Sequence[str]) -> str:
    """The sum of a power of two of names, neighbours first."""
    items = list(items)
    while len(items) > 1:
        items = [f"({items[i]} + {items[i + 1]})" for i in range(0, len(items), 2)]
    return items[0]


def add_rows(terms: Sequence[str], lanes: range, unit: int) -> list[str]:
    """The lines that add the rows of a warp, each thread of which has these consecutive lanes."""
    return [
        f"{term}_of{unit} = add_rows{len(lanes)}({', '.join(f'{term}_{lane}' for lane in lanes)})"
        for term in terms
    ]


def add_units(terms: Sequence[str], units: Sequence[int], width: int) -> list[str]:
    """The lines that add what `add_rows` added, of units of `width` elements a thread."""
    body = [f"{term}_sum = {tree([f'{term}_of{unit}' for unit in units])}" for term in terms]
    return [*body, f"sum_lane = lane_of{width}()"]


def store_piece(terms: Sequence[str]) -> list[str]:
    """The lines that add the sums of all warps and store those of the piece."""
    count = len(terms) * LANES
    body = ["shared = cuda.shared.array(SHARED, float64)"]
    body += [f"warp = thread // {device.WARP}", f"if thread % {device.WARP} < {LANES}:"]
    for k, term in enumerate(terms):
        body.append(f"    shared[{k * WARPS * LANES} + warp * {LANES} + sum_lane] = {term}_sum")
    body.append("cuda.syncthreads()")
    for first in range(0, count, THREADS):
        rows = [f"shared[at + {LANES * warp}]" for warp in range(WARPS)]
        body += [f"number = thread + {first}", f"if number < {count}:"]
        body += [f"    at = number // {LANES} * {WARPS * LANES} + number % {LANES}"]
        body += [f"    store_double(sums_at, (start >> PIECE_BITS) * {count} + number, {tree(rows)})"]
    return body


# The kernels of a simulated device meet in shared memory; there a block is a warp.
_SIMULATED = """
def from_lane(number, distance):
    shared = cuda.shared.array(WARP, float64)
    cuda.syncthreads()
    shared[cuda.threadIdx.x] = number
    cuda.syncthreads()
    return shared[cuda.threadIdx.x ^ distance]
"""


def define_from_lane(scope: Scope) -> None:
    """Add ``from_lane(number, distance)``: that of the thread whose index differs in this bit."""
    scope |= {"cuda": device.cuda, "float64": np.float64, "WARP": device.WARP}
    if device.SIMULATED:
        exec(_SIMULATED, scope)
    else:
        scope["from_lane"] = _shuffled()


@cache
def _shuffled() -> Intrinsic:
    @emits(types.float64(types.float64, types.int64), device.intrinsic)
    def from_lane(builder: Builder, number: Value, distance: Value) -> Value:
        pair = ir.VectorType(I32, 2)
        words, distance = builder.bitcast(number, pair), builder.trunc(distance, I32)
        for half in range(2):
            word = builder.extract_element(words, I32(half))
            words = builder.insert_element(words, shuffle(builder, word, distance), I32(half))
        return builder.bitcast(words, DOUBLE)

    return from_lane


def define_adding(scope: Scope, job: Job, architecture: tuple[int, int]) -> None:
    """Add what the lines above call."""
    define_from_lane(scope)
    piece = piece_of(job)
    scope |= {"PIECE": piece, "PIECE_BITS": piece.bit_length() - 1}
    scope["SHARED"] = len(job.terms) * WARPS * LANES
    scope["store_double"] = element_access.storer("float64", "float64")
    for width in {1, element_access.width_of(job.compute.name)}:
        _define(scope, f"add_rows{width}", _adding_rows(width), architecture)
        _define(scope, f"lane_of{width}", _lane(width), architecture)


def _define(scope: Scope, name: str, source: str, architecture: tuple[int, int]) -> None:
    exec(source, scope)
    scope[name] = device.helper(scope[name], architecture, False)


def _adding_rows(width: int) -> str:
    """The function that adds the rows of a warp, each thread of which has `width` lanes.

    Where a thread has several numbers it passes half of them on and keeps the others: five exchanges of
    four numbers instead of sixteen. `lane_of` tells which lane it is left with.
    """
    values = [f"v{i}" for i in range(width)]
    body = [f"def add_rows{width}({', '.join(values)}):", "    thread = cuda.threadIdx.x"]
    for bit in range(LANES.bit_length() - width.bit_length(), device.WARP.bit_length() - 1):
        half = len(values) // 2
        if not half:
            body.append(f"    v0 = v0 + from_lane(v0, {1 << bit})")
            continue
        low, high = values[:half], values[half:]
        body.append(f"    upper = thread & {1 << bit} != 0")
        for a, b in zip(low, high, strict=True):
            body.append(f"    kept, passed = ({b}, {a}) if upper else ({a}, {b})")
            body.append(f"    {a} = kept + from_lane(passed, {1 << bit})")
        values = low
    return "\n".join([*body, "    return v0\n"])


def _lane(width: int) -> str:
    """The function that gives the lane which a thread is left with."""
    bits = width.bit_length() - 1  # of the lane that are in the numbers of a thread
    outer = LANES.bit_length() - 1 - bits  # bits that are in the index of the thread
    places = [*range(bits, bits + outer), *reversed(range(bits))]  # of the bits of the index
    terms = [f"({1 << place} if thread & {1 << i} else 0)" for i, place in enumerate(places)]
    lines = [
        f"def lane_of{width}():",
        "    thread = cuda.threadIdx.x",
        f"    return {' + '.join(terms)}\n",
    ]
    return "\n".join(lines)
