"""
A rule of your own: Lion
========================

Lion (Chen et al., 2023) moves every parameter by the sign of an average of gradients. The rule is a
function of one element, and the optimizer a class of ten lines. fastopt has it as ``fastopt.Lion``;
here it is written as one would write a rule that fastopt does not have, and both agree.
"""

import math

import matplotlib.pyplot as plt
import numpy as np

import fastopt
from fastopt import schedules
from fastopt.validation import at, decay_rate

# %%
# The rule
# --------
# The sign is taken of a short average of the gradients, and a longer one is kept. ``hyper`` has the
# hyperparameters of the current step; ``at(lr, step)`` is the value of a setting at a step: it may be a
# schedule.


def lion_update(update, param, state, hyper):
    (exp_avg,) = state
    beta1, mix1, beta2, mix2 = hyper
    short = beta1 * exp_avg + mix1 * update
    exp_avg = beta2 * exp_avg + mix2 * update
    sign = 0.0 if short == 0.0 else math.copysign(1.0, short)
    return sign, (exp_avg,)


def scale_by_lion(beta1, beta2):
    beta1, beta2 = decay_rate("beta1", beta1), decay_rate("beta2", beta2)

    def hyper(step):
        first, second = at(beta1, step), at(beta2, step)
        return first, 1 - first, second, 1 - second

    return fastopt.Transform(lion_update, state={"exp_avg": 0.0}, hyper=hyper)


# %%
# The class
# ---------
# It declares the settings, and says which transforms they ask for. Groups, schedules, decay, clipping,
# checkpoints and the other options come with it.


class Lion(fastopt.NamedOptimizer):
    """The sign of an average of gradients (Chen et al., 2023)."""

    __slots__ = ()

    lr: fastopt.Number = fastopt.setting(default=1e-4)
    beta1: fastopt.Number = fastopt.setting(default=0.9)
    beta2: fastopt.Number = fastopt.setting(default=0.99)

    def make_parts(self):
        return [scale_by_lion(self.beta1, self.beta2), *self.decay_and_rate()]


# %%
# Groups
# ------
# The weights decay, beside the sign as in AdamW; the biases do not, and have a rate of their own.

weights, biases = np.ones((4, 3), np.float32), np.ones(3, np.float32)
groups = [{"params": weights}, {"params": biases, "lr": 1e-2, "weight_decay": 0.0}]
opt = Lion(groups, lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True)
opt.step([np.ones((4, 3), np.float32), np.zeros(3, np.float32)])
assert np.allclose(weights, 1 - 1e-3 * (1 + 0.1))
assert (biases == 1).all()

same = np.ones((4, 3), np.float32)
fastopt.Lion(same, lr=1e-3, weight_decay=0.1).step(np.ones((4, 3), np.float32))
assert np.allclose(same, weights, rtol=1e-6)

# %%
# A regression
# ------------
# 2,000 noisy observations of 100 weights, in minibatches of 50.

rng = np.random.default_rng(0)
truth = rng.standard_normal(100)
data = rng.standard_normal((2000, 100))
target = data @ truth + 0.1 * rng.standard_normal(2000)


def train(make, steps=600):
    """The distance from the true weights at every step."""
    w, rng = np.zeros(100), np.random.default_rng(1)
    opt, distances = make(w, schedules.cosine(0.02, steps)), []
    for _ in range(steps):
        rows = rng.choice(2000, 50, replace=False)
        opt.step(data[rows].T @ (data[rows] @ w - target[rows]) / rows.size)
        distances.append(np.linalg.norm(w - truth))
    return distances


curves = {
    "Lion": train(lambda w, lr: Lion(w, lr=lr, clip_norm=100.0)),
    "Adam": train(lambda w, lr: fastopt.Adam(w, lr=lr)),
    "RMSProp": train(lambda w, lr: fastopt.RMSProp(w, lr=lr)),
}

figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for name, distances in curves.items():
    axes.semilogy(distances, label=name)
axes.set(xlabel="step", ylabel="distance from the true weights")
axes.legend()
plt.show()

assert curves["Lion"][-1] < 0.2 < curves["Lion"][0]
