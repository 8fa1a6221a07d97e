"""`fastopt.minimize`: steps as by hand, every form of a function, the best point, every way to end."""

import functools
import math
import pickle

import numpy as np
import pytest
from scipy.optimize import Bounds, OptimizeResult, approx_fprime, rosen, rosen_der

import fastopt
from tests import oracles
from tests.support import COMPILED, DTYPES, assert_same_bits

KINDS = [fastopt.SGD, fastopt.RMSProp, fastopt.AdaGrad, fastopt.Adam, fastopt.AdamW, fastopt.NAdam]

X0 = np.array([-1.2, 1.0, 0.8, 1.5, -0.3])

# SGD takes a hundredth of it.
RATE = 0.02


def both(x):
    return rosen(x), rosen_der(x)


def settings_of(kind):
    return {"lr": fastopt.schedules.exponential(RATE / (100 if kind is fastopt.SGD else 1), 0.99)}


def by_hand(make, x0, steps, low=-np.inf, high=np.inf):
    """All points and values of a loop that anyone would write."""
    x = np.clip(x0, low, high).astype(x0.dtype)
    opt = make(x)
    points, values = [x.copy()], [float(rosen(x))]
    for _ in range(steps):
        opt.step(np.asarray(rosen_der(x), x.dtype))
        points.append(x.copy())
        values.append(float(rosen(x)))
    return points, values


def recorded(fun, x0, **arguments):
    """The result, and the point and value of every iteration."""
    seen = []

    def callback(intermediate_result):
        seen.append((intermediate_result.x, intermediate_result.fun, intermediate_result.nit))

    return fastopt.minimize(fun, x0, callback=callback, **arguments), seen


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
    for t, (found, _, _) in enumerate(seen):
        g = np.asarray(rosen_der(x), dtype)
        x, state = oracles.rmsprop(x, g, state, t, lr=0.1, beta=0.7, momentum=0.5, weight_decay=0.01)
        assert_same_bits(found, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-1.0, 0.75),
        (np.array([-2.0, 0.0, -np.inf, 0.5, -0.5]), np.array([2.0, 0.5, np.inf, 1.0, -0.25])),
    ],
    ids=["numbers", "arrays"],
)
def test_steps_within_bounds(low, high, dtype):
    points, values = by_hand(functools.partial(fastopt.Adam, lr=0.1, bounds=(
        np.broadcast_to(low, X0.shape).astype(dtype), np.broadcast_to(high, X0.shape).astype(dtype)
    )), X0.astype(dtype), 40, low, high)  # fmt: skip
    called = []
    result, seen = recorded(
        lambda x: (called.append(x.copy()), both(x))[1],
        X0.astype(dtype),
        optimizer="adam",
        lr=0.1,
        maxiter=40,
        bounds=Bounds(low, high),
    )
    assert_same_bits(np.array([x for x, _, _ in seen]), np.array(points[1:]))
    assert_same_bits(np.array(called), np.array(points))
    assert all((low <= x).all() and (x <= high).all() for x in called)
    assert result.fun == min(values)


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


class WithArguments:
    """Rosenbrock's function, scaled; in every form that a function can have."""

    def pair(self, x, a, b):
        return a * rosen(x) + b, a * rosen_der(x)

    def value(self, x, a, b):
        return a * rosen(x) + b

    def value_of_shape(self, x, a, b):
        return np.array([a * rosen(x) + b])

    def gradient(self, x, a, b):
        return a * rosen_der(x)

    def gradient_list(self, x, a, b):
        return list(a * rosen_der(x))

    def writes(self, x, a, b, out):
        assert not x.flags.writeable
        np.multiply(a, rosen_der(x), out=out)
        return a * rosen(x) + b

    def writes_and_returns(self, x, a, b, *, out):
        out[:] = a * rosen_der(x)
        return a * rosen(x) + b, out

    def writes_gradient(self, x, a, b, out):
        out[:] = a * rosen_der(x)

    def writes_and_returns_gradient(self, x, a, b, *, out):
        return np.multiply(a, rosen_der(x), out=out)

    def destroys(self, x, a, b):
        result = self.pair(x, a, b)
        x[:] = np.nan  # it is a copy
        return result


