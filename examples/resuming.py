"""
Stopping and going on
=====================

A run is saved in the middle and resumed by a new optimizer, as after a crash. Both end with the same
bits as a run that was never interrupted.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import rosen, rosen_der

import fastopt

STEPS = 400
start = np.linspace(-1.5, 1.5, 50)


def make(w):
    """The same optimizer each time: a schedule is code, and not in the file."""
    return fastopt.Adam(w, lr=fastopt.schedules.warmup_cosine(0.0, 0.1, 20, STEPS))


def run(opt, losses, stop):
    while opt.step_count < stop:
        losses.append(rosen(opt.params))
        opt.step(rosen_der(opt.params))


# %%
# One run, and two halves
# -----------------------

uninterrupted, all_losses = make(start.copy()), []
run(uninterrupted, all_losses, STEPS)

first, first_losses = make(start.copy()), []
run(first, first_losses, STEPS // 2)
path = Path(tempfile.mkdtemp()) / "run.npz"
first.save(path, params=True)
del first

second, second_losses = make(np.empty_like(start)), []
second.load(path)
run(second, second_losses, STEPS)
assert second.params.tobytes() == uninterrupted.params.tobytes()

# %%
# The halves lie on the whole
# ---------------------------

figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
axes.semilogy(all_losses, linewidth=6, alpha=0.3, label="uninterrupted")
axes.semilogy(first_losses, label="until the file was saved")
axes.semilogy(range(STEPS // 2, STEPS), second_losses, label="resumed from it")
axes.set(xlabel="step", ylabel="Rosenbrock's function of 50 variables")
axes.legend()
plt.show()

assert first_losses + second_losses == all_losses
