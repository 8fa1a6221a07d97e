"""``lr="auto"``: the rule against its definition, and everything that other learning rates can do."""

import math
import pickle
from decimal import Decimal, localcontext

import ml_dtypes
import numpy as np
import pytest

import fastopt
from fastopt import schedules
from fastopt import transforms as t
from fastopt.transforms.automatic import exponential, power
from tests.refusals import refusal
from tests.support import COMPILED, EXECUTORS, assert_same_bits

STEPS = 130 if COMPILED else 40


class Rule:
    """The rate of a step from the docstring, typed once more, for all arrays of a list."""

    def __init__(self, arrays, factor, by_gradient=False):
        self.trend = [np.zeros_like(w) for w in arrays]
        self.factor, self.by_gradient = factor, by_gradient
        self.t, self.spread, self.mean = 0, 0.0, 0.0

    def at(self, arrays, grads):
        size = np.sqrt(np.mean(np.concatenate([w.ravel() for w in arrays]) ** 2))
        h = max(120, self.t / 10)
        if self.t == 0:
            self.bound = self.rate = 1e-4 * (1 + size)
        else:
            agreement = sum((g * e).sum() for g, e in zip(grads, self.trend, strict=True))
            self.spread = 0.95 * self.spread + 0.05 * abs(agreement)
            signal = agreement / self.spread * (1 - 0.95**self.t)
            self.rate *= np.exp(max(1 / h, 0.3 / (1 + self.t / 20)) * np.clip(signal, -0.85, 1))
        self.bound = max(self.bound, size)
        self.rate = min(self.rate, self.bound)
        self.mean = 0.5 * self.mean + 0.5 * np.mean(np.concatenate([g.ravel() for g in grads]) ** 2)
        return self.factor(self.t) * self.rate / (np.sqrt(self.mean) if self.by_gradient else 1)

    def follow(self, directions):
        h = max(120, self.t / 10)
        self.trend = [(1 - 1 / h) * e + u for e, u in zip(self.trend, directions, strict=True)]
        self.t += 1


def arrays_of(size, dtype=np.float64):
    rng = np.random.default_rng(size)
    return [rng.normal(size=size).astype(dtype), rng.normal(size=(2, 3)).astype(dtype)]


def gradients(arrays, rng):
    return [(w - 0.5 + 0.3 * rng.normal(size=w.shape)).astype(w.dtype) for w in arrays]


