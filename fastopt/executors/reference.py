"""The reference executor, an executable specification: the chain in plain Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from inspect import CO_VARARGS, CO_VARKEYWORDS
from itertools import islice
from numbers import Real
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change, put
from fastopt.codecs.base import Codec, DType
from fastopt.codecs.corrections import Correction
from fastopt.codecs.rounding import noise
from fastopt.executors.norm import SUM_BLOCK, sum_of_block
from fastopt.kernels.job import GRAD_FACTOR, NUMBERS, PHASE, SLOTS
from fastopt.kernels.specialize import specialize
from fastopt.kernels.terms import Term, terms_after, terms_before, terms_of
from fastopt.transforms.base import Part, sums_in

Float: TypeAlias = float | np.float64  # which older NumPy does not type as a float


@cache
def numpy_math(dtype: DType) -> SimpleNamespace:
    """``math`` with NumPy's answers: NaN where math raises, and the dtype stays."""

    def in_dtype(name: str, function: object) -> object:
        ufunc = getattr(np, {"pow": "power", "fabs": "abs"}.get(name, name), None)
        if isinstance(ufunc, np.ufunc):
            return lambda *args: ufunc(*map(dtype.type, args))
        return function

    number = dtype.type
    functions = {name: in_dtype(name, f) for name, f in vars(math).items() if callable(f)}
    constants = {name: number(x) for name, x in vars(math).items() if type(x) is float}
    return SimpleNamespace(**functions, **constants)


@lru_cache(512)
def scalar_functions(parts: tuple[Part, ...], dtype: DType) -> list[FunctionType]:
    """The chain's functions for NumPy scalars of this dtype."""
    substitutes = {id(math): numpy_math(dtype)}
    return [specialize(part.update, dtype.type, replace=substitutes) for part in parts]


@lru_cache(512)
def probe(parts: tuple[Part, ...], dtype: DType) -> None:
    """Call every transform on one element, to find mistakes before anything is compiled.

    Raises
    ------
    TypeError
        A transform uses an unknown name, treats an element as an array, or does not return
        ``(update, state)`` with as many states as it declares. The message names it.
    """
    number = dtype.type
    for part, function in zip(parts, scalar_functions(parts, dtype), strict=True):
        what = f"transform {part.name!r}"
        _check_arguments(what, part.update)
        names = ", ".join(slot.name for slot in part.slots) or "none"
        states, hypers = (number(0.25),) * part.read, (number(0.5),) * part.hypers
        try:
            with np.errstate(all="ignore"):
                result = function(number(0.5), number(0.75), states, hypers)
        except NameError as error:
            raise TypeError(
                f"{what} uses an unknown name ({error}): import it or define it at module level"
            ) from error
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise TypeError(
                f"{what} failed on one element ({type(error).__name__}: {error}): it gets numbers, "
                f"not arrays, a tuple of {len(states)} states ({names}) "
                f"and a tuple of {len(hypers)} hyperparameters"
            ) from error
        if result is None:
            raise TypeError(f"{what} must return (update, state) in every branch, not None")
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple)):
            raise TypeError(f"{what} must return (update, state) with a tuple as state, not {result!r}")
        value, new_states = result
        if len(new_states) != part.written:
            raise TypeError(
                f"{what} returned {len(new_states)} states but declares {part.written} ({names}): "
                "return as many as there are"
            )
        if any(np.ndim(item) != 0 for item in (value, *new_states)):
            raise TypeError(
                f"{what} must return numbers, not arrays: it is called for each element{_arrays(part)}"
            )
        if part.sums is not None:
            _probe_sums(part)


def _probe_sums(part: Part) -> None:
    """Call every summand on one element, or raise."""
    state, hyper = (np.float64(0.25),) * part.read, (np.float64(0.5),) * part.from_host
    for each in [*terms_before(part, 0), *terms_after(part, 0)]:
        what, summand = each.what, in_float64(each.function)
        _check_arguments(what, summand)
        try:
            with np.errstate(all="ignore"):
                term = summand(np.float64(0.5), np.float64(0.75), state, hyper)
        except Exception as error:
            raise TypeError(
                f"{what} failed on one element ({type(error).__name__}: {error}): its function gets "
                f"(update, param, state, hyper), numbers and tuples of {len(state)} states and "
                f"{len(hyper)} hyperparameters"
            ) from error
        if np.ndim(term) != 0 or not isinstance(term, (Real, np.bool_)):
            raise TypeError(f"{what} must return a number, not {term!r:.200}")


