"""The compilation of kernels for the CPU: from source to an object file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numba
import numpy as np
from numba.core import types

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import PLAIN
from fastopt.executors.cpu import tree_sum
from fastopt.executors.cpu.block_access import LANES, block_access, codes_of, nowhere, scratch
from fastopt.executors.cpu.element_access import element_access, phase_bits, random_of, split_access
from fastopt.executors.cpu.kernels import PREFETCH_STEP, WORTH_FETCHING, ahead
from fastopt.executors.cpu.pair_access import pair_access
from fastopt.executors.cpu.pairs import in_pairs
from fastopt.executors.cpu.pointers import prefetch, smaller
from fastopt.executors.cpu.sum_kernels import ahead as sums_ahead
from fastopt.executors.norm import SUM_BLOCK
from fastopt.kernels.compiler import (
    FAST,
    OPTIONS,
    c_library,
    check_terms,
    check_types,
    helper,
    result_type,
)
from fastopt.kernels.conversions import require_conversion
from fastopt.kernels.estimates import replacements
from fastopt.kernels.intrinsics import Intrinsic, Scope, Type
from fastopt.kernels.job import CORRECTION, Job
from fastopt.kernels.kernel_identity import Identity
from fastopt.kernels.lean_compilation import ObjectLibrary
from fastopt.kernels.specialize import specialize
from fastopt.kernels.terms import terms_before
from fastopt.transforms.base import Part


def step_library(job: Job, text: str, identity: Identity) -> ObjectLibrary:
    """Compile the kernel that steps."""
    parts, number, terms = job.parts, numba.from_dtype(job.compute), job.terms
    updates = specialized_updates(job, parts)
    observers = in_float64(job, [term.function for term in terms])
    check_types(parts, updates, number, result_type)
    check_terms(terms, parts, observers, result_type)
    scope: Scope = {"BLOCK": BLOCK, "PREFETCH_STEP": PREFETCH_STEP, "AHEAD": ahead(job), "LANES": LANES}
    scope["WORTH_FETCHING"] = WORTH_FETCHING
    scope |= {"phase_bits": phase_bits, "random_of": random_of, "nothing": np.int32(0)}
    scope |= {"plain": np.int32(PLAIN)}
    scope |= {"scratch": scratch, "nowhere": nowhere, "codes_of": codes_of}
    scope |= {f"transform{i}": update for i, update in enumerate(updates)}
    scope |= access(job, len(terms))
    if in_pairs(job):
        scope |= pair_access(job)
    if terms:
        scope |= {f"observe{k}": function for k, function in enumerate(observers)} | ADDING
        scope |= {"group_sums": tree_sum.group_sums, "store_group": tree_sum.store_group}
        scope |= {"block_sums": tree_sum.block_sums, "store_block": tree_sum.store_block}
        scope["store_sum"] = tree_sum.store_sum
    arguments = types.CPointer(types.intp), types.CPointer(number), types.int64, types.int64
    return _library(job, text, identity, scope, arguments)


def sum_library(job: Job, text: str, identity: Identity) -> ObjectLibrary:
    """Compile the kernel that writes the sums of the last transform."""
    parts, number = job.parts, numba.from_dtype(job.compute)
    earlier, terms = parts[:-1], terms_before(parts[-1], len(parts) - 1)
    updates = specialized_updates(job, earlier)
    summands = in_float64(job, [term.function for term in terms])
    check_types(earlier, updates, number, result_type)
    check_terms(terms, parts, summands, result_type)
    scope: Scope = {"BLOCK": BLOCK, "codes_of": codes_of, **ADDING}
    scope |= {"waiting_sums": tree_sum.waiting_sums, "add_terms": tree_sum.add_terms}
    scope |= {"store_total": tree_sum.store_total, "AHEAD": sums_ahead(job)}
    scope |= {f"transform{i}": function for i, function in enumerate(updates)}
    scope |= {f"summand{k}": function for k, function in enumerate(summands)}
    scope |= access(job, len(summands))
    arguments = types.CPointer(types.intp), types.CPointer(number), types.int64, types.int64, types.intp
    return _library(job, text, identity, scope, (*arguments, types.int64))


def _library(
    job: Job, text: str, identity: Identity, scope: Scope, arguments: tuple[Type, ...]
) -> ObjectLibrary:
    scope |= {"__name__": __name__, "zero": job.compute.type(0), "min": smaller}
    exec(compile(text, f"<fastopt kernel {identity.key}>", "exec"), scope)
    return c_library(scope["kernel"], arguments, _options(job))


def specialized_updates(job: Job, parts: Sequence[Part]) -> list[Intrinsic]:
    """The update functions of these parts of a job, for its dtype, to be called from a kernel."""
    options = _options(job)
    compile_helper, replaced = partial(helper, options=options), replacements(job, options)
    return [
        compile_helper(specialize(part.update, job.compute.type, compile_helper, replaced))
        for part in parts
    ]


def in_float64(job: Job, functions: Sequence[object]) -> list[Intrinsic]:
    """Functions that give terms of sums, to be called from a kernel."""
    compile_helper = partial(helper, options=_options(job))
    return [compile_helper(specialize(function, np.float64, compile_helper)) for function in functions]


# The names with which every kernel adds up terms.
ADDING: Scope = {
    "group_terms": tree_sum.group_terms,
    "clear_terms": tree_sum.clear_terms,
    "GROUP": tree_sum.GROUP,
    "SUM_BLOCK": SUM_BLOCK,
    "float64": np.float64,
}


def _options(job: Job) -> dict[str, object]:
    return FAST if job.fast else OPTIONS


def access(job: Job, sums: int = 0) -> Scope:
    """The functions that load and store the arrays of a job, by their names in the source.

    Those that store terms of `sums` count as arrays too.
    """
    arrays = job.arrays
    blocked = [array.number for array in arrays if array.storage.in_blocks]
    # For aliasing, scratches, previous blocks and the table of random bits count as arrays.
    slots = len(arrays) + sums + 2 * len(blocked) + 1
    first = len(arrays) + sums
    storers = ((f"store_term{k}", tree_sum.term_storer(len(arrays) + k, slots)) for k in range(sums))
    access: Scope = dict(storers)
    for array in arrays:
        name, kind, storage, slot, _ = array
        written = kind != "input"
        access[f"fetch_{name}"] = prefetch(storage.bytes_in_block, BLOCK, PREFETCH_STEP, written)
        if kind == CORRECTION:
            continue
        how = job.compute.name, storage.codec, storage.dithered, slot
        if name == "param" and job.correction is not None:
            split = split_access(storage.codec, job.correction.width, (slot, arrays[2].number), slots)
            access |= dict(zip(("load_param", "store_param"), split, strict=True))
            continue
        require_conversion(storage.codec)
        if storage.in_blocks:
            functions = block_access(*how, first + 2 * blocked.index(slot), slots)
        else:
            functions = dict(zip(("load", "store"), element_access(*how, slots), strict=True))
        access |= {f"{verb}_{name}": function for verb, function in functions.items()}
    return access
