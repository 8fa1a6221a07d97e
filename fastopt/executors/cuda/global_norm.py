"""`fastopt.global_norm` of arrays on a device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastopt.arrays.device_array import DeviceArray
from fastopt.codecs.formats import name_of
from fastopt.executors.cuda import device
from fastopt.executors.cuda.launches import Launch
from fastopt.executors.cuda.sum_kernels import gradient_sums
from fastopt.executors.cuda.tree_sum import THREADS
from fastopt.executors.norm import blocks_of, norm_of, tree_sum
from fastopt.transforms.gradient_clip import NARROW, WIDE


def global_norm(leaves: Sequence[DeviceArray]) -> float:
    """The norm of all arrays, which are on one device; NaN if an element is not finite."""
    leaves = [leaf for leaf in leaves if leaf.size]  # others are on any device
    counts = [blocks_of(leaf.size) for leaf in leaves]
    blocks = sum(counts)
    if not leaves:
        return 0.0
    names = [str(name_of(leaf.dtype)) for leaf in leaves]
    wide = "float64" in names
    sums, first = np.zeros((len(WIDE if wide else NARROW), blocks)), 0
    with device.on(device.ordinal(leaves[0])):
        device.synchronize()  # the arrays may still be written, on any stream
        memory = device.allocate(sums.shape, sums.dtype)
        for leaf, name, count in zip(leaves, names, counts, strict=True):
            kernels = gradient_sums(name, wide, device.architecture())
            for program in kernels.programs("one"):
                launch = Launch(program, 6)
                launch.words[:] = memory.address, blocks, leaf.size, first, 0, leaf.address
                launch.start(count, THREADS, 0)
            first += count
        device.synchronize()
        device.to_host(sums, memory.address)
    with np.errstate(all="ignore"):  # squares that overflow are among the other sums too
        return norm_of(tree_sum(sums.T).tolist())
