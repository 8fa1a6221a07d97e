"""The norm of all gradients, and what follows from it, on the device.

The sum has the bits of the CPU's (`executors.norm`): each warp adds the squares of a block of 8192
elements, thread by thread as the CPU lane by lane, and the blocks are added one after the other. That
last part is done by one thread: 10^8 elements have 12,208 blocks, well under a tenth of the time of
reading them. Norm, factor and the decision to skip stay on the device, where the step finds them.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastopt.executors.cuda import device, element_access, kernel_source
from fastopt.executors.norm import BLOCK, LANES

# Threads of a block: several warps, each with a block of elements of its own.
THREADS = 32 if device.SIMULATED else 256
WARPS = THREADS // LANES

# What is gathered of each block: the sum of squares, the sum of squares of the elements made smaller,
# for float64 whose squares overflow, and whether all is finite.
COLUMNS = 3
SMALLER = 2.0**-550

SHARED = COLUMNS * THREADS

# A piece of many arrays: the address of its row, where it starts, its length, and where its sums go.
PIECE_WORDS = 4

_ONE = """
def squares(sums_at, capacity, gradient_at, length, first):
    warp = cuda.threadIdx.x // LANES
    block = cuda.blockIdx.x * WARPS + warp
    start = block * BLOCK
    count = min(max(length - start, 0), BLOCK)
    position = first + block
"""
_MANY = """
def squares(sums_at, capacity, pieces_at, pieces):
    warp = cuda.threadIdx.x // LANES
    block = cuda.blockIdx.x * WARPS + warp
    count = start = gradient_at = position = 0
    if block < pieces:
        piece = pieces_at + 8 * PIECE_WORDS * block
        gradient_at = load_word(load_word(piece, 0), 1)
        start, count = load_word(piece, 1), load_word(piece, 2)
        position = load_word(piece, 3)
"""
_SQUARES = """
    thread = cuda.threadIdx.x
    lane = thread % LANES
    total, smaller, infinite = 0.0, 0.0, 0.0
    full = count // LANES * LANES
    for i in range(lane, full, LANES):
        total, smaller, infinite = add_square(total, smaller, infinite, gradient_at, start + i)
    lanes = cuda.shared.array(SHARED, float64)
    lanes[thread], lanes[THREADS + thread], lanes[2 * THREADS + thread] = total, smaller, infinite
    cuda.syncthreads()
    if lane == 0 and count > 0:
        total, smaller, infinite = 0.0, 0.0, 0.0
        for k in range(LANES):
            total += lanes[thread + k]
            smaller += lanes[THREADS + thread + k]
            infinite += lanes[2 * THREADS + thread + k]
        for i in range(full, count):
            total, smaller, infinite = add_square(total, smaller, infinite, gradient_at, start + i)
        store_double(sums_at, position, total)
        store_double(sums_at, capacity + position, smaller)
        store_double(sums_at, 2 * capacity + position, infinite)
"""
_ADD = """
def add_square(total, smaller, infinite, gradient_at, i):
    x = load(gradient_at, i)
    if not abs(x) <= LARGEST:
        x = 0.0
        infinite = 1.0
    small = SMALLER * x
    return total + x * x, smaller + small * small, infinite
"""
_ADD_NARROW = """
def add_square(total, smaller, infinite, gradient_at, i):
    x = load(gradient_at, i)
    if not abs(x) <= LARGEST:
        x = 0.0
        infinite = 1.0
    return total + x * x, smaller, infinite
"""
_DECIDE = """
def decide(sums_at, capacity, count, skips, control_at, kept_at, place, expected, factor, limit):
    if cuda.threadIdx.x == 0:
        store_double(kept_at, place, limit)
        behind = load_word(control_at, SKIPPED) - expected
        if behind != 0:
            limit = load_double(kept_at, (place - behind) & (KEPT - 1))
"""
_DECIDE_CAPTURABLE = """
def decide(sums_at, capacity, count, skips, control_at, numbers_at):
    factor, limit = load_double(numbers_at, 0), load_double(numbers_at, 1)
"""
_ADD_AND_DECIDE = """
    thread = cuda.threadIdx.x
    sums = cuda.shared.array(SHARED, float64)
    total = 0.0
    for base in range(0, count, THREADS):
        if base + thread < count:
            for column in range(COLUMNS):
                found = load_double(sums_at, column * capacity + base + thread)
                sums[column * THREADS + thread] = found
        cuda.syncthreads()
        if thread < COLUMNS:
            for k in range(min(THREADS, count - base)):
                total += sums[thread * THREADS + k]
        cuda.syncthreads()
    if thread < COLUMNS:
        sums[thread] = total
    cuda.syncthreads()
    if thread == 0:
        size = math.sqrt(sums[0])
        if not sums[0] <= LARGEST:
            size = math.sqrt(sums[1]) / SMALLER
        size = size * factor
        if size > limit:
            factor = factor * limit / size
        finite = sums[2] == 0.0
        skipped = skips != 0 and not finite
        if not finite:
            size = NAN
        store_double(control_at, NORM, size)
        store_double(control_at, FACTOR, factor)
        store_float(control_at, 2 * FACTOR32, factor)
        store_word(control_at, FINITE, 1 if finite else 0)
        store_word(control_at, SKIP, 1 if skipped else 0)
        if skipped:
            store_word(control_at, SKIPPED, load_word(control_at, SKIPPED) + 1)
"""


def _scope(architecture: tuple[int, int]) -> dict[str, Any]:
    constants = {**vars(kernel_source), **globals()}
    scope = {name: value for name, value in constants.items() if name.isupper() and name[0] != "_"}
    scope |= {"__name__": __name__, "cuda": device.cuda, "math": math, "float64": types.float64}
    scope |= {"LARGEST": float(np.finfo(np.float64).max), "NAN": math.nan, "BLOCK": BLOCK}
    scope |= {"load_word": element_access.word_loader(), "store_word": element_access.word_storer()}
    scope["load_double"] = element_access.loader("float64", "float64")
    scope["store_double"] = element_access.storer("float64", "float64")
    scope["store_float"] = element_access.storer("float64", "float32")
    return scope


@cache
def squares(dtype: str, many: bool, architecture: tuple[int, int]) -> device.Program:
    """The kernel that sums the squares of each block, of one array or of pieces of many."""
    scope = _scope(architecture)
    scope["load"] = element_access.loader("float64", dtype)
    exec(_ADD if dtype == "float64" else _ADD_NARROW, scope)
    scope["add_square"] = device.helper(scope["add_square"], architecture, False)
    exec((_MANY if many else _ONE) + _SQUARES, scope)
    return device.Program(scope["squares"], [types.int64] * (4 if many else 5), architecture)


@cache
def decide(capturable: bool, architecture: tuple[int, int]) -> device.Program:
    """The kernel that adds all blocks and decides: norm, factor, and whether to step."""
    scope = _scope(architecture)
    exec((_DECIDE_CAPTURABLE if capturable else _DECIDE) + _ADD_AND_DECIDE, scope)
    numbers = [types.int64] if capturable else [types.int64] * 3 + [types.float64] * 2
    return device.Program(scope["decide"], [types.int64] * 5 + numbers, architecture)
