"""Sparse gradients as they come: pairs of rows and values, and the arrays of scipy.sparse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastopt.arrays import checks
from fastopt.arrays.checks import Array, loaded
from fastopt.arrays.device_array import AnyArray
from fastopt.arrays.tree import Structure
from fastopt.codecs.floats import floats
from fastopt.codecs.formats import FORMATS, compute_dtype, name_of
from fastopt.steps.sparse import row_loops


class RowGradient(NamedTuple):
    """The gradient of some rows of a parameter; the other rows have zero."""

    rows: Array  # int64, rising
    positions: Array  # position of each one's gradient: a row of `values`, or after these one of `sums`
    values: Array  # two-dimensional
    sums: Array  # of rows that came more than once
    copied_from: tuple[Array, ...]  # arrays of the caller's that the numbers were copied from

    def memory(self) -> tuple[Array, ...]:
        """What belongs to the caller of it."""
        return self.copied_from or (self.values,)

    def in_order(self) -> Array:
        """An array with the gradient of each row once, in the order of the rows."""
        if not self.sums.size and _rises(self.positions):
            return self.values
        is_sum = self.positions >= len(self.values)
        numbers: Array = self.values[np.where(is_sum, 0, self.positions)]
        numbers[is_sum] = self.sums[self.positions[is_sum] - len(self.values)]
        return numbers


def is_sparse(grad: object) -> bool:
    """Whether this is meant as a sparse gradient."""
    return (isinstance(grad, tuple) and len(grad) == 2) or _is_scipy(grad)


def _is_scipy(grad: object) -> bool:
    issparse = loaded("scipy.sparse", "issparse")
    return issparse is not None and issparse(grad)


def take(name: str, grad: Any, param: Array, clears: bool) -> RowGradient:
    """Check a sparse gradient, and bring its rows in order, the sum of all that came for each.

    Numbers of one element are added in the order in which they come, in the dtype of the arithmetic.

    Raises
    ------
    TypeError, ValueError
        It does not fit `param`, or cannot be cleared although it should be (`clears`).
    """
    if not _is_scipy(grad):
        rows, values = grad
        return _take_pair(name, rows, values, param)
    if grad.shape != param.shape:
        raise ValueError(f"{name} must have the parameter's shape {param.shape}, got {grad.shape}")
    if grad.dtype != (compute := compute_dtype(str(name_of(param.dtype)))):
        raise TypeError(
            f"{name} must have dtype {compute} for a parameter of {param.dtype}, not {grad.dtype}"
        )
    cleared = (_data_to_clear(name, grad),) if clears else ()
    if grad.format in ("csr", "csc", "bsr"):
        grad = _checked_pointers(name, grad)
    if grad.format == "csr" and grad.ndim == 2:
        return _take_csr(name, grad, cleared)
    return _take_entries(name, grad, param, cleared)


def _data_to_clear(name: str, grad: Any) -> Array:
    data = getattr(grad, "data", None)
    if not isinstance(data, np.ndarray) or data.dtype != grad.dtype:
        raise TypeError(
            f"{name} cannot be cleared, which zero_grad=True asks for: {type(grad).__name__} has no "
            "array of numbers"
        )
    return data


def _take_pair(name: str, rows: Any, values: Any, param: Array) -> RowGradient:
    rows = checks.check_rows(f"rows of {name}", rows, param)
    checks.check_values(f"values of {name}", values, param, rows.size)
    values = values.reshape(rows.size, math.prod(param.shape[1:]))
    if _rises(rows):
        return RowGradient(rows, np.arange(rows.size), values, values[:0], ())
    return _take_unordered(rows, values)


def _take_unordered(indices: Array, values: Array) -> RowGradient:
    """Sort rows and sum duplicates; the gradient of a row without duplicates is not copied."""
    if not values.size:
        rows = np.unique(indices)
        return RowGradient(rows, np.arange(rows.size), values[: rows.size], values[:0], ())
    numbers = values
    rows, positions, repeated = (np.empty(indices.size, np.int64) for _ in range(3))
    starts = np.zeros(1 + indices.size // 2, np.int64)
    count, several = row_loops.group_duplicates()(indices, rows, positions, starts, repeated)
    if several and FORMATS[name := str(name_of(values.dtype))].cut:
        # Sums would lose too much in 16 bits.
        numbers = floats(name).decode(values, compute_dtype(name)).reshape(values.shape)
    sums = np.empty((several, values.shape[1]), numbers.dtype)
    if several:
        row_loops.add_rows(numbers.dtype)(starts, repeated, numbers, sums)
    return RowGradient(rows[:count], positions[:count], numbers, sums, (values,) if several else ())


def _checked_pointers(name: str, grad: Any) -> Any:
    """A CSR, CSC or BSR array that holds together: its arrays can be assigned, and compiled code, of
    SciPy too, follows them without looking.
    """
    indptr, indices, data = grad.indptr, grad.indices, grad.data
    lines = (1, *grad.shape)[-2:][grad.format == "csc"]
    lines //= grad.blocksize[0] if grad.format == "bsr" else 1
    problem = None
    if not indptr.ndim == indices.ndim == 1 or not {indptr.dtype.kind, indices.dtype.kind} <= set("iu"):
        problem = "its indptr and indices are not one-dimensional arrays of whole numbers"
    elif len(indptr) != lines + 1:
        problem = f"its indptr has {len(indptr)} numbers, not {lines + 1}"
    elif len(indices) != len(data) or data.ndim != (3 if grad.format == "bsr" else 1):
        problem = f"it has {len(indices)} indices for numbers of the shape {data.shape}"
    elif indptr[0] != 0 or indptr[-1] > len(data):
        problem = f"its indptr goes from {indptr[0]} to {indptr[-1]}, for {len(data)} numbers"
    elif grad.format != "csr" and (indptr[1:] < indptr[:-1]).any():  # CSR is read in leaps, and checked
        problem = "its indptr falls"
    if problem is not None:
        raise ValueError(f"{name} is no valid {grad.format.upper()} array: {problem}")
    if grad.format != "csr" and indptr[-1] < len(data):  # SciPy allows that, and converts what is there
        grad = grad.copy()
        grad.prune()
    return grad


def _take_csr(name: str, grad: Any, cleared: tuple[Array, ...]) -> RowGradient:
    arrays = grad.indptr, grad.indices, grad.data
    indptr, columns, data = (np.ascontiguousarray(a, a.dtype.newbyteorder("=")) for a in arrays)
    nonempty = np.empty(min(len(indptr) - 1, len(data)), np.int64)
    rows = nonempty[: row_loops.nonempty(indptr.dtype)(indptr, nonempty)].copy()
    starts = np.append(indptr[rows], indptr[-1:]).astype(np.int64)
    if starts[0] < 0 or not _rises(starts):
        raise ValueError(f"{name} is no valid CSR array: its indptr falls")
    return _dense_rows(name, rows, starts, columns, data, grad.shape[1], cleared)


def _take_entries(name: str, grad: Any, param: Array, cleared: tuple[Array, ...]) -> RowGradient:
    entries = grad.tocoo()
    coords = getattr(entries, "coords", None) or (entries.row, entries.col)
    # Copies: another thread may change what was checked.
    coords = [np.array(indices, np.int64) for indices in coords]
    if any(len(indices) != len(entries.data) for indices in coords):
        raise ValueError(f"{name} is no valid sparse array: it has not as many numbers as indices")
    for axis, (size, indices) in enumerate(zip(param.shape, coords, strict=True)):
        if len(indices) and (indices.min() < 0 or indices.max() >= size):
            what = ("rows", "columns", "indices")[min(axis, 2)]
            raise ValueError(f"{name} is no valid sparse array: it has {what} beyond its shape")
    first, *others = coords
    columns = np.zeros_like(first)
    for size, indices in zip(param.shape[1:], others, strict=True):
        columns = columns * size + indices
    ordered, positions = (np.empty(len(first), np.int64) for _ in range(2))
    row_loops.sort()(first, ordered, positions)
    starts = _first_of_each(ordered)
    rows, width = ordered[starts[:-1]], math.prod(param.shape[1:])
    return _dense_rows(name, rows, starts, columns[positions], entries.data[positions], width, cleared)


def _dense_rows(
    name: str,
    rows: Array,
    starts: Array,
    columns: Array,
    data: Array,
    width: int,
    cleared: tuple[Array, ...],
) -> RowGradient:
    values = np.empty((rows.size, width), data.dtype)
    if not row_loops.scatter(columns.dtype, data.dtype)(starts, columns, data, values):
        raise ValueError(f"{name} is no valid sparse array: it has columns beyond its shape")
    return RowGradient(rows, np.arange(rows.size), values, values[:0], cleared)


def _rises(numbers: Array) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all())


def _first_of_each(ordered: Array) -> Array:
    """The indices where a new row begins, and the end."""
    new = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    ends = [0, ordered.size] if ordered.size else [0]
    return np.concatenate([ends[:1], new, ends[1:]]).astype(np.int64)


def wanted_rows(rows: object, structure: Structure, leaves: Sequence[AnyArray]) -> dict[int, Array]:
    """Rows that a caller names, of the parameters that have any, in rising order."""
    names, wanted = structure.names("rows"), {}
    for index, indices in enumerate(structure.match(rows, "rows")):
        if indices is not None:
            wanted[index] = np.unique(checks.check_rows(names[index], indices, leaves[index]))
    return wanted
