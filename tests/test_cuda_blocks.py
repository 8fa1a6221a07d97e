"""States in blocks of 8-bit codes on a device: the codes and scales that the CPU gives, raw."""

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.arrays import device_array, tree
from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM, OTHER, PLAIN
from fastopt.codecs.floats import floats
from fastopt.steps import state_formats
from tests.device import (
    SIMULATED,
    misaligned,
    needs_driver,
    skip_without_device,
    to_device,
    to_host,
)

skip_without_device()

# Smaller arrays have no states in blocks; for the simulator the bound is taken down.
WORTH = BLOCK if SIMULATED else state_formats.WORTH_EIGHT_BITS
N = WORTH + BLOCK + 7
LARGE = WORTH + (0 if SIMULATED else 4096) + 5

only_emulated = pytest.mark.skipif(SIMULATED, reason="one of its kind is enough for the simulator")


@pytest.fixture(autouse=True)
def bound(monkeypatch):
    monkeypatch.setattr(state_formats, "WORTH_EIGHT_BITS", WORTH)


def problem(n, steps=3, seed=0):
    """Gradients whose sizes differ by powers of ten from element to element."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=n).astype(np.float32)
    sizes = 10.0 ** rng.integers(-9, 3, size=(steps, n))
    return w, list((rng.normal(size=(steps, n)) * sizes).astype(np.float32))


def assert_same(opt, same):
    """Parameters and states have the same bits, scales and codes of states in blocks included."""
    for name, actual, expected in [
        ("params", opt.params, same.params),
        *((name, opt.state[name], same.state[name]) for name in same.state),
    ]:
        pairs = zip(tree.leaves(actual), tree.leaves(expected), strict=True)
        for (path, one), (_, other) in pairs:
            copied = to_host(one)
            assert (copied.shape, copied.dtype) == (other.shape, other.dtype)
            assert copied.tobytes() == other.tobytes(), f"{name}{path}"


def step_both(opt, same, grads, place=to_device):
    for g in grads:
        opt.step(place(g))
        same.step(g)


OPTIMIZERS = {
    "RMSProp": (fastopt.RMSProp, {}),
    "RMSProp, everything": (
        fastopt.RMSProp,
        {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "initial_accumulator": 0.25},
    ),
    "SGD": (fastopt.SGD, {"momentum": 0.7}),
    "AdaGrad": (fastopt.AdaGrad, {"lr_decay": 0.1}),
    "Adam": (fastopt.Adam, {"lr": lambda step: 0.1 / (1 + step), "amsgrad": True}),
    "NAdam": (fastopt.NAdam, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize("rounding", [None, False])
@pytest.mark.parametrize("name", ["RMSProp, everything"] if SIMULATED else OPTIMIZERS)
def test_same_codes_as_on_the_cpu(name, rounding):
    n = N if SIMULATED else LARGE
    kind, settings = OPTIMIZERS[name]
    w, grads = problem(n)
    how = {**settings, "state_dtype": "8bit", "stochastic_rounding": rounding, "seed": 5}
    opt, same = kind(to_device(w), **how), kind(w, **how)
    assert_same(opt, same)
    step_both(opt, same, grads)
    assert_same(opt, same)


@only_emulated
@pytest.mark.parametrize("n", [4095, 4096, 4097, 4098, 4127, 4129, 4351, 4353, N])
def test_sizes(n):
    """Around blocks of codes, groups of four and warps."""
    w, grads = problem(n, steps=2)
    opt, same = (fastopt.Adam(x, state_dtype="8bit") for x in (to_device(w), w))
    step_both(opt, same, grads)
    assert_same(opt, same)


@pytest.mark.parametrize("which", ["param", "gradient"])
def test_misaligned(which):
    w, grads = problem(N, steps=2)
    places = {name: misaligned if name == which else to_device for name in ("param", "gradient")}
    opt, same = (fastopt.Adam(x, state_dtype="8bit") for x in (places["param"](w), w))
    step_both(opt, same, grads, places["gradient"])
    assert_same(opt, same)


@pytest.mark.parametrize("rounding", [None, False][SIMULATED:])
def test_many_arrays(rounding):
    """Some of them small, some at odd addresses, some without a gradient now and then."""
    sizes = [WORTH, 10, N] if SIMULATED else [WORTH, 10, N, 0, LARGE, WORTH + 1, 300]
    problems = [problem(n, seed=n) for n in sizes]
    w = {str(n): array for n, (array, _) in zip(sizes, problems, strict=True)}
    how = {"state_dtype": "8bit", "stochastic_rounding": rounding, "clip_norm": 100.0}
    opt = fastopt.Adam(
        {name: (misaligned if i % 3 == 2 else to_device)(x) for i, (name, x) in enumerate(w.items())},
        **how,
    )
    same = fastopt.Adam(w, **how)
    for step in range(3):
        g = {name: grads[step] for name, (_, grads) in zip(w, problems, strict=True)}
        if step == 1:
            g[str(WORTH)] = None
        opt.step({name: None if x is None else to_device(x) for name, x in g.items()})
        same.step(g)
        assert opt.last == same.last
    assert_same(opt, same)


@pytest.mark.parametrize("rounding", [None, False])
def test_every_code_and_what_is_not_finite(rounding):
    """All codes at scales from the least to the largest, and gradients of every kind."""
    blocks = 3 if SIMULATED else 24
    rng = np.random.default_rng(1)
    states = {name: np.zeros(blocks, ITEM) for name in ("exp_avg", "exp_avg_sq")}
    for items, ends in zip(states.values(), [(-110, 112), (-90, 127)], strict=True):
        items["codes"] = np.tile(np.arange(BLOCK, dtype=np.uint8), (blocks, 1))
        items["scale"] = 2.0 ** np.linspace(*ends, blocks).round()
        marks = np.resize([0, PLAIN, OTHER if items is states["exp_avg_sq"] else PLAIN], blocks)
        items["scale"].view(np.int32)[:] |= np.where(items["scale"] < 2.0**96, marks, 0)
    special = [0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, np.inf, -np.inf, np.nan, 1e-20, 1.0]
    g = rng.choice(np.array(special, np.float32), BLOCK * blocks)
    g[: BLOCK * 2] = 0
    w = np.ones(BLOCK * blocks, np.float32)
    how = {"stochastic_rounding": rounding, "lr": 0.5}
    state = {name: to_device(items) for name, items in states.items()}
    opt = fastopt.Adam(to_device(w), state=state, **how)
    same = fastopt.Adam(w, state=states, **how)
    assert opt.state["exp_avg"] is state["exp_avg"]
    step_both(opt, same, [g, g[::-1].copy()])
    for name in states:
        assert to_host(opt.state[name]).tobytes() == same.state[name].tobytes(), name
    actual = to_host(opt.params)
    assert np.array_equal(actual, w, equal_nan=True)


FORMATS = {
    "float16": ("float16", "float16", {}),
    "float16, stochastic": ("float16", "float16", {"stochastic_rounding": True}),
    "gradients of 16 bits": ("float32", "float16", {"zero_grad": True}),
    "by name": ("float32", "float32", {"state_dtype": {"exp_avg": "float16", "exp_avg_sq": "8bit"}}),
    "average": (
        "float32",
        "float32",
        {"average_decay": 0.9, "state_dtype": {"average": "8bit"}},
    ),
}


@pytest.mark.parametrize("name", list(FORMATS)[3:] if SIMULATED else FORMATS)
def test_beside_other_formats(name):
    param, gradient, settings = FORMATS[name]
    w, grads = problem(N, steps=2)
    w = w.astype(floats(param).dtype)
    with np.errstate(over="ignore"):
        grads = [g.astype(floats(gradient).dtype) for g in grads]
    how = {"state_dtype": "8bit", **settings}
    opt, same = (fastopt.Adam(x, **how) for x in (to_device(w), w))
    for g in grads:
        on_device = to_device(g)
        opt.step(on_device, grad_scale=4.0)
        same.step(g, grad_scale=4.0)
        assert to_host(on_device).tobytes() == g.tobytes()
    assert_same(opt, same)


@only_emulated
def test_bfloat16(monkeypatch):
    """Parameters of bfloat16, as torch has them, show as their bits."""
    import sys
    from types import SimpleNamespace

    from tests.test_cuda import Bits

    current = SimpleNamespace(cuda_stream=0)
    torch = SimpleNamespace(int16=None, cuda=SimpleNamespace(current_stream=lambda device: current))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(Bits, "device", 0, raising=False)
    w, grads = problem(N)
    w, grads = (x.astype(floats("bfloat16").dtype) for x in (w, np.stack(grads)))
    how = {"state_dtype": "8bit", "stochastic_rounding": True, "seed": 3}
    leaf = Bits(w)
    opt, same = fastopt.Adam(leaf, **how), fastopt.Adam(w, **how)
    for g in grads:
        opt.step(Bits(g))
        same.step(g)
    assert to_host(leaf.array).tobytes() == w.tobytes()
    for name in same.state:
        assert to_host(opt.state[name]).tobytes() == same.state[name].tobytes()


@pytest.mark.parametrize("capturable", [False, True])
def test_with_every_option(capturable):
    w, grads = problem(N)
    grads[1][5] = np.nan
    how = {
        "state_dtype": "8bit",
        "maximize": True,
        "clip_norm": lambda step: 9.0 / (1 + step),
        "clip_value": 2.0,
        "weight_decay": 0.1,
        "bounds": (-1.0, 1.0),
        "average_decay": 0.5,
        "skip_nonfinite": True,
        "zero_grad": True,
        "momentum": 0.5,
        "lr": lambda step: 0.1 / (1 + step),
    }
    opt = fastopt.RMSProp(to_device(w), capturable=capturable, **how)
    same = fastopt.RMSProp(w, **how)
    for g, scale in zip(grads, (1.0, 8.0, 3.0), strict=True):
        opt.step(to_device(g), grad_scale=scale)
        same.step(g, grad_scale=scale)
        assert opt.last == same.last or np.isnan(same.last.norm)
    assert opt.step_count == same.step_count == 2
    assert_same(opt, same)


def test_own_transform_beside_a_small_array():
    """A state of a user's own is in blocks too, where the array is large enough."""

    def halve(update, param, state, hyper):
        (slow,) = state
        slow = 0.5 * slow + update
        return slow, (slow,)

    chain = fastopt.chain(
        t.Transform(halve, state={"slow": 0.0}), t.scale_by_rms(), t.scale_by_learning_rate(0.1)
    )
    w, grads = problem(WORTH)
    how = {"state_dtype": "8bit"}
    opt, same = (fastopt.Optimizer([x], chain, **how) for x in (to_device(w), w))
    for g in grads:
        opt.step([to_device(g)])
        same.step([g])
    assert_same(opt, same)
    assert np.array_equal(opt.decoded("slow")[0], same.decoded("slow")[0])


