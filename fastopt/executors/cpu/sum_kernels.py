"""The kernel that sums what a transform declares, for the CPU: generated source, and its machine code.

It reads a stretch of one array and its states, computes the chain as far as that transform, without
storing anything, and writes one number for each sum and each block of `SUM_BLOCK` elements.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fastopt.codecs.base import BLOCK
from fastopt.executors.cpu.kernels import Kernel, load, loads_hyper, obtained
from fastopt.kernels.chain_source import arrays_read, sums_body
from fastopt.kernels.job import CORRECTION, ArrayFormat, Job
from fastopt.kernels.kernel_identity import identified
from fastopt.kernels.terms import terms_before
from fastopt.transforms.gradient_clip import SQUARES

if TYPE_CHECKING:
    from fastopt.kernels.lean_compilation import ObjectLibrary

# What is fetched ahead: of one array so many bytes, less than a page, at whose end the hardware's own
# stream stops; of several so many elements. On one core of a busy EPYC 6 * 10^6 elements took, for
# distances of 64, 192 and 1024, LAMB's pass over four arrays 3.2, 3.5 and 6.1 ms, LARS's over two 1.6,
# 2.1 and 1.9; on two of a Xeon 64, 256 and 512 took the same time for both. Of one array one core of a
# Xeon read 3 * 10^7 float32 at 13.2 GB/s with 2048 bytes and at 10.1 with none.
FAR_BYTES, NEAR = 2048, 64


def source(job: Job) -> str:
    """The loop over one stretch of one array, as Python source."""
    arrays, (body, terms) = job.arrays, sums_body(job, job.scales)
    read, count = arrays_read(job), len(terms)
    blocked = [array.name for array in read if array.storage.in_blocks]
    lines = ["def kernel(addresses, hyper, start, stop, sums, stride):"]
    lines += [f"    {array.name}_at = addresses[{i}]" for i, array in enumerate(arrays, 1)]
    lines += ["    param = zero", *(f"    {line}" for line in loads_hyper(job))]
    lines += [f"    waiting{k}, terms{k} = waiting_sums(), group_terms()" for k in range(count)]
    lines += [f"    rest{k} = group_terms()" for k in range(count)]
    lines += ["    for first in range(start, stop, SUM_BLOCK):"]
    lines += ["        end = min(first + SUM_BLOCK, stop)"]
    lines += ["        groups = (end - first + GROUP - 1) // GROUP"]
    lines += ["        for group in range(groups):"]
    lines += ["            begin = first + group * GROUP"]
    lines += ["            block = begin // BLOCK * BLOCK"] if blocked else []
    for name in blocked:
        lines += [f"            {name}_codes = codes_of({name}_at, block)"]
        lines += [f"            {name}_scale = scale_{name}({name}_at, block)"]
    element = [load(array, False) for array in read if array.kind != CORRECTION] + body
    lines += ["            if begin + GROUP <= end:"]
    lines += ["                ahead = min(begin + AHEAD, stop - GROUP)"]
    lines += [f"                fetch_{array.name}({array.name}_at, ahead)" for array in read]
    lines += ["                for i in range(begin, begin + GROUP):"]
    lines += _added("terms", element, terms)
    lines += ["            else:"]
    lines += [f"                clear_terms(rest{k})" for k in range(count)]
    lines += ["                for i in range(begin, end):"]
    lines += _added("rest", element, terms)
    lines += ["        position = (first - start) // SUM_BLOCK"]
    for k in range(count):
        lines += [f"        store_total(waiting{k}, groups, sums, {k} * stride + position)"]
    return "\n".join(lines) + "\n"


def _added(room: str, element: list[str], terms: list[str]) -> list[str]:
    """The lines that compute the terms of a group and add them.

    Those of whole groups have room of their own: what only a loop of known length writes to stays in
    registers. With the same room for both, 30,000 float32 in the cache took 1.8 times as long.
    """
    lines = [f"                    {line}" for line in element]
    for k, term in enumerate(terms):
        lines += [f"                    store_term{k}({room}{k}, i - begin, {term})"]
    return lines + [
        f"                add_terms(waiting{k}, {room}{k}, group)" for k in range(len(terms))
    ]


def ahead(job: Job) -> int:
    """The number of elements that a kernel prefetches ahead."""
    read = arrays_read(job)
    return FAR_BYTES * BLOCK // read[0].storage.bytes_in_block if len(read) == 1 else NEAR


@cache
def sum_kernel(job: Job) -> Kernel:
    """The compiled kernel for the sums of the last transform of a job, kept like `kernels.kernel`.

    Raises
    ------
    TypeError
        A function cannot be compiled. The message names it.
    RuntimeError
        The processor lacks the instructions for one of the formats.
    """
    text, (*earlier, last) = source(job), job.parts
    summands = [term.function for term in terms_before(last, len(earlier))]
    functions = [*(part.update for part in earlier), *summands]
    identity = identified(job, [text], functions, "sums-")

    def compiled() -> ObjectLibrary:
        from fastopt.executors.cpu.kernel_code import sum_library

        return sum_library(job, text, identity)

    return obtained(text, identity, compiled)


@cache
def squares_kernel(format_: str) -> Kernel:
    """The kernel for the sum of the squares of gradients in a format, of any chain.

    Raises
    ------
    RuntimeError
        The processor lacks the instructions for the format.
    """
    return sum_kernel(Job((SQUARES,), (ArrayFormat(format_),) * 2, False, False))
