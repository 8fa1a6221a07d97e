"""The kernels that add up what the kernels of a step have stored (`warp_sums`).

`fold` adds the pieces of each block of `SUM_BLOCK` elements, for arrays that have as many elements a
piece and as many sums; `total` adds the blocks of each array, which a block of threads has, and counts
the step.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import types

from fastopt.executors.cuda.kernel_source import SKIP
from fastopt.executors.cuda.programs import Program
from fastopt.executors.cuda.tree_sum import THREADS, define_adding, scope_of_sums
from fastopt.executors.cuda.warp_sums import define_from_lane, tree
from fastopt.executors.norm import LANES
from fastopt.kernels.kernel_identity import identified_by_functions

# A row of the table of `total`: address of the first block's sum, blocks, distance of the next sum in
# numbers, how many sums there are, and address of the first total.
BLOCKS_AT, BLOCKS, STRIDE, TERMS, TOTAL_AT = range(5)
ROW_WORDS = 5

_RETURN_IF_SKIPPED = f"""
    if control_at != 0:
        if load_word(control_at, {SKIP}) != 0:
            return
"""

_TOTAL = f"""
def total(table_at, arrays, count_at, control_at):
{_RETURN_IF_SKIPPED}
    thread = cuda.threadIdx.x
    if thread == 0 and cuda.blockIdx.x == 0:
        store_word(count_at, 0, load_word(count_at, 0) + 1)
    sums = cuda.shared.array(SUM_THREADS, float64)
    line = table_at + {8 * ROW_WORDS} * cuda.blockIdx.x
    at, count = load_word(line, {BLOCKS_AT}), load_word(line, {BLOCKS})
    stride, terms = load_word(line, {STRIDE}), load_word(line, {TERMS})
    total_at = load_word(line, {TOTAL_AT})
    for k in range(terms):
        add_up(at + 8 * k * stride, stride, count, sums, thread)
        if thread == 0:
            store_double(total_at, k * arrays, sums[0])
        cuda.syncthreads()
"""


def _fold(pieces: int, terms: int) -> str:
    body = [f"def fold(pieces_at, sums_at, blocks, control_at):{_RETURN_IF_SKIPPED}"]
    body += [f"    block, lane = cuda.grid(1) // {LANES}, cuda.grid(1) % {LANES}"]
    body += [f"    at = pieces_at + {8 * LANES * pieces * terms} * min(block, blocks - 1)"]
    for k in range(terms):
        at = [f"{LANES * (piece * terms + k)} + lane" for piece in range(pieces)]
        body.append(f"    sum_ = {tree([f'load_double(at, {i})' for i in at])}")
        body += [f"    sum_ = sum_ + from_lane(sum_, {1 << bit})" for bit in range(3)]
        body.append("    if lane == 0 and block < blocks:")
        body.append(f"        store_double(sums_at, {k} * blocks + block, sum_)")
    return "\n".join(body) + "\n"


def _program(
    name: str, text: str, words: int, architecture: tuple[int, int], threads: int | None
) -> Program:
    def make() -> Any:
        scope = scope_of_sums(1, architecture)
        define_adding(scope, architecture)
        define_from_lane(scope)
        exec(compile(text, f"<fastopt {name}>", "exec"), scope)
        return scope[name]

    identity = identified_by_functions([text], [], f"{name}-")
    return Program(identity, make, [types.int64] * words, architecture, threads=threads)


@cache
def fold(pieces: int, terms: int, architecture: tuple[int, int]) -> Program:
    """``fold(pieces_at, sums_at, blocks, control_at)``: `LANES` threads for each block."""
    return _program("fold", _fold(pieces, terms), 4, architecture, THREADS)


@cache
def total(architecture: tuple[int, int]) -> Program:
    """``total(table_at, arrays, count_at, control_at)``: `SUM_THREADS` threads for each array."""
    return _program("total", _TOTAL, 4, architecture, None)
