"""``fast=True``: how far it is from the precise one, in ULP."""

import re

import numpy as np
import pytest

import fastopt
from tests.nearness import OPTIMIZERS, ulps
from tests.subprocesses import needs_jit
from tests.support import parameters_of, sizes

# Of one update. The estimate of an inverse root has an error of 1.5 * 2**-12 at most (x86 without
# AVX-512), after a step of Newton's method 3.5 units, and that step, the products and the fused sums
# are rounded. Counted on a Xeon: RMSProp 4, AdaGrad 5, Adam 4.
BUDGET = 8

pytestmark = needs_jit


def updates(name, fast, size, **options):
    """One update from a parameter of zero and from other states than zero, and the new states."""
    kind, settings = OPTIMIZERS[name]
    rng = np.random.default_rng(5)
    g = (rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3, size)).astype(np.float32)
    start = 10.0 ** rng.uniform(-6, 6, size)
    w = np.zeros(size, np.float32)
    opt = kind(w, fast=fast, **settings, **options)
    for key, state in opt.state.items():
        # An average of gradients has their sign: where a sum cancels, no number of units is enough.
        state[:] = np.copysign(start, g) if key == "exp_avg" else start
    opt.step(g)
    return {"param": w, **opt.state}


@pytest.mark.parametrize("size", [*sizes(1, 2, 3, 15, 16, 17, 63, 64, 65, 255, 256, 257), 20_001])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_is_near(name, size):
    actual, expected = (updates(name, fast, size) for fast in (True, False))
    for key, precise in expected.items():
        assert ulps(actual[key], precise) <= (BUDGET if key == "param" else 1), key


@pytest.fixture
def intel(monkeypatch):
    """The code for processors whose dividers are slow."""
    from fastopt.executors.cpu.kernels import kernel
    from fastopt.kernels import estimates

    monkeypatch.setattr(estimates, "processor", lambda: "skylake-avx512")
    monkeypatch.setenv("FASTOPT_CACHE", "0")
    kernel.cache_clear()
    yield
    kernel.cache_clear()


OUTSIDE = {
    "adam": (fastopt.Adam, {}),
    "amsgrad": (fastopt.Adam, {"amsgrad": True}),
    "nadam": (fastopt.NAdam, {}),
    "adagrad": (fastopt.AdaGrad, {"eps_inside_sqrt": False}),
    "rmsprop": (fastopt.RMSProp, {"eps_inside_sqrt": False, "momentum": 0.9}),
}


@pytest.mark.usefixtures("intel")
@pytest.mark.parametrize("name", OUTSIDE)
def test_epsilon_outside_the_root(name):
    """One root is estimated; the quotient by the sum is exact."""
    kind, settings = OUTSIDE[name]
    magnitude = 10.0 ** np.linspace(-22, 18, 4801)
    results = []
    for fast in (True, False):
        w = np.zeros(4801, np.float32)
        opt = kind(w, lr=0.1, fast=fast, **settings)
        for sign in (1, -0.5, 0):
            opt.step((sign * magnitude).astype(np.float32))
        results.append(w)
    small = magnitude < 1e-15  # a multiple of the smallest number is far from others in units
    assert ulps(results[0][~small], results[1][~small]) <= 2 * BUDGET
    np.testing.assert_allclose(results[0][small], results[1][small], rtol=1e-5, atol=1e-20)


@pytest.mark.usefixtures("intel")
def test_roots_that_stand_by_themselves_are_estimated():
    from fastopt.executors.cpu.kernels import kernel
    from fastopt.kernels.target import estimates_roots

    if not estimates_roots():
        pytest.skip("the processor has no estimates")
    for kind, settings in OUTSIDE.values():
        opt = kind(np.zeros(1, np.float32), fast=True, **settings)
        code = kernel(parameters_of(opt).job(0, "float32", False)).assembly
        assert re.search(r"rsqrt", code)
        assert not re.search(r"\b(vf)?v?f?sqrt[ps]?s?\b", code)
        double = kernel(
            parameters_of(kind(np.zeros(1), fast=True, **settings)).job(0, "float64", False)
        )
        assert "rsqrt" not in double.assembly


def test_every_size_of_accumulator():
    """Epsilon decides below, and nothing overflows above."""
    g = (10.0 ** np.linspace(-30, 18, 4801)).astype(np.float32)
    results = []
    for fast in (True, False):
        w = np.zeros(g.size, np.float32)
        fastopt.RMSProp(w, lr=0.1, fast=fast).step(g)
        results.append(w)
    assert ulps(*results) <= BUDGET


def test_zero_gradients_move_nothing():
    w = np.linspace(-1, 1, 1000, dtype=np.float32)
    previous = w.copy()
    for kind in (fastopt.RMSProp, fastopt.Adam):
        kind(w, fast=True).step(np.zeros(1000, np.float32))
    np.testing.assert_array_equal(w, previous)