@pytest.mark.parametrize("kind", ["rmsprop", "sgd", "adamw"])
def test_the_rule_is_that_of_its_docstring(kind):
    """With decay, momentum, clipping and a factor, to 1e-10: sums are added up in another order."""
    factor = schedules.polynomial(1.0, 0.5, 100)
    lr, sizes = fastopt.auto(factor), (1, 17, 257) if COMPILED else (17,)
    for size in sizes:
        ours, arrays, rng = arrays_of(size), arrays_of(size), np.random.default_rng(3)
        if kind == "rmsprop":
            settings = {"momentum": 0.5, "beta": 0.8, "weight_decay": 0.02, "clip_value": 0.7}
            opt = fastopt.RMSProp(ours, lr, **settings)
        elif kind == "sgd":
            opt = fastopt.SGD(ours, lr, momentum=0.7, maximize=True, clip_norm=2.0)
        else:
            opt = fastopt.AdamW(ours, lr, beta1=0.8, beta2=0.99, weight_decay=0.1)
        rule = Rule(arrays, factor, by_gradient=kind == "sgd")
        first, second = ([np.zeros_like(w) for w in arrays] for _ in range(2))
        for step in range(STEPS):
            grads = gradients(arrays, rng)
            opt.step([-g for g in grads] if kind == "sgd" else grads)
            if kind == "rmsprop":
                grads = [np.clip(g, -0.7, 0.7) + 0.02 * w for g, w in zip(grads, arrays, strict=True)]
                second = [0.8 * v + 0.2 * g * g for v, g in zip(second, grads, strict=True)]
                units = [g / np.sqrt(v + 1e-8) for g, v in zip(grads, second, strict=True)]
                first = units = [0.5 * b + u for b, u in zip(first, units, strict=True)]
            elif kind == "sgd":
                norm = np.sqrt(sum((g**2).sum() for g in grads))
                grads = [g * min(1, 2.0 / norm) for g in grads]
                first = units = [0.7 * b + g for b, g in zip(first, grads, strict=True)]
            else:
                first = [0.8 * m + 0.2 * g for m, g in zip(first, grads, strict=True)]
                second = [0.99 * v + 0.01 * g * g for v, g in zip(second, grads, strict=True)]
                units = [
                    m / (1 - 0.8 ** (step + 1)) / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-8)
                    + 0.1 * w
                    for m, v, w in zip(first, second, arrays, strict=True)
                ]
            rate = rule.at(arrays, grads)
            for w, u in zip(arrays, units, strict=True):
                w -= rate * u
            rule.follow(units)
            assert math.isclose(opt.current("lr"), rate, rel_tol=1e-10)
        for actual, expected in zip(ours, arrays, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(opt.state["trend"][1], rule.trend[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("state_dtype", [None, "float16", ml_dtypes.bfloat16, {"trend": "8bit"}])
def test_executors_give_the_same_bits(state_dtype):
    size = 4099 if COMPILED else 65
    ends = []
    for executor in EXECUTORS:
        w, rng = np.linspace(-1, 2, size, dtype=np.float32), np.random.default_rng(0)
        opt = fastopt.RMSProp(w, lr="auto", state_dtype=state_dtype, executor=executor)
        for _ in range(20):
            opt.step((w - 0.5 + rng.normal(size=size) / 9).astype(np.float32))
        ends.append((w, opt.state["trend"], np.float64(opt.current("lr"))))
    for end in ends[1:]:
        for one, other in zip(end, ends[0], strict=True):
            assert_same_bits(np.asarray(one), np.asarray(other))
    assert ends[0][2] > 1e-3


def test_power_and_exponential_of_the_rule():
    """To what the names promise, against 50 digits."""
    base = Decimal.from_float(0.95)
    with localcontext(prec=50):
        for x in np.linspace(-0.3, 0.3, 999).tolist():
            assert abs(Decimal(exponential(x)) - Decimal(x).exp()) < Decimal(math.ulp(math.exp(x)))
        for exponent in range(900):
            error = Decimal(power(0.95, float(exponent))) - base**exponent
            assert abs(error) < Decimal(2) ** -51
    assert power(0.95, 1e5) == 0.0
    assert exponential(0.0) == 1.0


def test_groups_have_factors_and_rates_of_their_own():
    first, second, third = (np.full(5, float(i)) for i in (1, 2, 3))
    opt = fastopt.RMSProp(
        [
            {"params": first},
            {"params": second, "lr": fastopt.auto(0.1)},
            {"params": third, "lr": 0.25, "beta": 0.5},
        ],
        lr="auto",
    )
    plain = np.full(5, 3.0)
    other = fastopt.RMSProp(plain, lr=0.25, beta=0.5)
    for _ in range(30):
        opt.step([first - 0.5, second.copy(), third.copy()])
        other.step(plain.copy())
    assert_same_bits(third, plain)
    shared = opt.current("lr")
    assert shared == opt.groups[0].current("lr") > 1e-2
    assert opt.groups[1].current("lr") == 0.1 * shared
    assert opt.groups[2].current("lr") == 0.25
    opt.step([None, second.copy(), third.copy()])  # the trend of the first stays, as all of its states
    assert opt.groups[1].current("lr") != 0.1 * shared


def test_runs_that_are_resumed_give_the_same_bits(tmp_path):
    def run(opt, w, first, last):
        for step in range(first, last):
            opt.step(w - 0.5 + np.random.default_rng(step).normal(size=9))

    def make(lr="auto"):
        w = np.linspace(0, 1, 9)
        return w, fastopt.Adam(w, lr)

    w, opt = make()
    run(opt, w, 0, 10)
    opt.save(tmp_path / "file", params=True)
    copies = [pickle.loads(pickle.dumps(opt))]
    run(opt, w, 10, 20)
    _, loaded = make(fastopt.auto(1.0))
    loaded.load(tmp_path / "file")
    for copy in (copies[0], loaded):
        run(copy, copy.params, 10, 20)
        assert_same_bits(copy.params, w)
        assert copy.current("lr") == opt.current("lr")
    _, number = make(0.1)
    with refusal(ValueError, ["transforms"]):
        number.load(tmp_path / "file")


def test_a_number_ends_it_and_auto_continues():
    w, v = np.linspace(0, 1, 9), np.zeros(9)
    opt = fastopt.RMSProp(w, lr="auto")
    for _ in range(30):
        opt.step(w - 0.5)
    rate, trend = opt.current("lr"), opt.state["trend"].copy()
    plain = fastopt.RMSProp(v, lr=schedules.exponential(1e-3, 0.9))
    v[...] = w
    plain.state["square_avg"][...] = opt.state["square_avg"]
    for step in range(3):
        opt.lr = 1e-3 if step == 0 else schedules.constant(1e-3 * 0.9**step)
        assert opt.lr == 1e-3 or step
        assert opt.current("lr") == 1e-3 * 0.9**step
        opt.step(w - 0.5)
        plain.step(v - 0.5)
        np.testing.assert_allclose(w, v, rtol=1e-14)
    copy = pickle.loads(pickle.dumps(opt))
    for each in (opt, copy):
        each.lr = "auto"
        assert each.current("lr") == rate
        each.step(each.params - 0.5)
        assert 0 < abs(each.current("lr") / rate - 1) < 0.4
    assert (opt.state["trend"] != trend).any()
    assert_same_bits(copy.params, opt.params)
    with refusal(TypeError, ["lr must be a number", "None"]):
        opt.lr = None
    assert opt.lr == "auto"
    with refusal(ValueError, ["lr = 'auto'", "make a new optimizer"]):
        plain.lr = "auto"
    with refusal(TypeError, ["lr must be a number >= 0", "None"]):
        opt.lr = None
    assert opt.lr == "auto"


def test_what_is_not_finite():
    w = np.ones(4)
    opt = fastopt.RMSProp(w, lr="auto", skip_nonfinite=True)
    assert math.isnan(opt.current("lr"))
    for step in range(10):
        opt.step(np.full(4, np.inf) if step == 3 else w.copy())
    assert opt.step_count == 9
    assert 0 < opt.current("lr") < 1
    overflowing = fastopt.SGD(np.ones(4, np.float32), lr="auto")
    with np.errstate(all="ignore"):
        for _ in range(3):
            overflowing.step(np.full(4, 1e38, np.float32))
    assert np.isfinite(overflowing.params).all()
    w = np.ones(4)
    opt = fastopt.SGD(w, lr="auto")
    for step in range(6):
        previous = w.copy()
        opt.step(np.array([np.nan if step == 2 else 0.5, 1.0, 1.0, 1.0]))
        assert (w[1:] < previous[1:]).all()  # one NaN does not end the others' steps
    w = np.array([np.inf, 1.0])
    opt = fastopt.SGD(w, lr="auto")
    opt.step(np.ones(2))
    assert 0 < opt.current("lr") < 1e-3
    assert 0.999 < w[1] < 1


def test_steps_of_small_or_zero_arrays_do_not_take_the_rate_from_the_others():
    for start in (0.0, 1e-3):
        large, small = np.full(5, 4.0), np.full(3, start)
        opt = fastopt.RMSProp([large, small], lr="auto")
        for _ in range(STEPS):
            opt.step([np.ones(5), None])
        previous = opt.current("lr")
        assert previous > 0.002
        for _ in range(2):
            opt.step([None, np.zeros(3)])
        assert opt.current("lr") > 0.5 * previous


@pytest.mark.parametrize("kind", [fastopt.RMSProp, fastopt.SGD])
def test_steps_without_gradients_leave_the_rate(kind):
    (opt, same), arrays = (kind([np.full(9, 3.0)], lr="auto") for _ in range(2)), np.full(9, 1e3)
    opt.step([None])
    assert math.isnan(opt.current("lr"))
    for _ in range(30):
        opt.step([opt.params[0] - arrays])
        same.step([same.params[0] - arrays])
        opt.step([None])
        assert opt.current("lr") == same.current("lr")
    assert_same_bits(opt.params[0], same.params[0])


def test_it_is_near_the_best_constant_rate():
    """A small one of the problems in `bench.automatic_rate`: a noisy quadratic."""
    curvatures, steps = np.geomspace(0.1, 10, 20), 300 if COMPILED else 120
    losses = {}
    for lr in ("auto", 1e-3, 3e-3, 1e-2, 3e-2, 0.1):
        w, rng = np.ones(20), np.random.default_rng(0)
        opt = fastopt.RMSProp(w, lr)
        for _ in range(steps):
            opt.step(curvatures * w + 0.3 * rng.normal(size=20))
        losses[lr] = (curvatures * w**2).sum()
    automatic, first = losses.pop("auto"), curvatures.sum()
    assert first - automatic > 0.98 * (first - min(losses.values()))


def test_minibatches_of_minimize():
    def noisy(x, rng, out):
        out[:] = x - 3 + rng.normal(size=x.size)
        return float(x @ x)

    result = fastopt.minimize(noisy, np.zeros(5), lr="auto", maxiter=400, seed=0)
    np.testing.assert_allclose(result.x, 3, atol=0.5)


def test_where_it_is_not():
    w = np.ones((3, 3))
    transforms = {
        "LAMB": "scale_by_trust_ratio",
        "LARS": "scale_by_trust_ratio",
        "ASGD": "",
        "Rprop": "",
    }
    transforms |= {"Prodigy": "scale_by_prodigy", "DoG": "scale_by_dog"}
    for kind, transform in transforms.items():
        with refusal(ValueError, ["lr must be", kind, "'auto'", transform]):
            getattr(fastopt, kind)(w, lr="auto")
    with refusal(TypeError, ["lr must be", "'fast'"]):
        fastopt.RMSProp(w, lr="fast")
    with refusal(ValueError, ["sparse=None", "lr='auto'"]):
        fastopt.RMSProp(w, lr="auto", sparse="lazy")
    for lr in "auto", fastopt.auto(0.1):
        with refusal(ValueError, ["lr must be a number", "rmsprop_step", "an optimizer"]):
            fastopt.rmsprop_step(w, w, lr=lr, square_avg=w.copy())
    for wrong, error in ((-1.0, ValueError), ("1", TypeError), (None, TypeError)):
        with refusal(error, ["factor must be"]):
            fastopt.auto(wrong)
    with refusal(TypeError, ["parts must be transforms"]):
        t.follow_automatically(0.1)
    for part in t.at_least(0.0), t.clip_by_global_norm(1.0):
        with refusal(ValueError, ["automatic learning rate", part.label]):
            t.follow_automatically(part)


@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.AdamW])
def test_only_auto_is_accepted(kind):
    words = ["lr", "number", "schedule", "'auto'", "'fast'"]
    with refusal(TypeError, words):
        kind(np.ones(3), lr="fast")
    for lr in ("auto", 0.1):
        opt = kind(np.ones(3), lr=lr, executor="reference")
        with refusal(TypeError, words):
            opt.lr = "fast"
        with refusal(TypeError, words):
            opt.groups[0].lr = "fast"
        assert opt.lr == lr


def test_more_carried_numbers_than_there_are():
    arrays = [np.ones(3), np.ones(2)]
    opt = fastopt.SGD(arrays, lr="auto", executor="reference")
    saved = opt.state_dict()
    for carried in ([*saved["carried"], [None]], [[*saved["carried"][0], [1.0]]]):
        with refusal(ValueError, ["state_dict", "other carried numbers"]):
            opt.load_state_dict(saved | {"carried": carried})
    opt.load_state_dict(saved)
