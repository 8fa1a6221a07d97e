"""Roots as quotients in fast code, on processors that estimate inverse roots.

LLVM takes the estimate of an inverse root for ``x / sqrt(y)``, as in RMSProp with epsilon inside. A
root by itself it leaves to the divider, which then works out the quotient by a sum with it too. So such
a root becomes a quotient by itself, and the divider has one number to work out and not two.
"""

from __future__ import annotations

import math

import numpy as np

from fastopt.kernels.compiler import helper
from fastopt.kernels.job import Job
from fastopt.kernels.processor import processor
from fastopt.kernels.specialize import specialize
from fastopt.kernels.target import estimates_roots
from fastopt.transforms.roots import root_eps_outside

SMALLEST = 2.0**-126  # of full precision: the estimate for zero stays finite


def _root_eps_outside(square: float, eps: float) -> float:
    square = square + SMALLEST
    return square / math.sqrt(square) + eps


def replacements(job: Job, options: dict[str, object]) -> dict[int, object]:
    """Replacements of functions in fast code, by the ``id`` of the replaced one's code."""
    if not job.fast or job.compute != np.float32 or not estimates_roots():
        return {}
    # AMD's dividers are so fast that it pays only in short chains: on an EPYC with AVX-512, in the
    # caches of one core, AdaGrad took 0.71 of the time, Adam 0.97 and with 8-bit states 1.07.
    if processor().startswith("znver") and len(job.arrays) > 3:
        return {}
    root = helper(specialize(_root_eps_outside, np.float32), options)
    return {id(root_eps_outside.__code__): root}
