"""`fastopt.minimize`: the steps are those of the optimizers, and the result is the best point."""

import functools
import pickle

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, rosen, rosen_der

import fastopt
from tests import oracles
from tests.minimizing import X0, both, by_hand, recorded, sphere, usual_rate
from tests.support import COMPILED, DTYPES, assert_same_bits

KINDS = [fastopt.SGD, fastopt.RMSProp, fastopt.AdaGrad, fastopt.Adam, fastopt.AdamW, fastopt.NAdam]

# SGD takes a hundredth of it.
RATE = 0.02


def settings_of(kind):
    return {"lr": fastopt.schedules.exponential(RATE / (100 if kind is fastopt.SGD else 1), 0.99)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_the_optimizer(kind, dtype):
    x0, settings = X0.astype(dtype), settings_of(kind)
    points, values = by_hand(functools.partial(kind, **settings), x0, 30)
    result, seen = recorded(rosen, x0, jac=rosen_der, optimizer=kind, maxiter=30, **settings)
    for nit, (x, fun, its_nit) in enumerate(seen, 1):
        assert_same_bits(x, points[nit])
        assert (fun, its_nit) == (values[nit], nit)
    best = int(np.argmin(values))
    assert_same_bits(result.x, points[best])
    assert_same_bits(result.jac, np.asarray(rosen_der(points[best]), dtype))
    assert result.fun == values[best]
    assert (result.nit, result.nfev, result.njev) == (30, 31, 31)
    assert (result.success, result.status) == (False, 1)
    assert "maxiter" in result.message
    assert_same_bits(x0, X0.astype(dtype))  # as it was


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_are_those_of_the_formula(dtype):
    """The same against the oracle of the optimizers, which shares no code with them."""
    x, state = X0.astype(dtype), {}
    _, seen = recorded(both, x, maxiter=10, lr=0.1, beta=0.7, momentum=0.5, weight_decay=0.01)
    for t, (point, _, _) in enumerate(seen):
        g = np.asarray(rosen_der(x), dtype)
        x, state = oracles.rmsprop(x, g, state, t, lr=0.1, beta=0.7, momentum=0.5, weight_decay=0.01)
        assert_same_bits(point, x)


@pytest.mark.parametrize(
    "optimizer",
    [
        "rmsprop",
        "RMSProp",
        fastopt.RMSProp,
        functools.partial(fastopt.RMSProp, beta=0.9),
        lambda x, lr: fastopt.Optimizer(
            x,
            fastopt.chain(
                fastopt.transforms.scale_by_rms(), fastopt.transforms.scale_by_learning_rate(lr)
            ),
        ),
    ],
    ids=["name", "Name", "class", "partial", "function"],
)
def test_forms_of_the_optimizer(optimizer):
    result = fastopt.minimize(both, X0, optimizer=optimizer, lr=0.05, maxiter=20)
    points, values = by_hand(functools.partial(fastopt.RMSProp, lr=0.05), X0, 20)
    assert_same_bits(result.x, points[int(np.argmin(values))])


def test_the_best_point_is_kept():
    """With a rate far too large the first point stays the best."""
    result, seen = recorded(both, X0, lr=5.0, maxiter=10)
    assert_same_bits(result.x, X0)
    assert result.fun == rosen(X0) < min(fun for _, fun, _ in seen)
    last = fastopt.minimize(both, X0, lr=5.0, maxiter=10, keep="last")
    assert_same_bits(last.x, seen[-1][0])
    assert_same_bits(last.jac, rosen_der(last.x))
    assert last.fun == seen[-1][1]


def test_the_result_is_scipys():
    result = fastopt.minimize(both, X0, maxiter=3, average_decay=0.5)
    assert type(result) is OptimizeResult
    fields = {"x", "fun", "jac", "nit", "nfev", "njev", "success", "status", "message", "average"}
    assert set(result) == fields
    make = functools.partial(fastopt.RMSProp, momentum=0.9, bias_correction=True)
    points, _ = by_hand(functools.partial(make, lr=usual_rate(0.03, X0)), X0, 3)
    average = X0
    for x in points[1:]:
        average = 0.5 * average + 0.5 * x
    assert_same_bits(result.average, average)
    assert_same_bits(pickle.loads(pickle.dumps(result)).x, result.x)
    assert isinstance(result.fun, float)
    assert isinstance(result.success, bool)


@pytest.mark.skipif(not COMPILED, reason="plain Python takes long for so many elements")
def test_any_number_of_threads_gives_the_same_bits():
    def fun(x):
        return 0.25 * ((x * x - 1) ** 2).sum(), x * (x * x - 1)

    x0 = np.random.default_rng(0).normal(size=100_003).astype(np.float32)
    runs = [
        fastopt.minimize(fun, x0, maxiter=5, executor=executor) for executor in ("serial", "parallel")
    ]
    assert_same_bits(runs[0].x, runs[1].x)
    assert runs[0].fun == runs[1].fun


def test_the_seed_is_the_optimizers_too():
    settings = {"lr": 0.05, "state_dtype": np.float16, "stochastic_rounding": True}
    x0 = X0.astype(np.float32)
    runs = []
    for seed in (3, 3, 4, 2**32 + 3):
        result = fastopt.minimize(both, x0, maxiter=20, seed=seed, **settings)
        runs.append(result.x.tobytes())
    points, values = by_hand(functools.partial(fastopt.RMSProp, seed=3, **settings), x0, 20)
    assert runs[0] == runs[1] == runs[3] == points[int(np.argmin(values))].tobytes()
    assert runs[0] != runs[2]
    seeded = functools.partial(fastopt.RMSProp, seed=3)
    result = fastopt.minimize(both, x0, maxiter=20, seed=4, optimizer=seeded, **settings)
    assert result.x.tobytes() == runs[0]


def test_default_rates():
    """Names start from what the documentation says; SGD from the inverse of the curvature."""
    for optimizer, rate in {
        "adam": 0.1,
        "adamw": 0.1,
        "nadam": 0.1,
        "adagrad": 1,
        "lion": 0.03,
        "adamax": 0.3,
        "adadelta": 1,
        "radam": 0.005,
        "adabelief": 0.1,
        "yogi": 0.3,
        "qhadam": 0.1,
        "ademamix": 0.1,
        "adan": 0.1,
    }.items():
        for x0 in X0, 0.1 * X0:
            default = fastopt.minimize(both, x0, optimizer=optimizer, maxiter=7)
            rate_ = usual_rate(rate, x0)
            explicit = fastopt.minimize(both, x0, optimizer=optimizer, maxiter=7, lr=rate_)
            assert_same_bits(default.x, explicit.x)
    default = fastopt.minimize(both, X0, optimizer="rprop", maxiter=7)
    assert_same_bits(default.x, fastopt.minimize(both, X0, optimizer="rprop", maxiter=7, lr=0.01).x)
    # A parabola's minimum along its gradient is one step away.
    result = fastopt.minimize(
        lambda x: (4 * (x - 3) @ (x - 3), 8 * (x - 3)), [1.0, 2.0], optimizer="sgd"
    )
    assert (result.nit, result.nfev) == (1, 4)
    np.testing.assert_allclose(result.x, 3, rtol=1e-7)
    # A plane has none: the step is as long as the point is large.
    result = fastopt.minimize(lambda x: (x.sum(), np.ones(2)), [4.0, 2.0], optimizer="sgd", maxiter=1)
    assert result.x.tolist() == [0.0, -2.0]
    # The mean of squares that overflow is no larger than the largest.
    result = fastopt.minimize(lambda x: (abs(x).max(), np.sign(x)), [1e200, -1e200], maxiter=1)
    assert 0 < abs(result.x[0]) < 1e200
    # At a point that is the minimum already nothing happens.
    assert fastopt.minimize(sphere, [0.0], optimizer="sgd").nit == 0
    of_partial = fastopt.minimize(both, X0, optimizer=functools.partial(fastopt.Adam), maxiter=3)
    expected, _ = by_hand(fastopt.Adam, X0, 3)
    assert_same_bits(of_partial.x, expected[-1])


def test_minibatches_keep_a_schedule():
    """Their values do not compare, so that nothing says when the rate is to fall."""
    for maxiter in 30, np.inf:
        seen = []

        def fun(x, step, out, seen=seen, maxiter=maxiter):
            seen.append(x.copy())
            out[:] = rosen_der(x)
            if step == 30 and maxiter == np.inf:
                out[:] = np.nan
            return rosen(x)

        fastopt.minimize(fun, X0, maxiter=maxiter)
        lr = fastopt.schedules.cosine(0.03, 30) if maxiter == 30 else 0.03
        points, _ = by_hand(functools.partial(fastopt.RMSProp, lr=lr), X0, 30)
        assert_same_bits(np.array(seen), np.array(points))