WAYS = {
    "device to memory": (to_device, lambda x: x),
    "memory to device": (lambda x: x, to_device),
}


@pytest.mark.parametrize("by_file", [True, False], ids=["file", "dict"])
@pytest.mark.parametrize("way", list(WAYS)[1:] if SIMULATED else WAYS)
def test_resumed_elsewhere(way, by_file, tmp_path):
    """Codes and scales are kept raw."""
    places = WAYS[way]
    w, grads = problem(N)
    how = {"state_dtype": "8bit", "momentum": 0.5}
    through = fastopt.RMSProp(w.copy(), **how)
    for g in grads:
        through.step(g)
    first = fastopt.RMSProp(places[0](w.copy()), **how)
    for g in grads[:2]:
        first.step(places[0](g))
    content = first.params if isinstance(first.params, np.ndarray) else to_host(first.params)
    second = fastopt.RMSProp(places[1](content), **how)
    if by_file:
        first.save(tmp_path / "state")
        second.load(tmp_path / "state")
    else:
        second.load_state_dict(first.state_dict())
    second.step(places[1](grads[2]))
    for key, expected in {"params": through.params, **through.state}.items():
        actual = second.params if key == "params" else second.state[key]
        actual = actual if isinstance(actual, np.ndarray) else to_host(actual)
        assert actual.tobytes() == expected.tobytes(), key


