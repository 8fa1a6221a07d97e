"""Statistics of a step, added up in its own pass: beside NumPy, and the same bits anywhere."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from fastopt.optimizers.registry import MODULES
from tests.refusals import everywhere, refusal
from tests.support import COMPILED, DTYPES, EXECUTORS, assert_same_run, problem, quick_enough

ALL = (
    *(f"{what}_{kind}" for what in ("grad", "update", "param", "square_avg", "average") for kind in
      ("norm", "rms", "mean", "nonfinite")),
    "clipped_share",
)  # fmt: skip
OPTIONS = {"clip_value": 0.7, "weight_decay": 0.1, "average_decay": 0.9, "bounds": (-1.5, None)}


def measured(array):
    exact = np.asarray(array, np.float64).ravel()
    finite = np.isfinite(exact)
    with np.errstate(all="ignore"):
        squares = np.sum(exact * exact)
        size = exact.size or math.nan
        return np.sqrt(squares), np.sqrt(squares / size), np.sum(exact) / size, (~finite).sum()


@pytest.mark.parametrize(("executor", "size"), quick_enough(1, 3, 257, 8200))
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_beside_numpy(executor, dtype, size):
    w, grads = problem(size, dtype, 3)
    opt = fastopt.RMSProp(w, lr=lambda k: 0.1 / (1 + k), stats=ALL, executor=executor, **OPTIONS)
    plain = fastopt.RMSProp(w.copy(), lr=lambda k: 0.1 / (1 + k), executor=executor, **OPTIONS)
    free = fastopt.RMSProp(  # without bounds
        w.copy(), lr=lambda k: 0.1 / (1 + k), executor=executor, clip_value=0.7, weight_decay=0.1
    )
    assert opt.stats is None
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    scale = 4.0 if dtype == np.float32 else 1.0  # with a scale the kernels are others
    for step, g in enumerate(grads):
        g[0] = np.inf if step == 2 else g[0]
        previous = w.copy()
        free.params[...] = previous
        for each in opt, plain, free:
            each.step(g, grad_scale=scale)
        assert_same_run(opt, plain)
        update = previous.astype(np.float64) - free.params
        unscaled = g.astype(np.float64) / scale
        arrays = [unscaled, update, w, opt.state["square_avg"], opt.state["average"]]
        expected = [number for array in arrays for number in measured(array)]
        expected.append(np.mean(abs(unscaled) > 0.7))
        assert list(opt.stats) == list(ALL)
        assert opt.stats.step == step + 1
        atol = [0.0] * len(ALL)
        atol[4:8] = [
            np.finfo(dtype).eps * max(1.0, measured(previous)[0])
        ] * 4  # w - (w - u) is rounded
        for name, exact, least in zip(ALL, expected, atol, strict=True):
            np.testing.assert_allclose(opt.stats[name], exact, rtol, least + rtol * 1e-3, err_msg=name)


def test_same_bits_on_every_executor():
    size = 3 * 8192 + 77 if COMPILED else 77
    w, grads = problem(size, np.float32, 2)

    def run(executor, threads=1):
        with fastopt.threads(threads):
            opt = fastopt.RMSProp(w.copy(), stats=ALL, executor=executor, clip_norm=0.5, **OPTIONS)
            for g in grads:
                opt.step(g, grad_scale=0.5)
        assert opt.stats["grad_norm"] == (opt.last.norm if size < 8192 else opt.stats["grad_norm"])
        np.testing.assert_allclose(opt.stats["grad_norm"], opt.last.norm, rtol=1e-15)
        return dict(opt.stats)

    expected = run("serial")
    assert run("reference") == expected
    for threads in 1, 2, 5:
        assert run("parallel", threads) == expected


@pytest.mark.parametrize("name", MODULES)
def test_every_optimizer(name):
    """The steps are those without statistics; each state has some."""
    w, grads = problem(9, np.float32, 2)
    kind = getattr(fastopt, name)
    plain = kind(w.copy(), lr=0.1)
    names = ["update_norm", *(f"{state}_mean" for state in plain.state)]
    opt = kind(w.copy(), lr=0.1, stats=names, executor="reference")
    for g in grads:
        previous = opt.params.astype(np.float64)
        opt.step(g)
        plain.step(g)
    assert_same_run(opt, plain)
    moved = np.linalg.norm(previous - opt.params)
    np.testing.assert_allclose(opt.stats["update_norm"], moved, rtol=1e-5, atol=1e-6)
    for state, array in opt.state.items():
        mean = np.mean(array, dtype=np.float64)
        np.testing.assert_allclose(opt.stats[f"{state}_mean"], mean, rtol=1e-6)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_several_arrays_and_groups(executor):
    params = {"a": np.full((2, 2), 3.0, np.float32), "b": [np.zeros(0), np.full(3, 4.0)]}
    opt = fastopt.SGD(params, lr=0.5, stats=("grad_norm", "param_mean", "grad_mean"), executor=executor)
    grads = {"a": np.full((2, 2), 2.0, np.float32), "b": [np.zeros(0), np.full(3, -1.0)]}
    opt.step(grads)
    assert opt.stats["grad_norm"] == math.sqrt(19.0)
    assert opt.stats["param_mean"] == (8.0 + 13.5) / 7
    assert opt.stats.per_array["grad_norm"] == {"a": 4.0, "b": [0.0, math.sqrt(3.0)]}
    assert math.isnan(opt.stats.per_array["grad_mean"]["b"][0])
    first = opt.stats
    opt.step({"a": None, "b": [np.zeros(0), np.full(3, 2.0)]})  # that keeps its numbers
    assert opt.stats.per_array["grad_norm"] == {"a": 4.0, "b": [0.0, math.sqrt(12.0)]}
    assert opt.stats["grad_norm"] == math.sqrt(28.0)
    assert (first.step, first["grad_norm"], opt.stats.step) == (1, math.sqrt(19.0), 2)
    # A state that only one group has.
    groups = [np.full(2, 1.0), np.full(3, 1.0)]
    momentum = chain(t.trace(0.9), t.scale_by_learning_rate(0.1))
    opt = fastopt.Optimizer(
        groups,
        [chain(t.scale_by_learning_rate(0.1)), momentum],
        stats=["momentum_buffer_rms", "grad_rms"],
        executor=executor,
    )
    opt.step([np.full(2, 1.0), np.full(3, 2.0)])
    assert opt.stats["momentum_buffer_rms"] == 2.0
    assert opt.stats["grad_rms"] == math.sqrt(14.0 / 5)
    assert opt.stats.per_array["momentum_buffer_rms"] == [None, 2.0]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_formats(executor):
    """Numbers before they are rounded, in 8 bits too; norms of what float32 cannot square."""
    size = 5000 if COMPILED else 4100
    w, grads = (np.array(array, np.float16) for array in problem(size, np.float32, 1))
    options = {"state_dtype": {"square_avg": "8bit"}, "zero_grad": True}
    opt = fastopt.RMSProp(w, stats=("square_avg_rms", "param_norm"), executor=executor, **options)
    exact = fastopt.RMSProp(w.astype(np.float32))
    exact.step(grads[0].astype(np.float32))
    opt.step(grads[0])
    rms = np.sqrt(np.mean(np.square(exact.state["square_avg"], dtype=np.float64)))
    np.testing.assert_allclose(opt.stats["square_avg_rms"], rms, rtol=1e-6)
    norm = np.linalg.norm(exact.params.astype(np.float64))
    np.testing.assert_allclose(opt.stats["param_norm"], norm, rtol=1e-6)
    large = fastopt.SGD(np.zeros(2, np.float32), lr=0.0, stats=["grad_norm"], executor=executor)
    large.step(np.full(2, 3e38, np.float32))
    np.testing.assert_allclose(large.stats["grad_norm"], 3e38 * math.sqrt(2.0), rtol=1e-6)


def test_skipped_refused_and_scaled():
    """They stay those of the last step that was taken, with its `grad_scale`."""
    opt = fastopt.SGD(np.zeros(2), lr=1.0, stats=["grad_norm"], skip_nonfinite=True)
    opt.step(np.array([3.0, 4.0]), grad_scale=2.0)
    opt.step(np.array([np.nan, 4.0]), grad_scale=8.0)
    with refusal(ValueError, ["grads"]):
        opt.step(np.ones(3), grad_scale=16.0)
    assert opt.last.skipped
    assert (opt.stats["grad_norm"], opt.stats.step) == (2.5, 1)
    opt.step(np.array([3.0, 4.0]), grad_scale=16.0)
    assert (opt.stats["grad_norm"], opt.stats.step) == (5.0 / 16, 2)


@everywhere
def test_scaled_and_left_out(executor):
    """The gradient of an array that is left out had the scale of its own last step."""
    w = [np.zeros(2), np.zeros(2)]
    opt = fastopt.SGD(w, stats=("grad_norm", "grad_mean", "grad_nonfinite"), executor=executor)
    g, bad = np.full(2, 3.0), np.array([3.0, np.inf])
    opt.step([g, 4 * g], grad_scale=4.0)
    for scale in (1024.0, 2.0, 2.0, 8.0):
        opt.step([scale * g, None], grad_scale=scale)
        assert opt.stats.per_array["grad_norm"] == [18.0**0.5, 4 * 18.0**0.5 / 4.0]
        assert dict(opt.stats) == {"grad_norm": 6.0, "grad_mean": 3.0, "grad_nonfinite": 0.0}
    with refusal(ValueError, ["grads[1]"]):
        opt.step([g, np.zeros(3)], grad_scale=16.0)
    assert opt.stats["grad_norm"] == 6.0
    opt.step([16.0 * g, bad], grad_scale=1.0)
    assert opt.stats.per_array["grad_mean"] == [48.0, np.inf]
    assert opt.stats["grad_nonfinite"] == 1.0


def test_resumed_and_copied(tmp_path):
    """They are no part of what is saved: a run without statistics continues with them."""
    w, grads = problem(5, np.float64)
    plain, opt = (fastopt.Adam(w.copy(), **how) for how in ({}, {"stats": ["exp_avg_norm"]}))
    plain.step(grads[0])
    plain.save(tmp_path / "run.npz", params=True)
    opt.step(grads[1])
    opt.load(tmp_path / "run.npz")
    assert opt.stats is None
    for other in opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)):
        assert other.stats is None
        other.step(grads[1])
        assert other.stats.step == 2
        norm = np.linalg.norm(other.state["exp_avg"])
        np.testing.assert_allclose(other.stats["exp_avg_norm"], norm, rtol=1e-14)
    assert "stats=['exp_avg_norm']" in repr(opt)
    assert "exp_avg_norm" in repr(opt.stats)
    with pytest.raises(AttributeError):
        opt.stats = ()


def test_none_are_none():
    opts = [fastopt.SGD(np.ones(3), executor="reference", **how) for how in ({}, {"stats": None})]
    opts.append(fastopt.SGD(np.ones(3), executor="reference", stats=()))
    for opt in opts:
        opt.step(np.ones(3))
        assert opt.stats is None
    assert repr(opts[0]) == repr(opts[1])


BAD = {
    "a word": ("grad_norm", TypeError, ["stats", "list of names"]),
    "a number": ([3], TypeError, ["stats", "3"]),
    "unknown": (["grad_size"], ValueError, ["'grad_size'", "grad, update, param, square_avg", "_norm"]),
    "no state": (["exp_avg_norm"], ValueError, ["'exp_avg_norm'"]),
    "no clipping": (["clipped_share"], ValueError, ["'clipped_share'", "clip_by_value"]),
}


@pytest.mark.parametrize("how", BAD.values(), ids=BAD)
def test_refusals(how):
    stats, error, words = how
    with refusal(error, words):
        fastopt.RMSProp(np.zeros((3, 2)), stats=stats)


def test_they_are_of_optimizers():
    with refusal(ValueError, ["stats must be empty", "sgd_step"]):
        fastopt.sgd_step(np.zeros(3), np.ones(3), lr=0.1, stats=["grad_norm"])
    with refusal(TypeError, ["no argument stats", "opt.stats"]):
        fastopt.minimize(lambda x: (x @ x, 2 * x), np.ones(3), stats=["grad_norm"])
