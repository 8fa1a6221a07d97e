"""
Logistic regression on a sparse text set
========================================

Words are rare: most features of a document are zero, and a rare word may be the one that tells.
This is what AdaGrad was made for; here it is beside RMSProp and plain gradient descent, with
batches in the order of time.

The text is made, not downloaded: documents of two topics that share their common words and differ
in many rare ones, with frequencies that fall like one over the rank, as those of a language do.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse

import fastopt

# %%
# Documents
# ---------
# 20,000 words; a word's frequency falls with its rank. Of the words beyond the 200 most common
# ones, every second is four times as likely in one of the topics.

rng = np.random.default_rng(0)
words, documents, length = 20_000, 6_000, 40
frequency = 1 / np.arange(1, words + 1)
favour = np.where(np.arange(words) < 200, 0, rng.choice([-1, 0, 0, 1], words))
topics = rng.integers(0, 2, documents)
rows, columns = [], []
for topic in (0, 1):
    likely = frequency * 4.0 ** (favour * (1 if topic else -1) / 2)
    which = np.flatnonzero(topics == topic)
    rows.append(np.repeat(which, length))
    columns.append(rng.choice(words, size=which.size * length, p=likely / likely.sum()))
rows, columns = np.concatenate(rows), np.concatenate(columns)
counts = sparse.csr_array((np.ones(rows.size, np.float32), (rows, columns)), shape=(documents, words))
counts.data[:] = 1  # whether a word occurs, not how often
train, test = counts[:4500], counts[4500:]
train_topics, test_topics = topics[:4500], topics[4500:]
print(f"{counts.nnz / documents:.0f} words a document, {counts.nnz / words:.0f} documents a word")

# %%
# Training
# --------
# The gradient is dense here: one array with mostly zeros, written anew for each batch.


def fit(make, passes=4, batch=50):
    w = np.zeros(words, np.float32)
    opt = make(w)
    losses, xs = [], []
    for turn in range(passes):
        for i in range(0, train.shape[0], batch):
            x, y = train[i : i + batch], train_topics[i : i + batch]
            likely = 1 / (1 + np.exp(-(x @ w)))
            opt.step(((likely - y) @ x / batch).astype(np.float32))
        margin = (2 * test_topics - 1) * (test @ w)
        losses.append(np.logaddexp(0, -margin).mean())
        xs.append(turn + 1)
    return xs, losses, (margin > 0).mean()


rules = {
    "gradient descent, lr 1": lambda w: fastopt.SGD(w, lr=1.0),
    "RMSProp, lr 0.003": lambda w: fastopt.RMSProp(w, lr=0.003),
    "AdaGrad, lr 0.1": lambda w: fastopt.AdaGrad(w, lr=0.1),
}
results = {name: fit(make) for name, make in rules.items()}

figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for name, (xs, losses, right) in results.items():
    axes.plot(xs, losses, marker="o", label=f"{name}: {right:.1%} right")
axes.set(xlabel="passes over the documents", ylabel="loss on other documents", xticks=xs)
axes.legend()
plt.show()

# %%
# AdaGrad gives a rare word a high rate until it has been seen a few times, and remembers that it
# has been. RMSProp forgets it between two occurrences, and then takes a step as large as its first
# one.

best = {name: min(losses) for name, (_, losses, _) in results.items()}
assert min(best, key=best.get).startswith("AdaGrad"), best
