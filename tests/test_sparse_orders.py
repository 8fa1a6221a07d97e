"""Every order of dense, sparse and missing gradients under every option, against own formulas."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import fastopt
from tests.subprocesses import needs_jit
from tests.support import COMPILED, EXECUTORS, assert_same_bits, compiled_suite_only

LR = 0.125

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"clip_norm": 3.0},
    "skip": {"skip_nonfinite": True},
    "clip and skip": {"clip_norm": 3.0, "skip_nonfinite": True},
    "clear": {"zero_grad": True},
    "momentum": {"momentum": 0.5},
    "decay": {"weight_decay": 0.25},
    "all": {
        "clip_norm": 3.0,
        "skip_nonfinite": True,
        "zero_grad": True,
        "momentum": 0.5,
        "weight_decay": 0.25,
    },
}

options = pytest.mark.parametrize("name", OPTIONS)
modes = pytest.mark.parametrize("mode", ["exact", "lazy"])
# The norm is summed in blocks of 8192 elements: a dense gradient has two of them, one for each row.
WIDTH = 8192 if COMPILED else 3
WIDTHS = {"serial": WIDTH, "parallel": WIDTH, "reference": 3}
executors = pytest.mark.parametrize("executor", EXECUTORS)


class Expected:
    """Gradient descent as the pages have it, on whole arrays."""

    def __init__(self, params: list[np.ndarray], mode: str, **settings: Any) -> None:
        self.params = [param.copy() for param in params]
        self.momenta = [np.zeros_like(param) for param in params]
        self.lazy, self.settings = mode == "lazy", settings
        self.norm, self.skipped = 0.0, False

    def step(self, grads: list[Any], scale: float) -> None:
        summed = [
            None if g is None else self.whole(g, param)
            for g, param in zip(grads, self.params, strict=True)
        ]
        present = [pair for pair in summed if pair is not None]
        finite = all(np.isfinite(whole).all() for whole, _ in present)
        self.norm = sum(float(np.square(whole / scale).sum()) for whole, _ in present) ** 0.5
        self.skipped = self.settings.get("skip_nonfinite", False) and not finite
        if self.skipped:
            return
        limit = self.settings.get("clip_norm", np.inf)
        factor = limit / self.norm if self.norm > limit else 1.0
        for pair, param, momentum in zip(summed, self.params, self.momenta, strict=True):
            if pair is None:
                continue
            whole, touched = pair
            rows = touched if self.lazy else slice(None)
            g = whole[rows] / scale * factor + self.settings.get("weight_decay", 0.0) * param[rows]
            momentum[rows] = self.settings.get("momentum", 0.0) * momentum[rows] + g
            param[rows] -= LR * momentum[rows]

    @staticmethod
    def whole(grad: Any, param: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(grad, tuple):
            return grad, np.arange(len(param))
        rows, values = grad
        whole = np.zeros_like(param)
        for row, value in zip(rows, values, strict=True):
            whole[row] += value
        return whole, np.unique(rows)


def gradient(kind: str | None, param: np.ndarray, number: int) -> Any:
    """A new gradient of a kind."""
    if kind is None:
        return None
    size = (1 + number) / param.shape[1] ** 0.5  # so that norms are about one, and some above three
    if kind.startswith("dense"):
        drawn = np.full_like(param, size)
        drawn[1] *= 2
    else:
        rows = [np.array([0]), np.array([1, 0, 1]), np.array([1]), np.array([], np.int64)][number % 4]
        values = np.full((rows.size, param.shape[1]), size)
        values[::2] *= -3
        drawn = rows, values
    numbers = drawn[1] if isinstance(drawn, tuple) else drawn
    if kind.endswith("bad") and numbers.size:
        numbers[-1, -1] = np.nan if number % 2 else np.inf
    return drawn


def run(orders: Any, mode: str, executor: str, params: list[np.ndarray], **settings: Any) -> Any:
    """Step through kinds of gradients, and compare with what is expected."""
    expected = Expected(params, mode, **settings)
    single = len(params) == 1
    opt = fastopt.SGD(
        params[0] if single else params, lr=LR, sparse=mode, executor=executor, **settings
    )
    for number, kinds in enumerate(orders):
        grads = [gradient(kind, param, number) for kind, param in zip(kinds, params, strict=True)]
        scale = 1.0 if number % 3 else 4.0
        expected.step(grads, scale)
        opt.step(grads[0] if single else grads, grad_scale=scale)
        if opt.last is not None:
            assert opt.last.skipped == expected.skipped, orders
            if np.isfinite(expected.norm):
                assert np.isclose(opt.last.norm, expected.norm, rtol=1e-12), orders
        if settings.get("zero_grad") and not expected.skipped:
            left = [g[1] if isinstance(g, tuple) else g for g in grads if g is not None]
            assert not any(array.any() for array in left), orders
    shown = [opt.params] if single else opt.params
    for actual, wanted in zip(shown, expected.params, strict=True):
        assert np.allclose(actual, wanted, rtol=1e-12, atol=1e-14), orders
    if "momentum_buffer" in opt.state:
        momenta = opt.state["momentum_buffer"]
        for actual, wanted in zip([momenta] if single else momenta, expected.momenta, strict=True):
            assert np.allclose(actual, wanted, rtol=1e-12, atol=1e-14), orders
    return opt


def start(executor: str, count: int) -> list[np.ndarray]:
    table = np.linspace(-1, 1, 2 * WIDTHS[executor]).reshape(2, -1)
    head = np.linspace(1, 2, 10).reshape(2, 5)
    return [table, head][:count]


def kinds_for(name: str) -> list[str]:
    return ["dense", "sparse"] + (
        ["dense bad", "sparse bad"] if "skip_nonfinite" in OPTIONS[name] else []
    )


@options
@modes
@executors
def test_one_array(name: str, mode: str, executor: str) -> None:
    kinds = kinds_for(name)
    for order in product(kinds, repeat=3 if len(kinds) == 2 else 2):
        run(
            [(kind,) for kind in (*order, "dense")], mode, executor, start(executor, 1), **OPTIONS[name]
        )


SOME = [(name, "serial") for name in OPTIONS] + [("all", "parallel"), ("all", "reference")]


@compiled_suite_only
@pytest.mark.parametrize(("name", "executor"), SOME)
@modes
def test_two_arrays(name: str, mode: str, executor: str) -> None:
    kinds = list(product(["dense", "sparse", None], repeat=2))
    for order in product(kinds, repeat=2):
        whole = (*order, ("sparse", "dense"), ("dense", "dense"))
        run(whole, mode, executor, start(executor, 2), **OPTIONS[name])


@needs_jit
@modes
@pytest.mark.parametrize("name", ["clip", "all"])
def test_compiled_and_reference_have_the_same_bits(name: str, mode: str) -> None:
    for order in product(["dense", "sparse", None], repeat=3):
        params = [[np.linspace(-1, 1, 6).reshape(2, 3), np.ones((2, 5))] for _ in range(2)]
        kinds = [(kind, "dense") for kind in order]
        for executor, arrays in zip(("serial", "reference"), params, strict=True):
            run(kinds, mode, executor, arrays, **OPTIONS[name])
        for one, other in zip(*params, strict=True):
            assert_same_bits(one, other)


@needs_jit
@modes
@pytest.mark.parametrize("executor", ["serial", "parallel"])
@pytest.mark.parametrize("rows", [2, 100_000])
def test_a_dense_norm_after_a_sparse_one(mode: str, executor: str, rows: int) -> None:
    """A sparse gradient left a shorter buffer behind, which the sums of a dense one were written to."""
    width = 8192 if rows == 2 else 8
    w = np.zeros((rows, width))
    opt = fastopt.SGD(w, lr=1.0, sparse=mode, clip_norm=1.0, executor=executor)
    opt.step((np.array([0]), np.ones((1, width))))
    g = np.zeros_like(w)
    g[-1] = 6 / width**0.5
    w[:] = 0
    opt.step(g)
    assert np.isclose(opt.last.norm, 6, rtol=1e-14)
    assert np.isclose(np.linalg.norm(w), 1, rtol=1e-14)


@needs_jit
@modes
@pytest.mark.parametrize("executor", ["serial", "parallel"])
def test_a_nan_behind_the_first_block_is_seen(mode: str, executor: str) -> None:
    w = np.zeros((2, 8192))
    opt = fastopt.SGD(w, lr=1.0, sparse=mode, skip_nonfinite=True, executor=executor)
    opt.step((np.array([0]), np.zeros((1, 8192))))
    g = np.zeros_like(w)
    g[1, -1] = np.nan
    opt.step(g)
    assert opt.last.skipped
    assert not np.isnan(w).any()