def _check_arguments(what: str, function: Any) -> None:
    """Check that a function of a transform takes four arguments and no others."""
    code = getattr(function, "py_func", function).__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    variadic = code.co_flags & (CO_VARARGS | CO_VARKEYWORDS)
    if variadic or len(names) > 4 or code.co_kwonlyargcount:
        raise TypeError(
            f"{what} must take the four arguments (update, param, state, hyper), "
            f"without *args, **kwargs or others with defaults, not ({', '.join(names) or '*args'}); "
            "numbers that it needs besides are hyper, or closed over"
        )


def _arrays(part: Part) -> str:
    """A hint for the error, if a transform uses global or closed-over arrays."""
    function = getattr(part.update, "py_func", part.update)
    closed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    used = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    used |= {name: cell.cell_contents for name, cell in closed}
    names = [name for name, value in used.items() if isinstance(value, np.ndarray) and value.ndim]
    if not names:
        return ""
    return f"; it uses the array {', '.join(names)}: pass numbers that differ by element as inputs"


class StoredArray(NamedTuple):
    """An array of a step with its codec."""

    array: Array
    codec: Codec
    dithered: bool


def _decoded(
    slots: Sequence[StoredArray], compute: DType
) -> tuple[Array, Array, list[Array], Correction | None]:
    """Parameter, gradient and the slots of the chain as numbers, and the parameter's correction."""
    param, grad, *others = slots
    correction = others[0].codec if others and isinstance(others[0].codec, Correction) else None
    if correction is None:
        numbers = param.codec.decode(param.array, compute)
    else:
        numbers = correction.join(param.array, others.pop(0).array)
    decoded = [slot.codec.decode(slot.array, compute) for slot in others]
    return numbers, grad.codec.decode(grad.array, compute), decoded, correction


class _Work(NamedTuple):
    """What is done with a transform, for all elements."""

    function: FunctionType
    read: list[Array]
    written: list[Array]
    from_host: tuple[float, ...]  # hyperparameters that the function does not take
    hyper: tuple[float, ...]
    after: bool


def _work(parts: tuple[Part, ...], hyper: Array, chain_slots: Iterable[Array]) -> list[_Work]:
    hypers, remaining = iter(hyper[NUMBERS:]), iter(chain_slots)
    work = []
    for part, function in zip(parts, scalar_functions(parts, hyper.dtype), strict=True):
        from_host, hyper_of_part = (
            tuple(islice(hypers, part.from_host)),
            tuple(islice(hypers, part.hypers)),
        )
        arrays = [(slot, next(remaining)) for slot in part.slots]
        read = [array for slot, array in arrays if slot.kind != "output"]
        written = [array for slot, array in arrays if slot.kind != "input"]
        work.append(_Work(function, read, written, from_host, hyper_of_part, part.after))
    return work


def _applied(
    work: Iterable[_Work], i: int, old: Any, value: Any, applied: bool = False
) -> tuple[Any, bool]:
    """Apply transforms to one element; whether the value is the new parameter by then."""
    for function, read, written, _, hyper, after in work:
        if after and not applied:
            value, applied = old - value, True
        value, new = function(value, old, tuple(array[i] for array in read), hyper)
        for array, item in zip(written, new, strict=True):
            array[i] = item
    return value, applied


@lru_cache(512)
def in_float64(function: object) -> FunctionType:
    """A function of sums for NumPy's float64."""
    substitutes = {id(math): numpy_math(np.dtype(np.float64))}
    return specialize(function, np.float64, replace=substitutes)


@lru_cache(512)
def _summands(part: Part) -> list[FunctionType]:
    sums = sums_in(part)
    return [in_float64(summand) for summand in sums.summands]


