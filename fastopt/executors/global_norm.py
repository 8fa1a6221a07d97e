"""The global norm of many arrays, as in `clip_norm`."""

from __future__ import annotations

import numpy as np

from fastopt.arrays import checks, placement, tree
from fastopt.arrays.checks import Array
from fastopt.codecs.formats import name_of
from fastopt.executors import norm
from fastopt.executors.cpu.columns import COUNT, GRAD, STATE
from fastopt.executors.cpu.sum_kernels import squares_kernel
from fastopt.executors.dispatch import TableSums
from fastopt.kernels.numba_settings import compiles


def global_norm(arrays: object) -> float:
    """The Euclidean norm of all elements of all arrays together.

    One read of the arrays, on all cores where they are large. Squares are added in float64 and in a
    fixed order, so that the result is the same, to the last bit, on any number of threads, and that
    of ``opt.last.norm``.

    Parameters
    ----------
    arrays : array, or nested list, tuple or dict of arrays
        float16, bfloat16, float32 or float64, C-contiguous. A None inside counts as nothing, as in
        a step.

    Returns
    -------
    float
        NaN if an element is NaN or infinite.

    Raises
    ------
    TypeError, ValueError
        An array is not acceptable; the message names it.

    Notes
    -----
    Where squares of float64 overflow, or are so small that they lose bits, a second read follows, of
    scaled elements.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> fastopt.global_norm({"weight": np.full((2, 2), 2.0, np.float32), "bias": np.array([3.0])})
    5.0
    """
    leaves, named = [], []
    for path, leaf in tree.leaves(arrays):
        if leaf is None and path:
            continue
        name = tree.describe("arrays", path)
        leaf = placement.enter(name, leaf)
        checks.check_readable(name, leaf)
        leaves.append(leaf)
        named.append((name, leaf))
    if placement.check_one_place(named):
        from fastopt.executors.cuda import global_norm as on_device

        return on_device.global_norm(leaves)
    return norm.norm_of(norm.clip_sums(sum_of_squares(leaves), leaves))


def sum_of_squares(leaves: list[Array]) -> float:
    """The sum of the squares of all elements of some arrays."""
    if not compiles():
        return norm.reference(leaves)
    # The columns of an optimizer's table that summing reads.
    rows = np.zeros((len(leaves), STATE), np.int64)
    for row, leaf in zip(rows, leaves, strict=True):
        row[COUNT], row[GRAD] = leaf.size, checks.address(leaf)
    sums = TableSums("auto", [leaf.size for leaf in leaves], 1, per_array=False)
    sums.use([squares_kernel(str(name_of(leaf.dtype))) for leaf in leaves])
    return float(sums.measure(rows)[0, 0])
