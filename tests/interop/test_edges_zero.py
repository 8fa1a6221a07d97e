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
    reference, settings = TORCH[name]
    settings = {"lr": 0.1, "eps": 0.0, **settings}
    w = np.ones(3)
    actual = run(ours(name, "torch", w, **settings), w, GRADIENT)
    expected = by_torch(reference, settings, np.ones(3), GRADIENT)
    np.testing.assert_allclose(actual, expected, rtol=1e-8)  # NAdam's product is of float32


@pytest.mark.parametrize("name", OPTAX)
@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_optax(name, eps):
    reference, settings = OPTAX[name]
    settings = {"learning_rate": 0.1, "eps": eps, **settings}
    for g in (GRADIENT.astype(np.float32), TINY):
        w = np.ones(3, np.float32)
        actual = run(ours(name, "optax", w, **settings), w, g)
        expected = by_optax(reference, settings, np.ones(3, np.float32), g)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)  # its corrections are of float32


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside Keras
@pytest.mark.parametrize("name", KERAS)
def test_keras(name):
    reference, settings = KERAS[name]
    settings = {"learning_rate": 0.1, "epsilon": 0.0, **settings}
    g = GRADIENT.astype(np.float32)
    w = np.ones(3, np.float32)
    actual = run(ours(name, "keras", w, **settings), w, g)
    expected = by_keras(reference, settings, np.ones(3, np.float32), g)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("RMSprop", {"eps": 1e-50}, "eps"),
        ("Adam", {"betas": (0.9, 1 - 1e-9)}, "beta2"),
        ("SGD", {"momentum": 1e-60}, "momentum"),
        ("Adagrad", {"weight_decay": 1e-50}, "weight_decay"),
    ],
)
def test_constants_that_vanish_are_refused_for_tensors_too(name, settings, named):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fastopt.interop import torch as fast

    kind = getattr(fast, name)
    with pytest.raises(ValueError, match=named):
        kind([torch.zeros(3)], **settings)
    if named != "beta2":
        kind([torch.zeros(3, dtype=torch.float64)], **settings)
    opt = kind([torch.zeros(3)])
    with pytest.raises(ValueError, match=named):
        opt.add_param_group({"params": [torch.zeros(2)], **settings})
    assert len(opt.param_groups) == 1


def test_a_rate_that_decays_to_zero_is_none_of_them():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fastopt.interop import torch as fast

    w = torch.ones(3)
    opt = fast.SGD([w], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=1e-60)
    for _ in range(3):
        w.grad = torch.ones(3)
        opt.step()
        scheduler.step()
    opt.add_param_group({"params": [v := torch.ones(2)]})  # which takes another plan
    v.grad = torch.ones(2)
    opt.step()
    assert w.tolist() == [0.0] * 3
    assert v.tolist() == [0.0] * 2