def test_what_is_given_up():
    """With an accumulator that overflowed the precise step stands still."""
    precise, fast = np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    g = np.full(1000, 1e20, np.float32)
    fastopt.RMSProp(precise).step(g)
    fastopt.RMSProp(fast, fast=True).step(g)
    assert (precise == 0).all()
    assert np.isnan(fast[:512]).all() or (fast[:512] == 0).all()  # as the processor has estimates


def test_any_number_of_threads_gives_the_same_bits():
    size = 300_007
    expected = updates("rmsprop", True, size)
    for count in (1, 2, 3):
        with fastopt.threads(count):
            actual = updates("rmsprop", True, size)
        assert all(actual[key].tobytes() == expected[key].tobytes() for key in expected)


def test_many_arrays_are_as_each_alone():
    lengths = [5, 70_000, 0, 257, 1000]
    rng = np.random.default_rng(3)
    grads = [rng.normal(size=n).astype(np.float32) for n in lengths]
    together = [np.ones(n, np.float32) for n in lengths]
    fastopt.RMSProp(together, fast=True).step(grads)
    for g, w in zip(grads, together, strict=True):
        alone = np.ones(g.size, np.float32)
        fastopt.RMSProp(alone, fast=True).step(g)
        assert alone.tobytes() == w.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_low_precision_storage_differs_in_few_places(dtype):
    """Most differences are rounded away; no number is further off than its neighbour."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    g = np.random.default_rng(7).normal(size=20_001).astype(dtype)
    results = []
    for fast in (True, False):
        w = np.ones(g.size, dtype)
        opt = fastopt.RMSProp(w, lr=0.1, fast=fast, state_dtype="8bit")
        opt.step(g)
        codes = opt.state["square_avg"]["codes"].astype(np.int64)
        results.append((w.view(np.int16).astype(np.int64), codes))
    for fast, precise in zip(*results, strict=True):
        apart = np.abs(fast - precise)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-2


def test_float64_only_fuses():
    """Its roots and quotients have no estimate that is good enough."""
    g = np.random.default_rng(6).normal(size=1001)
    results = []
    for fast in (True, False):
        w = np.zeros(1001)
        fastopt.RMSProp(w, fast=fast).step(g)
        results.append(w)
    np.testing.assert_allclose(*results, rtol=4 * np.finfo(np.float64).eps, atol=0)


def test_estimates_take_the_place_of_the_divider(monkeypatch):
    from llvmlite.binding import get_host_cpu_features

    from fastopt.executors.cpu.kernels import kernel

    if not get_host_cpu_features().get("avx"):
        pytest.skip("another processor than x86 with AVX")
    monkeypatch.setenv("FASTOPT_CACHE", "0")  # what comes from disk has no assembly
    precise, fast = (
        kernel.__wrapped__(
            parameters_of(fastopt.RMSProp(np.zeros(1, np.float32), fast=fast)).job(0, "float32", False)
        )
        for fast in (False, True)
    )
    assert not re.search(r"\bvrsqrt", precise.assembly)
    assert re.search(r"\bvrsqrt(14)?ps\b", fast.assembly)
    assert not re.search(r"\bv?(div|sqrt)ps\b", fast.assembly)


def test_copies_and_checkpoints_keep_it(tmp_path):
    import copy

    w, g = np.ones(100, np.float32), np.full(100, 0.5, np.float32)
    opt = fastopt.RMSProp(w, fast=True)
    opt.step(g)
    assert copy.deepcopy(opt).fast
    assert "fast=True" in repr(opt)
    opt.save(tmp_path / "rmsprop.npz")
    precise = fastopt.RMSProp(w.copy())  # where it runs is no part of what is saved
    precise.load(tmp_path / "rmsprop.npz")
    assert precise.executor == "auto"
    assert precise.step_count == 1


@pytest.mark.parametrize(("name", "now"), [("fast", "'auto'"), ("cuda-fast", "'cuda'")])
def test_former_executors_name_their_replacements(name, now):
    with pytest.raises(ValueError, match=f"executor={now} with fast=True"):
        fastopt.RMSProp(np.ones(3), executor=name)


def test_what_fast_does_not_go_with():
    with pytest.raises(ValueError, match=r"fast must be False with executor='reference'"):
        fastopt.RMSProp(np.ones(3), executor="reference", fast=True)
    with pytest.raises(TypeError, match="fast must be True or False"):
        fastopt.RMSProp(np.ones(3), fast="yes")


@pytest.mark.parametrize("executor", ["serial", "parallel"])
def test_it_goes_with_every_compiled_executor(executor):
    expected = updates("rmsprop", True, 20_001)
    actual = updates("rmsprop", True, 20_001, executor=executor)
    assert all(actual[key].tobytes() == expected[key].tobytes() for key in expected)