def summed(
    parts: tuple[Part, ...], hyper: Array, slots: Sequence[StoredArray]
) -> list[list[np.float64]]:
    """For each sum of the last transform, the sums of the blocks of an array, without changing it."""
    compute, exact = hyper.dtype, np.float64
    param, grad, chain_slots, _ = _decoded(slots, compute)
    size = slots[0].array.size
    *front, last = _work(parts, hyper, chain_slots)
    from_host, summands = tuple(map(exact, last.from_host)), _summands(parts[-1])
    terms = np.zeros((len(summands), size))
    with np.errstate(all="ignore"):
        for i in range(size):
            old, state = param[i], tuple(exact(array[i]) for array in last.read)
            if front or last.after:
                value, applied = _applied(front, i, old, hyper[GRAD_FACTOR] * grad[i])
                value = old - value if last.after and not applied else value
            else:
                value = exact(hyper[GRAD_FACTOR]) * exact(grad[i])
            for row, summand in zip(terms, summands, strict=True):
                row[i] = summand(exact(value), exact(old), state, from_host)
        starts = range(0, size, SUM_BLOCK)
        return [[sum_of_block(row[k : k + SUM_BLOCK]) for k in starts] for row in terms]


def observed(
    parts: tuple[Part, ...], stats: Sequence[Term], hyper: Array, slots: Sequence[StoredArray]
) -> Array:
    """What a step adds up: a row for each block of an array, with the sum of each term."""
    compute, exact = hyper.dtype, np.float64
    param, grad, chain_slots, _ = _decoded(slots, compute)
    size, work, terms = slots[0].array.size, _work(parts, hyper, chain_slots), terms_of(parts, stats)
    functions = [in_float64(term.function) for term in terms]
    numbers = np.zeros((len(terms), size))

    def note(
        i: int,
        position: str,
        index: int,
        value: Float,
        state: tuple[Float, ...] = (),
        hypers: tuple[Float, ...] = (),
    ) -> None:
        for row, term, function in zip(numbers, terms, functions, strict=True):
            if (term.position, term.number) == (position, index):
                row[i] = function(exact(value), exact(param[i]), state, hypers)

    with np.errstate(all="ignore"):
        for i in range(size):
            value, applied = hyper[GRAD_FACTOR] * grad[i], False
            note(i, "gradient", 0, grad[i])
            for index, each in enumerate(work):
                if each.after and not applied:
                    note(i, "update", 0, value)
                    value, applied = param[i] - value, True
                at_head = index == 0 and not each.after
                seen = exact(hyper[GRAD_FACTOR]) * exact(grad[i]) if at_head else value
                hypers = each.hyper if parts[index].sums is None else each.from_host
                state = tuple(exact(array[i]) for array in each.read)
                note(i, "transform", index, seen, state, tuple(map(exact, hypers)))
                value, _ = _applied([each], i, param[i], value, applied)
            if not applied:
                note(i, "update", 0, value)
            note(i, "param", 0, value if applied else param[i] - value)
            for index, array in enumerate(chain_slots):
                note(i, "state", index, array[i])
        starts = range(0, size, SUM_BLOCK)
        sums = [sum_of_block(row[k : k + SUM_BLOCK]) for k in starts for row in numbers]
    return np.array(sums).reshape(len(starts), len(terms))


def stepped(
    parts: tuple[Part, ...], hyper: Array, first: int, zero_grad: bool, slots: Sequence[StoredArray]
) -> list[Change]:
    """Compute a step one element after the other; return the changes that write it to the arrays.

    `hyper` is as for a kernel, `first` the index of the first element among those of all arrays. The
    slots are parameter, gradient, the parameter's correction if it has one, and those of the chain.
    """
    compute = hyper.dtype
    param, grad, chain_slots, correction = _decoded(slots, compute)
    size, work = slots[0].array.size, _work(parts, hyper, chain_slots)
    with np.errstate(all="ignore"):
        for i in range(size):
            value, applied = _applied(work, i, param[i], hyper[GRAD_FACTOR] * grad[i])
            param[i] = value if applied else param[i] - value
    if zero_grad:
        grad[:] = 0
    kinds = "state", "state" if zero_grad else "input", *(s.kind for part in parts for s in part.slots)
    changes, remaining = list[Change](), list(slots)
    if correction is not None:
        halves, rests = slots[0].array.reshape(-1), remaining.pop(SLOTS).array.reshape(-1)
        half, rest = correction.divide(param[:size], halves.dtype)
        changes += [put(halves, half), put(rests, rest)]
    for index, (slot, kind) in enumerate(zip(remaining, kinds, strict=True)):
        if index == 0 and correction is not None:
            continue
        if kind != "input":
            computed = (param, grad, *chain_slots)[index][:size]
            bits = noise(first, size, hyper[PHASE], index) if slot.dithered else None
            changes.append(put(slot.array.reshape(-1), slot.codec.encode(computed, bits)))
    return changes