def test_states_of_the_callers_own():
    w = to_device(np.ones(N, np.float32))
    blocks = -(-N // BLOCK)
    with pytest.raises(ValueError, match=rf"state\['square_avg'\] must have the shape \({blocks},\)"):
        fastopt.RMSProp(w, state={"square_avg": to_device(np.zeros(blocks + 1, ITEM))})
    double = to_device(np.ones(N))
    with pytest.raises(TypeError, match="must have dtype float64"):
        fastopt.RMSProp(double, state={"square_avg": to_device(np.zeros(blocks, ITEM))})
    with pytest.raises(TypeError, match="state_dtype must be float64"):
        fastopt.RMSProp(double, state_dtype="8bit")


@needs_driver
def test_a_state_at_an_odd_address():
    w, blocks = to_device(np.ones(N, np.float32)), -(-N // BLOCK)
    raw = to_device(np.zeros(blocks * ITEM.itemsize + 2, np.uint8))

    class Shifted:
        dtype = ITEM

        def __init__(self):
            place = device_array.enter("raw", raw).address + 2, False
            interface = {"data": place, "typestr": ITEM.str, "shape": (blocks,)}
            self.__cuda_array_interface__ = {**raw.__cuda_array_interface__, **interface}

    with pytest.raises(ValueError, match=r"state\['square_avg'\] must be aligned"):
        fastopt.RMSProp(w, state={"square_avg": Shifted()})
