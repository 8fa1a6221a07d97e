"""A small model of a small text: from a few characters, which is the next?

An embedding and one hidden layer. All parameters are one flat buffer, and so are all gradients, as in
the demo's network for digits.
"""

import functools
from pathlib import Path

import numpy as np

import fastopt

CONTEXT, WIDTH, HIDDEN = 4, 16, 128


@functools.cache
def text():
    """Each stretch of `CONTEXT` characters as numbers, the one behind it, and how many there are."""
    letters = (Path(__file__).parent / "harbour.txt").read_text("utf-8").replace("\n", " ")
    alphabet, numbers = np.unique(list(letters), return_inverse=True)
    windows = np.lib.stride_tricks.sliding_window_view(numbers, CONTEXT + 1)
    return windows[:, :-1], windows[:, -1], len(alphabet)


class Model:
    def __init__(self, letters, seed):
        rng = np.random.default_rng(seed)

        def layer(rows, columns):
            return rng.standard_normal((rows, columns), np.float32) * np.float32(rows**-0.5)

        start = {
            "embedding": layer(letters, WIDTH) * np.float32(letters**0.5),
            "hidden": layer(CONTEXT * WIDTH, HIDDEN),
            "biases": np.zeros(HIDDEN, np.float32),
            "output": layer(HIDDEN, letters),
            "output_biases": np.zeros(letters, np.float32),
        }
        self.params, self._p = fastopt.flatten(start)
        self.grads, self._g = fastopt.flatten(start)

    def _forward(self, contexts):
        p = self._p
        embedded = p["embedding"][contexts].reshape(len(contexts), -1)
        hidden = np.tanh(embedded @ p["hidden"] + p["biases"])
        scores = hidden @ p["output"] + p["output_biases"]
        scores -= scores.max(axis=1, keepdims=True)
        odds = np.exp(scores)
        return embedded, hidden, odds / odds.sum(axis=1, keepdims=True)

    def differentiate(self, contexts, following):
        """Write the gradient of the loss into `grads`."""
        p, g = self._p, self._g
        embedded, hidden, error = self._forward(contexts)
        error[np.arange(len(following)), following] -= 1
        error /= len(following)
        back = (error @ p["output"].T) * (1 - hidden * hidden)
        np.matmul(hidden.T, error, out=g["output"])
        error.sum(axis=0, out=g["output_biases"])
        np.matmul(embedded.T, back, out=g["hidden"])
        back.sum(axis=0, out=g["biases"])
        g["embedding"][...] = 0
        np.add.at(g["embedding"], contexts, (back @ p["hidden"].T).reshape(*contexts.shape, WIDTH))

    def loss(self, contexts, following):
        """The mean cross entropy."""
        likely = self._forward(contexts)[2][np.arange(len(following)), following]
        return float(-np.log(likely).mean())
