"""optax's optimizers under jit, where jax and optax are installed.

Old buffers are donated to new ones.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bench.peers import Peer, Step
from bench.problems import ADAGRAD, ADAM, OUTSIDE, Form, Problem

try:
    import jax
    import optax
except ImportError:
    jax = None

# What optax calls the states.
NAMES = {"square_avg": "nu", "exp_avg": "mu", "exp_avg_sq": "nu", "sum": "sum_of_squares"}


def _make(form: Form) -> Any:
    s = form.settings
    if form is OUTSIDE:
        return optax.rmsprop(s["lr"], decay=s["beta"], eps=s["eps"], eps_in_sqrt=False)
    if form is ADAM:
        return optax.adam(s["lr"], b1=s["beta1"], b2=s["beta2"], eps=s["eps"])
    return optax.adagrad(s["lr"], initial_accumulator_value=0.0, eps=s["eps"])


class _Step:
    """A step in jax's own buffers."""

    def __init__(self, problem: Problem) -> None:
        optimizer = _make(problem.form)
        self._problem = problem
        self._grad = jax.numpy.array(problem.grad)
        self._param = jax.numpy.array(problem.arrays["param"])
        self._state = optimizer.init(self._param)

        def step(param: Any, state: Any, grad: Any) -> tuple[Any, Any]:
            update, state = optimizer.update(grad, state, param)
            return optax.apply_updates(param, update), state

        self._jitted = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self) -> None:
        self._param, self._state = self._jitted(self._param, self._state, self._grad)
        jax.block_until_ready((self._param, self._state))

    def fetch(self) -> None:
        arrays = self._problem.arrays
        for name in arrays:
            value = self._param if name == "param" else getattr(self._state[0], NAMES[name])
            arrays[name] = np.array(value)


def _optax(problem: Problem, threads: int) -> Step | None:
    # XLA takes all cores of the process and cannot be told otherwise while it runs.
    # jax has float64 only where it is told so before it starts.
    if jax is None or problem.grad.dtype != np.float32 or threads != len(os.sched_getaffinity(0)):
        return None
    return _Step(problem) if problem.form in (OUTSIDE, ADAM, ADAGRAD) else None


PEERS: dict[str, Peer] = {"optax": _optax}
