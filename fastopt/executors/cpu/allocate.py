"""New buffers, aligned to cache lines and first touched by the threads that will use them."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from numpy.typing import DTypeLike

from fastopt.arrays import tree
from fastopt.arrays.aligned import aligned
from fastopt.arrays.checks import Array
from fastopt.arrays.tree import Tree
from fastopt.codecs.floats import as_dtype
from fastopt.codecs.formats import FORMATS, name_of
from fastopt.text import listed

WORTH_TOUCHING = 1 << 22  # bytes


def empty(n: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> Array:
    """A new buffer, aligned to cache lines, with pages mapped near the cores that will use them.

    Parameters
    ----------
    n : int or tuple of int
        Length or shape.
    dtype : dtype, optional
        float16, bfloat16, float32 or float64.

    Returns
    -------
    array
        Uninitialized. Each thread has touched the chunk that it works on in a step, so that on a
        machine with several memory nodes every core finds its chunk in its own.

    Examples
    --------
    >>> import fastopt
    >>> w = fastopt.empty(1000)
    >>> w.shape, w.dtype
    ((1000,), dtype('float32'))
    """
    dtype = as_dtype(dtype)
    if name_of(dtype) is None or not dtype.isnative:
        raise TypeError(f"dtype must be {listed(FORMATS)}, not {dtype}")
    shape = (n,) if isinstance(n, Integral) else n
    if not isinstance(shape, tuple) or not all(isinstance(k, Integral) for k in shape):
        raise TypeError(f"n must be a length or a shape, not {n!r}")
    if any(k < 0 for k in shape):
        raise ValueError(f"n must not be negative, got {n!r}")
    result = aligned(np.empty, shape, dtype)
    if result.nbytes >= WORTH_TOUCHING:
        _touch(result)
    return result


def _touch(array: Array) -> None:
    from fastopt.executors import threads  # Numba is loaded only for large buffers
    from fastopt.executors.cpu import drivers

    count, turn = threads.parallel_turn()
    with turn:
        if count > 1:
            drivers.touch()(array.reshape(-1).view(np.uint8), count)


def flatten(arrays: object) -> tuple[Array, Tree]:
    """Copy many arrays into one flat buffer, and make views of it with their shapes.

    Parameters
    ----------
    arrays : array, or nested list, tuple or dict of arrays
        All of one dtype, float16, bfloat16, float32 or float64; any shapes.

    Returns
    -------
    flat : array
        All elements in order: what an optimizer steps in one go.
    views : structure of arrays
        Structured like `arrays`, each a view of `flat`.

    Raises
    ------
    TypeError
        The dtypes differ or are not accepted.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> flat, views = fastopt.flatten({"weight": np.ones((2, 2)), "bias": np.zeros(2)})
    >>> flat
    array([1., 1., 1., 1., 0., 0.])
    >>> flat *= 3
    >>> views["weight"]
    array([[3., 3.],
           [3., 3.]])
    """
    leaves = []
    for path, leaf in tree.leaves(arrays):
        if not isinstance(leaf, np.ndarray) or name_of(leaf.dtype) is None or not leaf.dtype.isnative:
            kind = leaf.dtype if isinstance(leaf, np.ndarray) else type(leaf).__name__
            raise TypeError(
                f"{tree.describe('arrays', path)} must be a {listed(FORMATS)} array, not {kind}"
            )
        leaves.append(leaf)
    dtypes = {leaf.dtype for leaf in leaves} or {np.dtype(np.float32)}
    if len(dtypes) > 1:
        raise TypeError(f"arrays must have one dtype, got {', '.join(sorted(map(str, dtypes)))}")
    flat = empty(sum(leaf.size for leaf in leaves), dtypes.pop())
    views, start = [], 0
    for leaf in leaves:
        view = flat[start : start + leaf.size].reshape(leaf.shape)
        view[...] = leaf
        views.append(view)
        start += leaf.size
    return flat, tree.rebuild(arrays, views)
