"""Keras's optimizers on jax under jit, with donated buffers, where both are installed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bench.peers import Peer, Step
from bench.problems import ADAGRAD, ADAM, OUTSIDE, Form, Problem

# The backend is chosen when Keras is imported. jax compiles the whole step; on torch it would be eager.
os.environ.setdefault("KERAS_BACKEND", "jax")
try:
    import jax
    import keras
except ImportError:
    keras = None

# Which of the optimizer's variables are the states, in Keras's words.
NAMES = {
    "square_avg": "velocity",
    "exp_avg": "momentum",
    "exp_avg_sq": "velocity",
    "sum": "accumulator",
}


def _make(form: Form) -> Any:
    s = form.settings
    if form is OUTSIDE:  # inside the root for Keras; the gradients here are far larger than epsilon
        return keras.optimizers.RMSprop(s["lr"], rho=s["beta"], epsilon=s["eps"] ** 2)
    if form is ADAM:
        return keras.optimizers.Adam(s["lr"], beta_1=s["beta1"], beta_2=s["beta2"], epsilon=s["eps"])
    return keras.optimizers.Adagrad(s["lr"], initial_accumulator_value=0.0, epsilon=s["eps"] ** 2)


class _Step:
    """A step in jax's own buffers."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._optimizer = _make(problem.form)
        variable = keras.Variable(problem.arrays["param"])
        self._optimizer.build([variable])
        self._param = [jax.numpy.array(problem.arrays["param"])]
        self._grad = [jax.numpy.array(problem.grad)]
        self._state = [jax.numpy.array(v.value) for v in self._optimizer.variables]

        def step(param: Any, state: Any, grad: Any) -> Any:
            return self._optimizer.stateless_apply(state, grad, param)

        self._jitted = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self) -> None:
        self._param, self._state = self._jitted(self._param, self._state, self._grad)
        jax.block_until_ready((self._param, self._state))

    def fetch(self) -> None:
        arrays = self._problem.arrays
        paths = [variable.path for variable in self._optimizer.variables]
        for name in arrays:
            variable = self._param[0]
            if name != "param":
                variable = self._state[next(i for i, p in enumerate(paths) if NAMES[name] in p)]
            arrays[name] = np.array(variable)


def _keras(problem: Problem, threads: int) -> Step | None:
    # XLA takes all cores of the process and cannot be told otherwise while it runs.
    if keras is None or keras.backend.backend() != "jax" or problem.grad.dtype != np.float32:
        return None
    if threads != len(os.sched_getaffinity(0)):
        return None
    return _Step(problem) if problem.form in (OUTSIDE, ADAM, ADAGRAD) else None


PEERS: dict[str, Peer] = {"keras": _keras}
