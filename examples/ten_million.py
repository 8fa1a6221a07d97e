"""
Ten million parameters
======================

A signal of ten million samples under noise is smoothed: each sample is a parameter. The function to
be minimized is the distance from what was measured plus a penalty on differences between
neighbours, rounded so that jumps are cheap. The parameters, the gradient and the accumulator are 40
MB each.
"""

import matplotlib.pyplot as plt
import numba
import numpy as np

import fastopt

n = 10_000_000
rng = np.random.default_rng(0)
levels = np.repeat(rng.uniform(-1, 1, n // 500).astype(np.float32), 500)
measured = levels + 0.3 * rng.standard_normal(n, np.float32)

# %%
# The gradient
# ------------
# fastopt does not care where it comes from. Here it is a loop of Numba's, which writes into the
# same array each time. The penalty is ``strength * sqrt(d * d + width * width)`` of each difference
# ``d``.


@numba.njit(parallel=True, error_model="numpy")
def differentiate(w, measured, strength, width, grad):
    """Write the gradient into `grad`."""
    for i in numba.prange(w.size):
        slope = w[i] - measured[i]
        if i > 0:
            d = w[i] - w[i - 1]
            slope += strength * d / np.sqrt(d * d + width * width)
        if i + 1 < w.size:
            d = w[i + 1] - w[i]
            slope -= strength * d / np.sqrt(d * d + width * width)
        grad[i] = slope


# %%
# The fit
# -------
# ``fastopt.empty`` makes arrays whose pages lie near the cores that work on them.

w, grad = fastopt.empty(n), fastopt.empty(n)
w[:] = measured
opt = fastopt.RMSProp(w, lr=fastopt.schedules.cosine(0.05, 100), beta=0.95)
errors = [np.abs(w - levels).mean()]
for step in range(100):
    differentiate(w, measured, np.float32(3.0), np.float32(0.01), grad)
    opt.step(grad)
    if step % 4 == 3:
        errors.append(np.abs(w - levels).mean())

print(f"mean error: {errors[0]:.3f} before, {errors[-1]:.3f} after")

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
part = slice(0, 4000)
axes.plot(measured[part], ".", markersize=2, color="0.7", label="measured, with noise")
axes.plot(w[part], label="smoothed")
axes.plot(levels[part], "--", color="black", linewidth=1, label="true")
axes.set(xlabel="sample, the first 4000 of ten million", ylabel="value")
axes.legend(loc="upper right")
plt.show()

assert errors[-1] < 0.5 * errors[0]
