"""RMSProp in Triton, which compiles functions from the text of a file."""

# No `from __future__ import annotations`: Triton reads the annotations of arguments as they are.

import triton
from triton import language as tl


@triton.jit
def rmsprop(w_at, g_at, v_at, n, lr, beta, rest, eps, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    w = tl.load(w_at + i, mask=inside)
    g = tl.load(g_at + i, mask=inside)
    v = tl.load(v_at + i, mask=inside)
    v = beta * v + rest * g * g
    tl.store(v_at + i, v, mask=inside)
    tl.store(w_at + i, w - lr * g / (tl.sqrt(v) + eps), mask=inside)
