"""A chain becomes one kernel: generated source, compiled to machine code, found again on disk.

A kernel works on one stretch of one array and its states. It knows nothing of threads or of how many
arrays there are (see `drivers`), so serial and parallel runs execute the same machine code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import ccallback, errors, types

from fastopt.executors.cache import DiskCache
from fastopt.executors.fingerprint import describe, digest, package
from fastopt.executors.memory import prefetch, slot_access
from fastopt.executors.options import OPTIONS, helper
from fastopt.executors.specialize import specialize
from fastopt.transforms.base import Part, Slot

# Elements that are worked on while those so far ahead are fetched. The processor fetches ahead by
# itself, but stops at every page of 4 KiB. Measured against C without it, in interleaved rounds on two
# cores of a Xeon: 10^8 elements take 0.97 of its time, and 1.05 if they are not fetched ahead; in the
# cache of a core it would cost 15 %. Blocks of 512 or 1024 were slower than not to fetch at all.
BLOCK, AHEAD = 256, 512
WORTH_FETCHING = 131_072


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


def source(parts: tuple[Part, ...], zero_grad: bool, scales: bool) -> str:
    """The loop over one stretch of one array, as Python source."""
    slots = [slot for part in parts for slot in part.slots]
    names = {"param": "state", "update": "state" if zero_grad else "input"}
    names |= {f"{slot.kind}{i}": slot.kind for i, slot in enumerate(slots)}
    hypers = [f"hyper{i}" for i in range(sum(part.hypers for part in parts))]
    head = [f"{name}_at = addresses[{i}]" for i, name in enumerate(names)]
    if scales:
        head.append("grad_factor = hyper[0]")
    head += [f"{name} = hyper[{i}]" for i, name in enumerate(hypers, 1)]
    loaded = [name for name, kind in names.items() if kind != "output"]
    body = [f"{name} = load_{name}({name}_at, i)" for name in loaded]
    if scales:
        body.append("update = grad_factor * update")
    remaining_slots, remaining_hypers = iter(list(names)[2:]), iter(hypers)
    value = "update"
    for index, part in enumerate(parts):
        if part.after and value == "update":
            body.append("new = param - update")
            value = "new"
        own = list(islice(remaining_slots, len(part.slots)))
        given = _tuple(name for name in own if names[name] != "output")
        returned = _tuple(name for name in own if names[name] != "input")
        numbers = _tuple(islice(remaining_hypers, part.hypers))
        targets = f"{value}, {returned if part.written else '_'}"
        body.append(f"{targets} = transform{index}({value}, param, {given}, {numbers})  # {part.name}")
    if value == "update":
        body.append("new = param - update")
    body.append("store_param(param_at, i, new)")
    if zero_grad:
        body.append("store_update(update_at, i, zero)")
    stored = [name for name in list(names)[2:] if names[name] != "input"]
    body += [f"store_{name}({name}_at, i, {name})" for name in stored]
    lines = ["def kernel(addresses, hyper, start, stop):"]
    lines += [f"    {line}" for line in head]
    lines += ["    fetches = stop - start >= WORTH_FETCHING"]
    lines += ["    for block in range(start, stop, BLOCK):"]
    lines += ["        if fetches:"]
    lines += [f"            fetch_{name}({name}_at, block + AHEAD)" for name in names]
    lines += ["        for i in range(block, min(block + BLOCK, stop)):"]
    lines += [f"            {line}" for line in body]
    return "\n".join(lines) + "\n"


def _tuple(names: Iterable[str]) -> str:
    return "(" + "".join(f"{name}, " for name in names).rstrip() + ")"


@cache
def kernel(parts: tuple[Part, ...], dtype: np.dtype[Any], zero_grad: bool, scales: bool) -> Kernel:
    """The compiled kernel of a chain: from memory, from disk, or made now.

    Parameters
    ----------
    parts : tuple of Part
        From `Chain.parts`.
    dtype : numpy.dtype
        float32 or float64: of parameters, gradients and states alike.
    zero_grad : bool
        Clear the gradient on the way.
    scales : bool
        Multiply the gradient by a factor first.

    Raises
    ------
    TypeError
        A transform cannot be compiled, or turns float32 into float64. The message names it.
    """
    text = source(parts, zero_grad, scales)
    slots = [
        Slot("param", "param"),
        Slot("update", "update"),
        *(s for part in parts for s in part.slots),
    ]
    content = digest(
        package(), text, str(slots), dtype.name, *(describe(part.update) for part in parts)
    )
    number = numba.from_dtype(dtype)
    functions = [helper(specialize(part.update, dtype.type, helper)) for part in parts]
    # Numba imports the module of a cached function: let it be one that is there in every process.
    scope: dict[str, Any] = {"__name__": __name__, "zero": dtype.type(0)}
    scope |= {
        "BLOCK": BLOCK,
        "AHEAD": AHEAD,
        "WORTH_FETCHING": WORTH_FETCHING,
    }
    scope |= {f"transform{i}": function for i, function in enumerate(functions)}
    for i, slot in enumerate(slots):
        name = slot.name if i < 2 else f"{slot.kind}{i - 2}"
        scope[f"fetch_{name}"] = prefetch(slot.dtype or dtype.name, BLOCK, slot.kind != "input")
        scope[f"load_{name}"], scope[f"store_{name}"] = slot_access(
            dtype.name, slot.dtype or dtype.name, i, len(slots)
        )
    exec(compile(text, f"<fastopt kernel {content}>", "exec"), scope)
    pointers = types.CPointer(types.intp), types.CPointer(number)
    signature = (*pointers, types.int64, types.int64), types.void
    code = _CheckedCFunc(scope["kernel"], signature, {}, OPTIONS)
    code._cache = DiskCache(f"{_origin(parts, text)}-{dtype.name}", content)
    code.check = lambda: check_types(parts, functions, number, _result_type)
    code.compile()
    return Kernel(code.address, text, code)


def _origin(parts: tuple[Part, ...], text: str) -> str:
    """A file name for the cache that survives edits: where the functions come from."""
    origins = []
    for part in parts:
        function: Any = getattr(part.update, "py_func", part.update)
        file = function.__code__.co_filename
        # A cell of a notebook has another "file" in every session.
        file = file if Path(file).is_file() and "ipykernel" not in file else ""
        origins.append(f"{file}:{function.__module__}.{function.__qualname__}")
    names = "-".join(part.name.removesuffix("_update") for part in parts)
    readable = "".join(c if c.isalnum() or c in "-_" else "_" for c in names)[:80]
    return f"{readable}-{digest(text, *origins)}"


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
    python: Callable[..., Any], signature: Any, name: str, *, parallel: bool = False
) -> Callable[..., Any]:
    """Compile one of fastopt's own functions for one signature, through the same cache."""
    dispatcher = numba.njit(nogil=True, parallel=parallel, **OPTIONS)(python)
    if numba.config.DISABLE_JIT:
        return python
    dispatcher._cache = DiskCache(name, package())
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    compiled: Callable[..., Any] = dispatcher
    return compiled
