"""
Factors of a table of ratings
=============================

10,000 users have rated some of 2,000 films, and each of both gets a row of four numbers whose product
is the rating. A batch touches some thousand rows. With ``sparse="lazy"`` a step takes time in
proportion to them, and not to the tables.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastopt

# %%
# Ratings
# -------
# They are made of hidden factors and noise.

rng = np.random.default_rng(0)
users, films, width, ratings = 10_000, 2_000, 4, 300_000
hidden_users = rng.standard_normal((users, width), np.float32) / width**0.5
hidden_films = rng.standard_normal((films, width), np.float32)
by, of = rng.integers(0, users, ratings), rng.integers(0, films, ratings)
rated = np.einsum("ij,ij->i", hidden_users[by], hidden_films[of])
rated += 0.1 * rng.standard_normal(ratings, np.float32)

# %%
# Training
# --------
# The gradients are pairs of row numbers and values, in which a row may come twice.

factors = {
    "users": 0.3 * rng.standard_normal((users, width), np.float32),
    "films": 0.3 * rng.standard_normal((films, width), np.float32),
}
opt = fastopt.Adam(factors, lr=0.05, sparse="lazy")
losses = []
for _ in range(10):
    order = rng.permutation(ratings)
    for batch in np.split(order, 50):
        one, other = factors["users"][by[batch]], factors["films"][of[batch]]
        error = np.einsum("ij,ij->i", one, other) - rated[batch]
        losses.append(np.mean(error**2))
        slope = error[:, None]
        opt.step({"users": (by[batch], slope * other), "films": (of[batch], slope * one)})

# %%
# The loss
# --------

figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
axes.semilogy(np.convolve(losses, np.full(20, 0.05), "valid"))
axes.set(xlabel="step", ylabel="mean squared error of a batch")
plt.show()

assert losses[-1] < 0.2 * losses[0]
