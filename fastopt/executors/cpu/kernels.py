"""A chain becomes one kernel: generated source, compiled to machine code, found again on disk.

A kernel works on one stretch of one array and its states. It knows nothing of threads or of how many
arrays there are (see `drivers`), so serial and parallel runs execute the same machine code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import ccallback, errors, types

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM
from fastopt.codecs.floats import compute_dtype
from fastopt.executors.cpu.block_access import block_access, codes_of, nowhere, scratch
from fastopt.executors.cpu.columns import GRAD_FACTOR, NUMBERS, PHASE
from fastopt.executors.cpu.element_access import (
    ITEMSIZE,
    element_access,
    phase_bits,
    random_of,
    require_conversion,
)
from fastopt.executors.cpu.pointers import prefetch
from fastopt.kernels.chain_source import chain_body, hypers_of
from fastopt.kernels.compiler import FAST, OPTIONS, helper
from fastopt.kernels.disk_cache import DiskCache
from fastopt.kernels.identity import content, digest, of_compiled, origin, package
from fastopt.kernels.specialize import specialize
from fastopt.transforms.base import Part

# Elements that are worked on between two requests for those that come AHEAD of them. The processor
# fetches ahead by itself, but stops at every page of 4 KiB. Measured on two cores of a Xeon, in rounds
# with C's loop: 10^7 elements take 0.86 of C's time, and 1.01 if they are not fetched ahead; 10^8 0.97
# and 1.07; 10^7 of float64 0.98 and 1.06. Asking for a whole block at once was slower than not to ask:
# 1.22 in float64. A piece of 32 is as good, but so few rounds of a short loop are unrolled before LLVM
# looks for vectors (SGD); of 64 they are not. Short stretches are left alone: a thousand arrays take
# 0.58 ms with it and 0.53 without.
PIECE = 64
AHEAD = 8 * PIECE
WORTH_FETCHING = 65_536


class _CheckedCFunc(ccallback.CFunc):  # type: ignore[misc]  # Any
    """A compiled function with a C interface that is checked before it is compiled anew."""

    check: Callable[[], None]

    def _compile_uncached(self) -> Any:
        self.check()
        return super()._compile_uncached()


@dataclass(frozen=True)
class Kernel:
    """Machine code for one chain and dtype."""

    address: int
    source: str
    code: ccallback.CFunc  # owns the memory behind `address`

    @property
    def assembly(self) -> str:
        """The machine code as text; empty when it came from the cache, which keeps none."""
        return str(self.code._library.get_asm_str())


class ArrayFormat(NamedTuple):
    """How one array of a kernel is stored."""

    codec: str
    dithered: bool = False  # rounded up or down at random

    @property
    def in_blocks(self) -> bool:
        """Whether it is encoded a block at a time."""
        return self.codec not in ITEMSIZE

    @property
    def bytes_in_block(self) -> int:
        return ITEM.itemsize if self.in_blocks else BLOCK * ITEMSIZE[self.codec]


class Job(NamedTuple):
    """What a kernel is compiled for."""

    parts: tuple[Part, ...]
    storage: tuple[ArrayFormat, ...]  # of parameter, gradient and the chain's slots
    zero_grad: bool  # clear the gradient on the way
    scales: bool  # multiply the gradient by a factor first
    fast: bool = False  # with approximate roots and quotients

    @property
    def compute(self) -> np.dtype[Any]:
        """The dtype of the arithmetic."""
        return compute_dtype(self.storage[0].codec)

    @property
    def arrays(self) -> list[KernelArray]:
        """The arrays by the names that they have in the source."""
        own = [slot.kind for part in self.parts for slot in part.slots]
        kinds = ["state", "state" if self.zero_grad else "input", *own]
        names = ["param", "update", *(f"{kind}{i}" for i, kind in enumerate(own))]
        return [KernelArray(*each) for each in zip(names, kinds, self.storage, strict=True)]


class KernelArray(NamedTuple):
    name: str
    kind: str
    storage: ArrayFormat

    def load(self, plain: bool) -> str:
        """`plain`: from a block without infinities and NaN."""
        if self.storage.in_blocks:
            load = f"load_plain_{self.name}" if plain else f"load_{self.name}"
            return f"{self.name} = {load}({self.name}_codes, i - block, {self.name}_scale)"
        return f"{self.name} = load_{self.name}({self.name}_at, i)"

    def store(self, value: str) -> str:
        if self.storage.in_blocks:
            return f"store_{self.name}({self.name}_new, i - block, {value})"
        random = "i - block, random" if self.storage.dithered else "0, 0"
        return f"store_{self.name}({self.name}_at, i, {value}, {random})"


def source(job: Job) -> str:
    """The loop over one stretch of one array, as Python source."""
    arrays = job.arrays
    blocked = [array for array in arrays if array.storage.in_blocks]
    head = [f"{array.name}_at = addresses[{i}]" for i, array in enumerate(arrays, 1)]
    dithers = any(array.storage.dithered for array in arrays)
    if dithers:
        head.append(f"first, phase = addresses[0], phase_bits(hyper[{PHASE}])")
    if job.scales:
        head.append(f"grad_factor = hyper[{GRAD_FACTOR}]")
    head += [f"{name} = hyper[{i}]" for i, name in enumerate(hypers_of(job), NUMBERS)]
    if blocked:
        head.append("random_before = nothing")
    for name in (array.name for array in blocked):
        head.append(f"{name}_new, {name}_before = scratch(), nowhere()")
        head.append(f"{name}_low, {name}_high = nothing, nothing")

    names = [array.name for array in blocked]
    before = "{0}_before, {0}_new, {0}_low, {0}_high, random_before"
    loads, plain_loads = (
        [array.load(plain) for array in arrays if array.kind != "output"] for plain in (False, True)
    )
    body = chain_body(job, job.scales)
    body.append(arrays[0].store("new"))
    if job.zero_grad:
        body.append(arrays[1].store("zero"))
    body += [array.store(array.name) for array in arrays[2:] if array.kind != "input"]

    lines = ["def kernel(addresses, hyper, start, stop):"]
    lines += [f"    {line}" for line in head]
    lines += ["    fetches = stop - start >= WORTH_FETCHING"]
    lines += ["    for block in range(start, stop, BLOCK):"]
    lines += ["        end = min(block + BLOCK, stop)"]
    if dithers:
        lines += ["        random = random_of(first + block, phase)"]
    for name in names:
        lines += [f"        {name}_codes = codes_of({name}_at, block)"]
        lines += [f"        {name}_scale = scale_{name}({name}_at, block)"]
    plain = [f"is_plain_{name}({name}_codes)" for name in names]
    lines += [f"        whole = {' and '.join(['end - block == BLOCK', *plain])}"]
    if blocked:
        lines += ["        if not whole:  # nothing here takes turns with encoding the block before"]
    for name in names:
        lines += [f"            encode_all_{name}({before.format(name)})"]
        lines += [f"            {name}_before = nowhere()"]
    lines += ["        if whole:"]
    lines += ["            for piece in range(block, block + BLOCK, PIECE):"]
    lines += ["                if fetches:"]
    lines += ["                    ahead = min(piece + AHEAD, stop - PIECE)"]
    lines += [f"                    fetch_{array.name}({array.name}_at, ahead)" for array in arrays]
    for name in names:  # of the block before, what this block will take the place of
        lines += ["                for place in range(piece - block, piece - block + PIECE):"]
        lines += [f"                    encode_{name}(place, {before.format(name)})"]
    lines += ["                for i in range(piece, piece + PIECE):"]
    lines += [f"                    {line}" for line in plain_loads + body]
    lines += ["        else:"]
    lines += ["            for i in range(block, end):"]
    lines += [f"                {line}" for line in loads + body]
    if blocked and dithers:
        lines += ["        random_before = random"]
    for name in names:
        numbers = f"{name}_at, block, end, {name}_new"
        lines += [f"        {name}_low, {name}_high, finite = rescale_{name}({numbers})"]
        lines += [f"        {name}_before = {name}_codes"]
        lines += ["        if not finite:"]
        lines += [f"            encode_all_{name}({before.format(name)})"]
        lines += [f"            {name}_before = nowhere()"]
    lines += [f"    encode_all_{name}({before.format(name)})" for name in names]
    return "\n".join(lines) + "\n"


@cache
def kernel(job: Job) -> Kernel:
    """The compiled kernel for a job: from memory, from disk, or made now.

    Tables and launches hold its address, and Numba gives no machine code back: it is kept for good.

    Raises
    ------
    TypeError
        A transform cannot be compiled, or turns float32 into float64. The message names it.
    RuntimeError
        The processor lacks the instructions for one of the formats.
    """
    text, parts, compute = source(job), job.parts, job.compute
    updates = [content(part.update) for part in parts]
    options = FAST if job.fast else OPTIONS
    how = text, str(job.arrays), compute.name, str(job.fast)
    own = digest(*how, *(update.digest for update in updates))
    lasts = package() is not None and all(update.lasts for update in updates)
    number = numba.from_dtype(compute)
    compile_helper = partial(helper, options=options)
    functions = [
        compile_helper(specialize(part.update, compute.type, compile_helper)) for part in parts
    ]
    # Numba imports the module of a cached function: let it be one that is there in every process.
    scope: dict[str, Any] = {"__name__": __name__, "zero": compute.type(0)}
    scope |= {"BLOCK": BLOCK, "PIECE": PIECE, "AHEAD": AHEAD, "WORTH_FETCHING": WORTH_FETCHING}
    scope |= {"phase_bits": phase_bits, "random_of": random_of, "nothing": np.int32(0)}
    scope |= {"scratch": scratch, "nowhere": nowhere, "codes_of": codes_of}
    scope |= {f"transform{i}": function for i, function in enumerate(functions)}
    scope |= _access(job)
    exec(compile(text, f"<fastopt kernel {own}>", "exec"), scope)
    pointers = types.CPointer(types.intp), types.CPointer(number)
    signature = (*pointers, types.int64, types.int64), types.void
    code = _CheckedCFunc(scope["kernel"], signature, {}, options)
    name = f"{origin((part.update for part in parts), text, str(job.fast))}-{compute.name}"
    code._cache = DiskCache(name, f"{package()} {own}" if lasts else None)
    code.check = lambda: check_types(parts, functions, number, _result_type)
    code.compile()
    return Kernel(code.address, text, code)


def _access(job: Job) -> dict[str, Any]:
    """The functions that load and store the arrays of a job, by the names that its source uses."""
    arrays = job.arrays
    blocked = [slot for slot, array in enumerate(arrays) if array.storage.in_blocks]
    # A scratch is an array of its own, and so are a block before and the table of random bits.
    apart = len(arrays) + 2 * len(blocked) + 1
    found: dict[str, Any] = {}
    for slot, (name, kind, storage) in enumerate(arrays):
        require_conversion(storage.codec)
        written = kind != "input"
        found[f"fetch_{name}"] = prefetch(storage.bytes_in_block, BLOCK, PIECE, written)
        how = job.compute.name, storage.codec, storage.dithered, slot
        if storage.in_blocks:
            functions = block_access(*how, len(arrays) + 2 * blocked.index(slot), apart)
        else:
            functions = dict(zip(("load", "store"), element_access(*how, apart), strict=True))
        found |= {f"{verb}_{name}": function for verb, function in functions.items()}
    return found


def _result_type(function: Any, arguments: tuple[Any, ...]) -> Any:
    function.compile(arguments)
    return function.overloads[arguments].signature.return_type


def check_types(
    parts: tuple[Part, ...], functions: list[Any], number: Any, result_type: Callable[..., Any]
) -> None:
    """Compile each transform by itself and see that numbers of the dtype come out."""
    for part, function in zip(parts, functions, strict=True):
        given = types.Tuple((number,) * part.read)
        arguments = number, number, given, types.Tuple((number,) * part.hypers)
        what = f"transform {part.name!r}"
        try:
            returned = result_type(function, arguments)
        except errors.NumbaError as error:
            raise TypeError(
                f"{what} cannot be compiled: it may use arithmetic on numbers, comparisons, math and "
                f"helper functions of the same kind, but no arrays and no Python objects.\n{error}"
            ) from error
        if returned == types.Tuple((number, types.Tuple((number,) * part.written))):
            continue
        if types.float64 in _leaves(returned):
            raise TypeError(
                f"{what} turns {number} into float64: write integer constants in arithmetic as floats "
                "(1.0 - beta, not 1 - beta), name constants of modules in your own (PI = math.pi), "
                "and pass what is the same for the whole step in hyper"
            )
        raise TypeError(
            f"{what} must return {number} numbers as (update, state), but returns {returned}"
        )


def _leaves(numba_type: Any) -> list[Any]:
    if isinstance(numba_type, types.BaseTuple):
        return [leaf for item in numba_type for leaf in _leaves(item)]
    return [numba_type]


def compile_function(
    python: Callable[..., Any],
    signature: Any,
    name: str,
    *,
    parallel: bool = False,
    nogil: bool = True,
) -> Callable[..., Any]:
    """Compile one of fastopt's own functions for one signature, through the same cache."""
    dispatcher = numba.njit(nogil=nogil, parallel=parallel, **OPTIONS)(python)
    if numba.config.DISABLE_JIT:
        return python
    dispatcher._cache = DiskCache(name, of_compiled(python))
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    compiled: Callable[..., Any] = dispatcher
    return compiled