F = WithArguments()


@pytest.mark.parametrize(
    ("fun", "jac"),
    [
        (F.pair, True),
        (F.pair, None),
        (F.value, F.gradient),
        (F.value_of_shape, F.gradient_list),
        (F.writes, True),
        (F.writes, None),
        (F.writes_and_returns, None),
        (F.writes_and_returns, True),
        (F.value, F.writes_gradient),
        (F.value, F.writes_and_returns_gradient),
        (F.writes, F.gradient),
        (F.destroys, True),
    ],
    ids=lambda f: getattr(f, "__name__", str(f)),
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forms_of_the_function(fun, jac, dtype):
    arguments = {"args": (2.0, 1.0), "lr": 0.1, "maxiter": 20}
    x0 = X0.astype(dtype)
    expected = fastopt.minimize(F.pair, x0, jac=True, **arguments)
    result = fastopt.minimize(fun, x0, jac=jac, **arguments)
    assert_same_bits(result.x, expected.x)
    assert_same_bits(result.jac, expected.jac)
    assert (result.fun, result.nfev, result.njev) == (expected.fun, expected.nfev, expected.njev)


def test_what_a_function_keeps_of_x_stays():
    kept = []
    result = fastopt.minimize(lambda x: (kept.append(x), both(x))[1], X0, maxiter=5)
    assert len({x.tobytes() for x in kept}) == 6
    assert result.x.base is None or not any(np.shares_memory(result.x, x) for x in kept)


def test_one_argument_need_not_be_a_tuple():
    result = fastopt.minimize(lambda x, a: (a * (x @ x), 2 * a * x), [1.0], 3.0, optimizer="sgd")
    assert result.success
    assert abs(result.x[0]) < 1e-5


@pytest.mark.parametrize("jac", [None, False, "2-point"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_by_differences(jac, dtype):
    x0 = X0.astype(dtype)
    result = fastopt.minimize(rosen, x0, jac=jac, maxiter=0)
    step = (math.sqrt(np.finfo(dtype).eps) * np.maximum(1, abs(x0))).astype(dtype)
    expected = approx_fprime(x0, lambda x: rosen(x.astype(dtype)), (x0 + step) - x0)
    assert_same_bits(result.jac, expected.astype(dtype))
    np.testing.assert_allclose(
        result.jac, rosen_der(X0), rtol=0.02, atol=2 if dtype == np.float32 else 1e-4
    )
    assert (result.nfev, result.njev) == (6, 1)
    assert result.message.endswith("approximated by differences.")


def test_minimum_by_differences():
    result = fastopt.minimize(rosen, [-1.2, 1.0], optimizer="adam")
    np.testing.assert_allclose(result.x, 1, atol=1e-3)
    assert result.nfev == 3 * result.njev


def test_differences_stay_in_the_box():
    low, high = np.array([0.0, 0.5, 1.0, 0.0]), np.array([1.0, 0.5, 1.0 + 1e-9, np.inf])

    def fun(x):
        assert (low <= x).all()
        assert (x <= high).all()
        return ((x - 2) ** 2).sum()

    result = fastopt.minimize(fun, [1.0, 0.5, 1.0, 0.0], bounds=Bounds(low, high), maxiter=0)
    np.testing.assert_allclose(result.jac, [-2, 0, -2, -4], rtol=1e-6)


def test_steps_and_random_numbers():
    seen = {"fun": [], "jac": []}

    def fun(x, a, step, *, rng):
        assert type(step) is int
        seen["fun"].append((step, rng.random()))
        return a * x @ x

    def jac(x, a, *, step, rng):
        seen["jac"].append((step, rng.random()))
        return 2 * a * x

    arguments = {"args": (1.0,), "jac": jac, "maxiter": 4, "lr": 0.1}
    fastopt.minimize(fun, [1.0, 2.0], seed=7, **arguments)
    assert seen["fun"] == seen["jac"]
    assert [step for step, _ in seen["fun"]] == [0, 1, 2, 3, 4]
    assert len({number for _, number in seen["fun"]}) == 5
    again = seen["fun"]
    for seed, same in [(7, True), (8, False), (None, False)]:
        seen["fun"] = []
        fastopt.minimize(fun, [1.0, 2.0], seed=seed, **arguments)
        assert (seen["fun"] == again) is same
    runs = []
    for _ in range(2):
        seen["fun"] = []
        fastopt.minimize(fun, [1.0, 2.0], seed=np.random.default_rng(3), **arguments)
        runs.append(seen["fun"])
    assert runs[0] == runs[1] != again


def test_names_with_a_default_or_filled_by_args_are_left_alone():
    def fun(x, step, out=None, rng=5):
        assert (step, out, rng) == (0.5, None, 5)
        return both(x)

    assert fastopt.minimize(fun, X0, (0.5,), maxiter=3).nit == 3


def test_minibatches():
    """A regression from a tenth of the data at a time: the last point counts, and no rule ends it."""
    rng = np.random.default_rng(0)
    truth, data = np.array([1.0, -2.0, 3.0]), rng.normal(size=(200, 3))
    target = data @ truth

    def loss(w, *, rng, out):
        rows = rng.choice(200, 20, replace=False)
        rest = data[rows] @ w - target[rows]
        np.matmul(data[rows].T, rest, out=out)
        return 0.5 * rest @ rest

    values = []
    result = fastopt.minimize(
        loss,
        np.zeros(3),
        optimizer="adam",
        seed=1,
        maxiter=600,
        callback=lambda intermediate_result: values.append(intermediate_result.fun),
    )
    np.testing.assert_allclose(result.x, truth, atol=1e-6)
    assert (result.nit, result.status) == (600, 1)
    assert result.fun == values[-1]
    best = fastopt.minimize(loss, np.zeros(3), optimizer="adam", seed=1, maxiter=600, keep="best")
    assert best.fun == min([*values, best.fun])


def test_the_best_point_is_kept():
    """With a rate far too large the first point stays the best."""
    result, seen = recorded(both, X0, lr=5.0, maxiter=10)
    assert_same_bits(result.x, X0)
    assert result.fun == rosen(X0) < min(fun for _, fun, _ in seen)
    last = fastopt.minimize(both, X0, lr=5.0, maxiter=10, keep="last")
    assert_same_bits(last.x, seen[-1][0])
    assert_same_bits(last.jac, rosen_der(last.x))
    assert last.fun == seen[-1][1]


def sphere(x):
    return x @ x, 2 * x


def test_ends_by_gradient():
    result = fastopt.minimize(sphere, [3.0, -4.0], optimizer="sgd", lr=0.4, gtol=1e-3)
    assert (result.success, result.status) == (True, 0)
    assert "gtol" in result.message
    # x shrinks to a fifth in every step: 8 * 0.2**n <= 1e-3 at n = 6.
    assert (result.nit, result.nfev) == (6, 7)
    assert abs(result.jac).max() <= 1e-3


def test_ends_by_projected_gradient():
    result = fastopt.minimize(
        sphere, [3.0, 4.0], optimizer="adam", lr=0.5, bounds=[(1, None), (None, -2)]
    )
    assert result.success
    assert "gtol" in result.message
    assert result.x.tolist() == [1.0, -2.0]
    assert result.jac.tolist() == [2.0, -4.0]  # not projected


def test_ends_by_function():
    result, seen = recorded(both, X0, optimizer="adam", lr=0.02, gtol=None, ftol=1e-7, window=5)
    assert (result.success, result.status) == (True, 0)
    assert "ftol" in result.message
    assert "last 5 iterations" in result.message
    values = np.array([rosen(X0), *(fun for _, fun, _ in seen)])
    small = abs(np.diff(values)) <= 1e-7 * np.maximum(1, np.maximum(values[1:], values[:-1]))
    assert small[-5:].all()
    assert not any(small[i : i + 5].all() for i in range(len(small) - 5))


def test_ends_by_point():
    result, seen = recorded(
        both, X0, optimizer="adam", lr=0.02, gtol=None, ftol=None, xtol=1e-5, window=5
    )
    assert (result.success, result.status) == (True, 0)
    assert "xtol" in result.message
    points = np.array([X0, *(x for x, _, _ in seen)])
    small = abs(np.diff(points, axis=0)).max(axis=1) <= 1e-5 * np.maximum(
        abs(points[1:]).max(axis=1), 1
    )
    assert small[-5:].all()
    assert not any(small[i : i + 5].all() for i in range(len(small) - 5))


def test_rules_that_are_off():
    rest = fastopt.minimize(sphere, [0.0], gtol=None, ftol=None, maxiter=150, lr=0.1)
    assert (rest.nit, rest.status) == (150, 1)
    assert fastopt.minimize(sphere, [0.0], gtol=None, ftol=0, maxiter=150, lr=0.1).nit == 100
    assert fastopt.minimize(sphere, [0.0], gtol=0, maxiter=150).nit == 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
@pytest.mark.parametrize("bounds", [None, [(-5, 5)]])
def test_what_is_not_finite_ends_it(wrong, where, bounds):
    def fun(x):
        value, grad = sphere(x)
        if x[0] < 1:
            return (wrong, grad) if where == "value" else (value, np.array([wrong]))
        return value, grad

    result = fastopt.minimize(fun, [2.0], optimizer="sgd", lr=0.25, bounds=bounds)
    assert (result.success, result.status, result.nit) == (False, 3, 2)
    assert "not finite after 2 iterations" in result.message
    assert "learning rate" in result.message
    if where == "value":
        assert (result.x[0], result.fun, result.jac[0]) == (1.0, 1.0, 2.0)
    else:  # the value is good there, and the best
        assert (result.x[0], result.fun) == (0.5, 0.25)


def test_what_is_not_finite_at_the_start():
    result = fastopt.minimize(lambda x: (math.nan, x), [2.0, 1.0])
    assert (result.success, result.status, result.nit) == (False, 3, 0)
    assert "at x0" in result.message
    assert result.x.tolist() == [2.0, 1.0]
    assert math.isnan(result.fun)


def test_float32_gradients_that_overflow_are_not_finite():
    result = fastopt.minimize(lambda x: (1.0, np.array([1e300])), np.ones(1, np.float32))
    assert result.status == 3


def test_a_gradient_that_is_not_written_is_found_out():
    def adds(x, out):
        out += 2 * x
        return x @ x

    assert fastopt.minimize(adds, [1.0]).status == 3


def test_skip_nonfinite_goes_on():
    def fun(x, step):
        return x @ x, 2 * x if step != 1 else np.full(1, math.nan)

    result = fastopt.minimize(fun, [2.0], optimizer="sgd", lr=0.25, maxiter=3, skip_nonfinite=True)
    assert (result.nit, result.status) == (3, 1)
    assert result.x[0] == 0.5


def test_callbacks_and_stop_iteration():
    points = []

    def callback(x):
        points.append(x)
        x[:] = 7  # a copy
        if len(points) == 4:
            raise StopIteration

    result = fastopt.minimize(both, X0, callback=callback)
    assert (result.success, result.status, result.nit) == (False, 99, 4)
    assert "StopIteration" in result.message
    expected, _ = by_hand(
        functools.partial(fastopt.RMSProp, lr=fastopt.schedules.cosine(0.03, 5000)), X0, 4
    )
    assert_same_bits(result.x, expected[-1])


def test_errors_of_the_functions_come_through():
    def stops(x):
        raise StopIteration("mine")

    with pytest.raises(StopIteration, match="mine"):
        fastopt.minimize(stops, X0)
    with pytest.raises(ZeroDivisionError):
        fastopt.minimize(both, X0, callback=lambda x: 1 / 0)


def test_a_progress_bar(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    fastopt.minimize(sphere, [1.0], maxiter=20, lr=0.01, progress=True)
    shown = capsys.readouterr().err
    assert "20/20" in shown
    assert "fun=" in shown
    with pytest.raises(ZeroDivisionError):
        fastopt.minimize(lambda x: 1 / 0, [1.0], progress=True)
    assert "0/5000" in capsys.readouterr().err
    fastopt.minimize(sphere, [1.0], maxiter=2)
    assert capsys.readouterr().err == ""


def test_the_result_is_scipys():
    result = fastopt.minimize(both, X0, maxiter=3, average_decay=0.5)
    assert type(result) is OptimizeResult
    fields = {"x", "fun", "jac", "nit", "nfev", "njev", "success", "status", "message", "average"}
    assert set(result) == fields
    points, _ = by_hand(functools.partial(fastopt.RMSProp, lr=fastopt.schedules.cosine(0.03, 3)), X0, 3)
    average = X0
    for x in points[1:]:
        average = 0.5 * average + 0.5 * x
    assert_same_bits(result.average, average)
    assert_same_bits(pickle.loads(pickle.dumps(result)).x, result.x)
    assert isinstance(result.fun, float)
    assert isinstance(result.success, bool)


@pytest.mark.parametrize("x0", [3.0, 3, [3], np.float16(3), np.array([3], np.int8), np.array(3, ">f8")])
def test_what_becomes_float64(x0):
    result = fastopt.minimize(sphere, x0, lr=0.1)
    assert (result.x.dtype, result.x.shape) == (np.float64, (1,))
    assert fastopt.minimize(sphere, np.array([3], ">f4"), maxiter=1).x.dtype == np.float32
    assert fastopt.minimize(sphere, np.float32(3), maxiter=1).x.dtype == np.float32


def test_nothing_to_optimise():
    for bounds in (None, []):
        result = fastopt.minimize(lambda x: (0.5, x), [], bounds=bounds)
        assert (result.success, result.fun, result.x.shape) == (True, 0.5, (0,))


@pytest.mark.parametrize(
    "bounds",
    [
        [(0, 1), (None, 1), (0, None), (None, None), (-np.inf, np.inf)],
        np.array([(0, 1), (-np.inf, 1), (0, np.inf), (-np.inf, np.inf), (-np.inf, np.inf)]),
        Bounds([0, -np.inf, 0, -np.inf, -np.inf], [1, 1, np.inf, np.inf, np.inf], keep_feasible=True),
        zip([0, None, 0, None, None], [1, 1, None, None, None], strict=True),
    ],
    ids=["list", "array", "Bounds", "iterator"],
)
def test_forms_of_bounds(bounds):
    start = np.array([2.0, 2.0, -2.0, 2.0, -2.0])
    result = fastopt.minimize(sphere, start, bounds=bounds, maxiter=0)
    assert result.x.tolist() == [1, 1, 0, 2, -2]
    assert start.tolist() == [2, 2, -2, 2, -2]


def test_bounds_for_all_and_none():
    assert fastopt.minimize(sphere, [3.0, -3.0], bounds=Bounds(-1, 2), maxiter=0).x.tolist() == [2, -1]
    assert fastopt.minimize(sphere, [3.0, -3.0], bounds=[(-1, 2)], maxiter=0).x.tolist() == [2, -1]
    free = fastopt.minimize(both, X0, bounds=Bounds(), maxiter=5)
    assert_same_bits(free.x, fastopt.minimize(both, X0, maxiter=5).x)


def test_bounds_are_not_left_by_rounding():
    """0.1 is not a float32: the nearest is above, the next one below is as far as x may go."""
    result = fastopt.minimize(
        lambda x: (-float(x[0]), np.array([-1.0])), np.zeros(1, np.float32), bounds=[(-0.1, 0.1)], lr=1
    )
    assert float(result.x[0]) <= 0.1 < float(np.nextafter(result.x[0], np.float32(1)))
    fixed = fastopt.minimize(sphere, np.zeros(1, np.float32), bounds=[(0.1, 0.1)])
    assert fixed.x[0] == np.float32(0.1)
    assert fixed.success


@pytest.mark.parametrize("size", [1, 2, 32_767, 32_768, 32_769, 100_003])
@pytest.mark.parametrize("bounded", [False, True])
def test_large_gradients_are_measured_in_pieces(size, bounded):
    """`gtol` sees every element, the last too, and only a step that stays in the box."""
    rng = np.random.default_rng(5)
    grad = rng.uniform(-1e-3, 1e-3, size)
    for where in {0, size // 2, size - 1}:
        g = grad.copy()
        g[where] = 3.0
        bounds = Bounds(np.where(np.arange(size) == where, -2.0, -9.0), 9.0) if bounded else None
        largest = 2.0 if bounded else 3.0
        for gtol, status in [(largest, 0), (np.nextafter(largest, 0), 1)]:
            found = fastopt.minimize(
                lambda x, g=g: (0.0, g), np.zeros(size), bounds=bounds, gtol=gtol, maxiter=0, ftol=None
            )
            assert found.status == status
        g[where] = math.nan
        assert fastopt.minimize(lambda x, g=g: (0.0, g), np.zeros(size), bounds=bounds).status == 3


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


def test_default_rates():
    """Names start from what the documentation says; SGD from the inverse of the curvature."""
    for optimizer, rate in {
        "rmsprop": 0.03,
        "adam": 0.1,
        "adamw": 0.1,
        "nadam": 0.1,
        "adagrad": 1,
    }.items():
        default = fastopt.minimize(both, X0, optimizer=optimizer, maxiter=7)
        schedule = fastopt.schedules.cosine(rate, 7)
        given = fastopt.minimize(both, X0, optimizer=optimizer, maxiter=7, lr=schedule)
        assert_same_bits(default.x, given.x)
    # A parabola's minimum along its gradient is one step away.
    result = fastopt.minimize(
        lambda x: (4 * (x - 3) @ (x - 3), 8 * (x - 3)), [1.0, 2.0], optimizer="sgd"
    )
    assert (result.nit, result.nfev) == (1, 4)
    np.testing.assert_allclose(result.x, 3, rtol=1e-7)
    # A plane has none: the step is as long as the point is large.
    result = fastopt.minimize(lambda x: (x.sum(), np.ones(2)), [4.0, 2.0], optimizer="sgd", maxiter=1)
    assert result.x.tolist() == [0.0, -2.0]
    # At a point that is the minimum already nothing happens.
    assert fastopt.minimize(sphere, [0.0], optimizer="sgd").nit == 0
    own = fastopt.minimize(both, X0, optimizer=functools.partial(fastopt.Adam), maxiter=3)
    expected, _ = by_hand(fastopt.Adam, X0, 3)
    assert_same_bits(own.x, expected[-1])


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad", "adam", "adamw", "nadam"])
def test_rosenbrock_without_any_option(optimizer):
    """What was found, f = 0.126, 4.9e-5, 2.3e-3, 2.1e-10, 1.7e-4, 3.9e-6, with a margin."""
    limits = {"sgd": 0.2, "rmsprop": 1e-3, "adagrad": 1e-2, "adam": 1e-9, "adamw": 1e-3, "nadam": 1e-4}
    result = fastopt.minimize(rosen, [-1.2, 1.0], jac=rosen_der, optimizer=optimizer)
    assert result.fun == rosen(result.x) < limits[optimizer]
