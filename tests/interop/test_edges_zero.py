"""Dialects where the library may divide zero by zero: without epsilon, where gradients are zero."""

import os

import numpy as np
import pytest

import fastopt

# The last element is ordinary; the others never have a gradient, or one whose square is zero.
GRADIENT = np.array([0.0, -0.0, 2.0])
TINY = np.array([0.0, 1e-30, 2.0], np.float32)


def run(opt, w, g):
    for _ in range(3):
        opt.step(g)
    return w


def by_torch(name, settings, start, g):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    p = torch.tensor(start, requires_grad=True)
    optimizer = getattr(torch.optim, name)([p], **settings)
    for _ in range(3):
        p.grad = torch.tensor(g)
        optimizer.step()
    return p.detach().numpy()


def by_optax(name, settings, start, g):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    transform = getattr(optax, name)(**settings)
    p, state = start, transform.init(start)
    for _ in range(3):
        updates, state = transform.update(g, state, p)
        p = optax.apply_updates(p, updates)
    return np.asarray(p)


def by_keras(name, settings, start, g):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    optimizer = getattr(keras.optimizers, name)(**settings)
    variable = keras.Variable(start, dtype=str(start.dtype))
    optimizer.build([variable])
    for _ in range(3):
        optimizer.apply([keras.ops.convert_to_tensor(g)], [variable])
    return keras.ops.convert_to_numpy(variable)


TORCH = {
    "RMSProp": ("RMSprop", {}),
    "centered": ("RMSprop", {"centered": True}),
    "AdaGrad": ("Adagrad", {}),
    "Adam": ("Adam", {}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "NAdam": ("NAdam", {}),
}
OPTAX = {
    "RMSProp": ("rmsprop", {}),
    "outside": ("rmsprop", {"eps_in_sqrt": False}),
    "AdaGrad": ("adagrad", {"initial_accumulator_value": 0.0}),
    "Adam": ("adam", {}),
    "NAdam": ("nadam", {}),
}
KERAS = {
    "RMSProp": ("RMSprop", {}),
    "AdaGrad": ("Adagrad", {"initial_accumulator_value": 0.0}),
    "Adam": ("Adam", {}),
    "NAdam": ("Nadam", {}),
}
KINDS = {"centered": "RMSProp", "outside": "RMSProp", "amsgrad": "Adam"}


def ours(name, dialect, w, **settings):
    return getattr(fastopt, KINDS.get(name, name)).like(dialect, w, **settings)


@pytest.mark.parametrize("name", TORCH)
def test_torch(name):
    theirs, settings = TORCH[name]
    settings = {"lr": 0.1, "eps": 0.0, **settings}
    w = np.ones(3)
    found = run(ours(name, "torch", w, **settings), w, GRADIENT)
    expected = by_torch(theirs, settings, np.ones(3), GRADIENT)
    np.testing.assert_allclose(found, expected, rtol=1e-8)  # NAdam's product is of float32


@pytest.mark.parametrize("name", OPTAX)
@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_optax(name, eps):
    theirs, settings = OPTAX[name]
    settings = {"learning_rate": 0.1, "eps": eps, **settings}
    for g in (GRADIENT.astype(np.float32), TINY):
        w = np.ones(3, np.float32)
        found = run(ours(name, "optax", w, **settings), w, g)
        expected = by_optax(theirs, settings, np.ones(3, np.float32), g)
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # its corrections are of float32


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside Keras
@pytest.mark.parametrize("name", KERAS)
def test_keras(name):
    theirs, settings = KERAS[name]
    settings = {"learning_rate": 0.1, "epsilon": 0.0, **settings}
    g = GRADIENT.astype(np.float32)
    w = np.ones(3, np.float32)
    found = run(ours(name, "keras", w, **settings), w, g)
    expected = by_keras(theirs, settings, np.ones(3, np.float32), g)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
