"""Schedule-free optimizers, and evaluating with the average that an optimizer keeps."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests.lines import interrupted_at
from tests.oracles import adam, rmsprop, sgd
from tests.refusals import everywhere, refusal
from tests.support import assert_same_bits, assert_same_run, in_dtypes, problem


def warming(step):
    return 0.1 * min(1.0, (step + 1) / 3)


def from_zero(step):
    return 0.02 * step


class InPrint:
    """Three sequences, as in the reference of the authors' code: z steps by gradients at y."""

    def __init__(self, base, w, beta, r=0.0, power=2.0):
        self.base, self.beta, self.r, self.power = base, beta, r, power
        self.x = self.y = self.z = w
        self.state, self.largest, self.total = {}, 0.0, 0.0

    def step(self, t, g, *, lr, **settings):
        moved, self.state = self.base(self.y, g, self.state, t, lr=lr, **settings)
        self.z = self.z - (self.y - moved)
        self.largest = max(self.largest, lr)
        weight = (t + 1) ** self.r * self.largest**self.power
        self.total += weight
        c = weight / self.total if self.total else 0.0
        self.x = (1 - c) * self.x + c * self.z
        self.y = self.beta * self.x + (1 - self.beta) * self.z


CASES = {
    "sgd": (fastopt.SGD, sgd, {"lr": 1e-3}),
    "adam": (fastopt.Adam, adam, {"lr": warming, "beta1": 0.0}),
    "adamw": (
        fastopt.AdamW,
        adam,
        {"lr": from_zero, "beta1": 0.0, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "rmsprop": (
        fastopt.RMSProp,
        rmsprop,
        {"lr": 0.03, "maximize": True, "clip_value": 2.0, "weight_decay": 0.1, "momentum": 0.5},
    ),
}


@pytest.mark.parametrize("beta", [0.9, 1.0])
@pytest.mark.parametrize(("case", "dtype"), in_dtypes(CASES, ["adamw", "rmsprop"]))
@everywhere
def test_in_print(executor, dtype, case, beta):
    kind, base, settings = case
    w, grads = problem(35, dtype, 6)
    oracle = InPrint(base, w.astype(np.float64), beta)
    opt = kind(w, **settings, schedule_free=beta, executor=executor)
    rtol = 3e-5 if dtype == np.float32 else 1e-13
    for step, g in enumerate(grads):
        opt.step(g)
        now = {k: value(step) if callable(value) else value for k, value in settings.items()}
        oracle.step(step, g.astype(np.float64), **now)
        for actual, exact in (
            (w, oracle.y),
            (opt.state["z"], oracle.z),
            (opt.averaged_params(), oracle.x),
        ):
            np.testing.assert_allclose(actual, exact, rtol=rtol, atol=rtol * 10)


@everywhere
def test_weights(executor):
    """Powers of the step and of the largest rate, in a chain of one's own."""
    w, grads = problem(35, np.float64, 6)
    oracle = InPrint(sgd, w.copy(), 0.5, r=2.0, power=1.0)
    averaged = t.schedule_free(0.5, warming, r=2.0, weight_lr_power=1.0)
    opt = fastopt.Optimizer(w, t.chain(t.scale_by_learning_rate(warming), averaged), executor=executor)
    for step, g in enumerate(grads):
        opt.step(g)
        oracle.step(step, g, lr=warming(step))
        np.testing.assert_allclose(opt.averaged_params(), oracle.x, rtol=1e-12, atol=1e-12)


def test_arrays_left_out_and_long_runs():
    """Arrays that lag have shares of their own steps, and shares are found again from any step."""
    w = [np.ones(3), np.ones(3)]
    opt, alone = (fastopt.SGD(p, lr=warming, schedule_free=0.8) for p in (w, np.ones(3)))
    for step in range(300):
        opt.step([np.full(3, 0.1), None if step % 2 else np.full(3, 0.1)])
        if step % 2 == 0:
            alone.step(np.full(3, 0.1))
    assert_same_bits(w[1], alone.params)
    shares = t.schedule_free(0.9, warming).hyper
    late = [shares(step) for step in (5, 400, 7, 399, 400)]
    assert late == [t.schedule_free(0.9, warming).hyper(step) for step in (5, 400, 7, 399, 400)]


@pytest.mark.parametrize("mode", ["exact", "lazy"])
def test_sparse(mode):
    """The interpolation is linear, so that rows without a gradient are brought up to date exactly."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(20, 3))
    opt = fastopt.SGD(w, lr=0.1, schedule_free=0.9, sparse=mode)
    dense = fastopt.SGD(w.copy(), lr=0.1, schedule_free=0.9)
    for _ in range(5):
        rows = np.sort(rng.choice(20, 4, replace=False)) if mode == "exact" else np.arange(20)
        values = rng.normal(size=(len(rows), 3))
        full = np.zeros((20, 3))
        full[rows] = values
        opt.step((rows, values))
        dense.step(full)
    np.testing.assert_allclose(opt.averaged_params(), dense.averaged_params(), rtol=1e-12)
    np.testing.assert_allclose(opt.params, dense.params, rtol=1e-12)


AVERAGES = {
    "schedule_free": (fastopt.AdamW, {"lr": 0.1, "schedule_free": 0.9}),
    "average_decay": (fastopt.RMSProp, {"average_decay": 0.5}),
    "ASGD": (fastopt.ASGD, {"t0": 1.0}),
    "both": (fastopt.DoG, {"schedule_free": 0.9, "average_decay": 0.5}),
}


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize(
    ("dtype", "state_dtype"), [(np.float16, None), (np.float32, "8bit"), (np.float64, None)]
)
def test_exchange(name, dtype, state_dtype):
    """`averaged` puts in place what `averaged_params` returns, and takes it away again."""
    kind, settings = AVERAGES[name]
    drawn = [problem(shape, dtype, 3) for shape in ((4, 5), ())]
    params = {"a": drawn[0][0], "b": [drawn[1][0]]}
    # The exchange is plain Python; in one of the formats machine code steps before and after it.
    executor = "auto" if dtype == np.float64 else "reference"
    opt = kind(params, **settings, state_dtype=state_dtype, executor=executor)
    for k in range(3):
        opt.step({"a": drawn[0][1][k], "b": [drawn[1][1][k]]})
    known, average = copy.deepcopy(params), opt.averaged_params()
    state = "z" if name == "schedule_free" else "ax" if name == "ASGD" else "average"
    if name != "schedule_free":
        assert_same_bits(average["a"], opt.decoded(state)["a"].astype(dtype))
    with opt.averaged():
        assert_same_bits(params["a"], average["a"])
        assert_same_bits(params["b"][0], average["b"][0])
        for refused in (
            lambda: opt.step(params),
            opt.state_dict,
            lambda: copy.copy(opt),
            lambda: pickle.dumps(opt),
            opt.averaged_params,
        ):
            with pytest.raises(RuntimeError, match="averaged"):
                refused()
    assert_same_bits(params["a"], known["a"])
    assert_same_bits(params["b"][0], known["b"][0])
    opt.step({"a": drawn[0][1][0], "b": [drawn[1][1][0]]})
    assert opt.step_count == 4


def test_left_by_an_error():
    w = np.ones(3)
    opt = fastopt.SGD(w, lr=0.5, average_decay=0.5)
    opt.step(np.ones(3))
    saved = opt.state_dict()
    with pytest.raises(RuntimeError, match="averaged"), opt.averaged():
        opt.load_state_dict(saved)
    np.testing.assert_array_equal(w, 0.5)
    words = ["inside `with opt.averaged()`", "step", "after this block"]
    with refusal(RuntimeError, words), opt.averaged():
        opt.step(np.ones(3))
    opt.step(np.ones(3))


def test_interrupted_anywhere_the_parameters_come_back():
    """Also on the way back: the copies that were kept of them are the only ones."""
    params = [np.ones(2), np.ones(3)]
    opt = fastopt.SGD(params, lr=0.5, average_decay=0.5)
    opt.step([np.ones(2), np.ones(3)])

    def exchange():
        with opt.averaged():
            pass

    line = 1
    while interrupted_at(line, exchange):
        assert [p.tolist() for p in params] == [[0.5] * 2, [0.5] * 3]
        assert opt.averaged_params()[0].tolist() == [0.75] * 2
        line += 1
    assert line > 20


def test_groups_of_which_one_has_an_average():
    params = np.ones(2), np.ones(2)
    groups = [{"params": params[0], "average_decay": 0.5}, {"params": params[1]}]
    opt = fastopt.SGD(groups, lr=0.5)
    opt.step([np.ones(2), np.ones(2)])
    np.testing.assert_array_equal(opt.averaged_params(), [[0.75, 0.75], [0.5, 0.5]])


def test_one_shot():
    w, grads = problem(9, np.float64, 3)
    opt = fastopt.RMSProp(w.copy(), schedule_free=0.9)
    states = {name: state.copy() for name, state in opt.state.items()}
    for step, g in enumerate(grads):
        opt.step(g)
        fastopt.rmsprop_step(w, g, **states, step=step, schedule_free=0.9)
    assert_same_bits(w, opt.params)


def test_minimize_and_scipy():
    scipy = pytest.importorskip("scipy.optimize")
    start = np.array([4.0, -2.0])
    for settings in ({"optimizer": "sgd", "lr": 0.3, "schedule_free": 0.9}, {"optimizer": "prodigy"}):
        result = fastopt.minimize(lambda x: (x @ x, 2 * x), start, maxiter=400, **settings)
        assert abs(result.x).max() < 0.05, settings
    from fastopt.interop.scipy import dog

    result = scipy.minimize(
        lambda x: x @ x, start, jac=lambda x: 2 * x, method=dog, options={"maxiter": 400}
    )
    assert abs(result.x).max() < 0.05


def test_checkpoints_go_on():
    runs = [fastopt.Adam(np.ones(5), lr=warming, beta1=0.0, schedule_free=0.9) for _ in range(2)]
    for _ in range(4):
        runs[0].step(np.ones(5))
    params = runs[0].params.copy()
    other = fastopt.Adam(params, lr=warming, beta1=0.0, schedule_free=0.9)
    other.load_state_dict(runs[0].state_dict())
    for opt in runs[0], other:
        opt.step(np.full(5, 2.0))
    assert_same_run(runs[0], other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule_free": 0.0}, ["schedule_free", "(0, 1]", "0.0"]),
        ({"schedule_free": 1.5}, ["schedule_free", "(0, 1]", "1.5"]),
        ({"schedule_free": 0.9, "bounds": (0.0, 1.0)}, ["bounds", "schedule_free"]),
    ],
)
def test_refusals(settings, words):
    with refusal(ValueError, words):
        fastopt.SGD(np.ones(2), **settings)


def test_other_refusals():
    with refusal(TypeError, ["schedule_free", "number"]):
        fastopt.SGD(np.ones(2), schedule_free="yes")
    for call in (
        fastopt.SGD(np.ones(2)).averaged_params,
        fastopt.SGD(np.ones(2)).averaged().__enter__,
    ):
        with refusal(ValueError, ["SGD", "average_decay", "schedule_free"]):
            call()
    opt = fastopt.SGD(np.ones(2), schedule_free=0.5)
    with pytest.raises(AttributeError, match="schedule_free is fixed"):
        opt.schedule_free = 0.6
