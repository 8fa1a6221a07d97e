"""A small network learns to read handwritten digits: RMSProp beside two older rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastopt
from fastopt import transforms as t
from fastopt.arrays.checks import Array
from fastopt.demo.output import draw, progress, table

BATCH = 64
GOAL = 0.96


class Rule(NamedTuple):
    """An optimizer and its learning rate.

    Of 1, 2 and 5 times the powers of ten, `lr` is the one with the lowest training loss after the
    default number of epochs, on average over the seeds 0, 1 and 2. The test images had no say.
    """

    name: str
    lr: float
    optimizer: Callable[[Array, float], fastopt.Optimizer]


RULES = (
    Rule("gradient descent", 1.0, lambda w, lr: fastopt.Optimizer(w, t.scale_by_learning_rate(lr))),
    Rule(
        "momentum 0.9",
        0.5,
        lambda w, lr: fastopt.Optimizer(w, t.chain(t.trace(0.9), t.scale_by_learning_rate(lr))),
    ),
    Rule("RMSProp", 0.005, lambda w, lr: fastopt.RMSProp(w, lr=lr)),
)


class Digits(NamedTuple):
    """Images as rows of 64 numbers in [0, 1], and which digit each shows."""

    train: Array
    train_labels: Array
    test: Array
    test_labels: Array


class Network:
    """Two layers. All parameters are one flat buffer, and so are all gradients."""

    def __init__(self, inputs: int, hidden: int, outputs: int, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def layer(rows: int, columns: int) -> Array:
            weights = rng.standard_normal((rows, columns), np.float32)
            return weights * np.float32(np.sqrt(2.0 / rows))

        start = {
            "weights1": layer(inputs, hidden),
            "biases1": np.zeros(hidden, np.float32),
            "weights2": layer(hidden, outputs),
            "biases2": np.zeros(outputs, np.float32),
        }
        self.params, self._p = fastopt.flatten(start)
        self.grads, self._g = fastopt.flatten(start)

    def _forward(self, images: Array) -> tuple[Array, Array]:
        hidden = np.maximum(images @ self._p["weights1"] + self._p["biases1"], 0)
        scores = hidden @ self._p["weights2"] + self._p["biases2"]
        scores -= scores.max(axis=1, keepdims=True)
        odds = np.exp(scores)
        return hidden, odds / odds.sum(axis=1, keepdims=True)

    def differentiate(self, images: Array, labels: Array) -> None:
        """Write the gradient of the loss into `grads`."""
        hidden, error = self._forward(images)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        np.matmul(hidden.T, error, out=self._g["weights2"])
        error.sum(axis=0, out=self._g["biases2"])
        back = error @ self._p["weights2"].T * (hidden > 0)
        np.matmul(images.T, back, out=self._g["weights1"])
        back.sum(axis=0, out=self._g["biases1"])

    def loss(self, images: Array, labels: Array) -> float:
        """The mean cross entropy."""
        likely = self._forward(images)[1][np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(likely, np.finfo(np.float32).tiny)).mean())

    def accuracy(self, images: Array, labels: Array) -> float:
        """The share of images that are read correctly."""
        return float((self._forward(images)[1].argmax(axis=1) == labels).mean())


class History(NamedTuple):
    """Before the first epoch and after each one."""

    losses: list[float]
    accuracies: list[float]


def load(seed: int) -> Digits:
    """scikit-learn's 1797 images, a fifth of them kept for the test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    parts: Any = train_test_split(images, labels, test_size=0.2, random_state=seed, stratify=labels)
    train, test, train_labels, test_labels = parts
    return Digits(train, train_labels, test, test_labels)


def train(rule: Rule, data: Digits, hidden: int, epochs: int, seed: int) -> History:
    """The same start and the same batches for every rule."""
    network = Network(data.train.shape[1], hidden, 10, seed)
    optimizer = rule.optimizer(network.params, rule.lr)
    shuffle = np.random.default_rng(seed)
    history = History([], [])

    def record() -> None:
        history.losses.append(network.loss(data.train, data.train_labels))
        history.accuracies.append(network.accuracy(data.test, data.test_labels))

    record()
    for _ in progress(range(epochs), rule.name):
        order = shuffle.permutation(len(data.train))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            network.differentiate(data.train[batch], data.train_labels[batch])
            optimizer.step(network.grads)
        record()
    return history


def _row(rule: Rule, history: History) -> list[str]:
    reached = [epoch for epoch, share in enumerate(history.accuracies) if share >= GOAL]
    return [
        rule.name,
        f"{rule.lr:g}",
        f"{history.losses[-1]:.5f}",
        f"{history.accuracies[-1]:.1%}",
        f"epoch {reached[0]}" if reached else "never",
    ]


def show(hidden: int, epochs: int, seed: int, save: Path | None) -> None:
    """Train with each rule, and print (and draw) how it went."""
    data = load(seed)
    size = Network(data.train.shape[1], hidden, 10, seed).params.size
    print(f"A network of {size:,} parameters learns {len(data.train)} handwritten digits")
    histories = {rule: train(rule, data, hidden, epochs, seed) for rule in RULES}
    header = ["rule", "learning rate", "training loss", "test accuracy", f"{GOAL:.0%} reached"]
    print(table(header, [_row(*item) for item in histories.items()]))
    tested = f"tested on {len(data.test)} other digits"
    print(f"{epochs} epochs in batches of {BATCH}, {tested}, seed {seed}")
    if save:
        curves = {f"{rule.name}, lr {rule.lr:g}": h.losses for rule, h in histories.items()}
        draw(save, curves, f"Learning {len(data.train)} handwritten digits")
        print(f"loss curves: {save}")
