"""
A rule of your own: Lion
========================

Lion (Chen et al., 2023) moves every parameter by the sign of an average of gradients. The rule is a
function of one element. Decay, schedules, clipping and checkpoints come with it.
"""

import math

import matplotlib.pyplot as plt
import numpy as np

import fastopt
from fastopt import chain, schedules
from fastopt import transforms as t

# %%
# The rule
# --------
# The sign is taken of a short average of the gradients, and a longer one is kept.


def lion_update(update, param, state, hyper):
    (exp_avg,) = state
    beta1, mix1, beta2, mix2, one, zero = hyper
    short = beta1 * exp_avg + mix1 * update
    exp_avg = beta2 * exp_avg + mix2 * update
    sign = zero if short == zero else math.copysign(one, short)
    return sign, (exp_avg,)


def scale_by_lion(beta1=0.9, beta2=0.99):
    return fastopt.Transform(
        lion_update,
        state={"exp_avg": 0.0},
        hyper=(beta1, 1 - beta1, beta2, 1 - beta2, 1.0, 0.0),
    )


def lion(params, lr, weight_decay=0.0, **options):
    """The decay is decoupled: it acts beside the sign."""
    parts = chain(scale_by_lion(), t.add_decayed_weights(weight_decay), t.scale_by_learning_rate(lr))
    return fastopt.Optimizer(params, parts, **options)


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
    "Lion": train(lambda w, lr: lion(w, lr, weight_decay=1e-3, clip_norm=100.0)),
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
