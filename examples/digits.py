"""
A network that reads digits
===========================

A network with one hidden layer learns scikit-learn's 1797 handwritten digits. All its weights are
one flat buffer, so the whole network is one step; the gradient is written by hand, in NumPy.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastopt

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train, test, train_labels, test_labels = train_test_split(
    images, labels, test_size=0.25, random_state=0, stratify=labels
)

# %%
# The network
# -----------
# ``flatten`` puts many arrays into one buffer and gives back windows on it. Reading and writing go
# through the windows, the optimizer sees one array.

rng = np.random.default_rng(0)
start = {
    "w1": rng.normal(0, np.sqrt(2 / 64), (64, 64)).astype(np.float32),
    "b1": np.zeros(64, np.float32),
    "w2": rng.normal(0, np.sqrt(2 / 64), (64, 10)).astype(np.float32),
    "b2": np.zeros(10, np.float32),
}


def forward(p, x):
    hidden = np.maximum(x @ p["w1"] + p["b1"], 0)
    scores = hidden @ p["w2"] + p["b2"]
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, odds / odds.sum(axis=1, keepdims=True)


def differentiate(p, g, x, y):
    """Write the gradient of the mean cross entropy into `g`, and return the loss."""
    hidden, likely = forward(p, x)
    rows = np.arange(len(y))
    loss = -np.log(likely[rows, y]).mean()
    likely[rows, y] -= 1
    likely /= len(y)
    np.matmul(hidden.T, likely, out=g["w2"])
    likely.sum(axis=0, out=g["b2"])
    back = likely @ p["w2"].T * (hidden > 0)
    np.matmul(x.T, back, out=g["w1"])
    back.sum(axis=0, out=g["b1"])
    return loss


# %%
# Three rules, the same start and the same batches
# ------------------------------------------------


def fit(make, epochs=30, batch=64):
    weights, params = fastopt.flatten(start)
    gradient, grads = fastopt.flatten(start)
    opt = make(weights)
    shuffle = np.random.default_rng(1)
    losses = []
    for _ in range(epochs):
        order = shuffle.permutation(len(train))
        batches = [order[i : i + batch] for i in range(0, len(order), batch)]
        total = 0.0
        for rows in batches:
            total += differentiate(params, grads, train[rows], train_labels[rows])
            opt.step(gradient)
        losses.append(total / len(batches))
    right = (forward(params, test)[1].argmax(axis=1) == test_labels).mean()
    return losses, right


rules = {
    "gradient descent, lr 0.5": lambda w: fastopt.SGD(w, lr=0.5),
    "RMSProp, lr 0.003": lambda w: fastopt.RMSProp(w, lr=0.003),
    "AdamW, lr 0.005": lambda w: fastopt.AdamW(w, lr=0.005),
}
results = {name: fit(make) for name, make in rules.items()}

figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for name, (losses, right) in results.items():
    axes.semilogy(losses, label=f"{name}: {right:.1%} of the test digits")
axes.set(xlabel="epoch", ylabel="training loss")
axes.legend()
plt.show()

# %%
assert all(right > 0.95 for _, right in results.values())
