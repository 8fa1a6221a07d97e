"""The fast mode: how far it is from the precise one, in ULP.

On an emulated GPU approximate instructions are exact, and what shows is the fused multiply-add.
"""

import numpy as np
import pytest

import fastopt
from fastopt.steps.stepper import stepper_of
from tests.device import SIMULATED, skip_without_device, to_device, to_host
from tests.nearness import OPTIMIZERS, ulps

skip_without_device()
if SIMULATED:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)

N = 20_001

# Of one update. Fused multiply-adds make up to 2 (Adam: 4), as counted on an emulated GPU; by the
# manual of PTX a root (sqrt.approx) then is off by 1 more and a quotient (div.full) by 2.
BUDGET = 8


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_is_near(name):
    """From a parameter of zero, so that it is the update itself, and from other states than zero."""
    kind, settings = OPTIMIZERS[name]
    rng = np.random.default_rng(5)
    g = (rng.normal(size=N) * 10.0 ** rng.uniform(-3, 3, N)).astype(np.float32)
    results, start = {}, 10.0 ** rng.uniform(-6, 6, N)
    for fast in (False, True):
        w = to_device(np.zeros(N, np.float32))
        opt = kind(w, fast=fast, **settings)
        for key, state in opt.state.items():
            # An average of gradients has their sign: where a sum cancels, no number of units is enough.
            initial = np.copysign(start, g) if key == "exp_avg" else start
            state.copy_to_device(initial.astype(np.float32))
        opt.step(to_device(g))
        results[fast] = {"param": to_host(w), **{k: to_host(v) for k, v in opt.state.items()}}
    for key, expected in results[False].items():
        assert ulps(results[True][key], expected) <= (BUDGET if key == "param" else 1), key


def test_states_in_blocks():
    """The update is of states that are not rounded yet; then they are a code apart at most."""
    g = np.random.default_rng(7).normal(size=N).astype(np.float32)
    results = {}
    for fast in (False, True):
        w = to_device(np.zeros(N, np.float32))
        opt = fastopt.Adam(w, fast=fast, state_dtype="8bit")
        opt.step(to_device(g))
        codes = {name: to_host(state)["codes"].astype(np.int64) for name, state in opt.state.items()}
        results[fast] = to_host(w), codes
    (precise, codes), (fast, fast_codes) = results.values()
    assert ulps(fast, precise) <= BUDGET
    for name, expected in codes.items():
        apart = np.abs(fast_codes[name] - expected)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3


def test_is_another_code():
    opts = [fastopt.RMSProp(to_device(np.zeros(3, np.float32)), fast=fast) for fast in (False, True)]
    codes = [stepper_of(opt)().launches.batches[0].kernels.program("wide").ptx((8, 0)) for opt in opts]
    assert "sqrt.rn.f32" in codes[0]
    assert "sqrt.approx.f32" in codes[1]


def test_fast_is_the_same_where_the_arrays_are():
    results = []
    for executor in ("auto", "cuda"):
        w, g = (to_device(np.linspace(-1, 1, 1001, dtype=np.float32)) for _ in range(2))
        fastopt.RMSProp(w, executor=executor, fast=True).step(g)
        results.append(to_host(w).tobytes())
    assert results[0] == results[1]


def test_subnormals_stay():
    tiny = np.full(5, 1e-41, np.float32)
    w = to_device(tiny)
    fastopt.SGD(w, lr=0.5, fast=True).step(to_device(np.zeros(5, np.float32)))
    assert to_host(w).tobytes() == tiny.tobytes()


def test_float64_is_precise():
    """Its roots and quotients have no approximation that is good enough: only fused multiply-adds."""
    g = np.random.default_rng(6).normal(size=1001)
    results = []
    for fast in (False, True):
        w = to_device(np.zeros(1001))
        fastopt.RMSProp(w, fast=fast).step(to_device(g))
        results.append(to_host(w))
    np.testing.assert_allclose(*results, rtol=4 * np.finfo(np.float64).eps, atol=0)
