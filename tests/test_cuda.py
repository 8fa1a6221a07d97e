"""Steps on a device: the bits of the oracles, with every optimizer, option and structure."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.arrays import device_array
from fastopt.codecs.floats import floats
from fastopt.optimizers.registry import MODULES
from tests import runs
from tests.cases import CASES, FULLEST, OTHERS, SOME, every_case
from tests.device import (
    SIMULATED,
    assert_same_on_device,
    misaligned,
    sizes,
    skip_without_device,
    to_device,
    to_host,
)
from tests.support import DTYPES, assert_same_bits, problem

skip_without_device()

N = 33 if SIMULATED else 1031


def step_all(case, opt, grads):
    for g in grads:
        case.step(opt, to_device(g))


# The simulator takes its time, and looks at the logic of kernels, not at formulas.
@pytest.mark.parametrize("dtype", DTYPES[: 1 if SIMULATED else None])
@every_case([*SOME, *OTHERS] if SIMULATED else CASES)
def test_same_bits_as_the_oracle(case, dtype):
    w, grads = problem(N, dtype)
    opt = case.make(to_device(w))
    step_all(case, opt, grads)
    assert_same_on_device(opt, *case.expected(w, grads))


@pytest.mark.parametrize(
    "n", sizes(0, 1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 33, 63, 65, 127, 255, 257, 4097)
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SOME[1:2] if SIMULATED else [*SOME, *OTHERS], ids=str)
def test_sizes(case, dtype, n):
    w, grads = problem(n, dtype, steps=2)
    opt = case.make(to_device(w))
    step_all(case, opt, grads)
    assert_same_on_device(opt, *case.expected(w, grads))


@pytest.mark.parametrize("which", ["param", "gradient", "state"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned(which, dtype):
    w, grads = problem(N, dtype, steps=2)
    place = {
        name: misaligned if name == which else to_device for name in ("param", "gradient", "state")
    }
    v = place["state"](np.zeros(N, dtype))
    opt = fastopt.RMSProp(place["param"](w), lr=0.03, state={"square_avg": v})
    for g in grads:
        opt.step(place["gradient"](g))
    same = fastopt.RMSProp(w, lr=0.03)
    for g in grads:
        same.step(g)
    assert_same_on_device(opt, w, same.state)


def test_from_one_alignment_to_the_other():
    w, grads = problem(N, np.float32, steps=4)
    opt = fastopt.Adam(to_device(w))
    same = fastopt.Adam(w)
    for i, g in enumerate(grads):
        opt.step(misaligned(g) if i % 2 else to_device(g))
        same.step(g)
    assert_same_on_device(opt, w, same.state)


OPTIONS = {
    "bounds": {"bounds": (-0.5, lambda t: 0.6 - 0.1 * t)},
    "average": {"average_decay": 0.7},
    "zero_grad": {"zero_grad": True},
    "clip_norm": {"clip_norm": lambda t: 3.0 / (1 + t)},
    "skip": {"skip_nonfinite": True},
    "all": {
        "maximize": True,
        "clip_value": 0.9,
        "clip_norm": 2.0,
        "weight_decay": 0.1,
        "bounds": (-1.0, 1.0),
        "average_decay": 0.5,
        "skip_nonfinite": True,
        "zero_grad": True,
    },
}


# Every two of optimizer, options and dtype.
TOGETHER = [
    (kind, name, DTYPES[(i + j) % 2])
    for i, kind in enumerate([fastopt.RMSProp, fastopt.NAdam, fastopt.SGD])
    for j, name in enumerate(OPTIONS)
]


@pytest.mark.parametrize(("kind", "name", "dtype"), TOGETHER)
def test_options_as_on_the_cpu(kind, name, dtype):
    options = OPTIONS[name]
    w, grads = problem((5, 9), dtype)
    opt, same = kind(to_device(w), **options), kind(w, **options)
    for i, g in enumerate(grads):
        on_device = to_device(g)
        opt.step(on_device, grad_scale=[1.0, 8.0, 3.0][i])
        same.step(g, grad_scale=[1.0, 8.0, 3.0][i])
        assert_same_bits(to_host(on_device), g)
        assert opt.last == same.last
        assert opt.step_count == same.step_count
    assert_same_on_device(opt, w, same.state)


def test_arrays_as_bounds_and_copies():
    w, grads = problem(N, np.float32)
    low, high = np.full(N, -0.3, np.float32), np.linspace(0, 1, N, dtype=np.float32)
    half, double = np.zeros(N, np.float16), np.zeros(N, np.float64)
    copies = {name: to_device(array) for name, array in {"half": half, "double": double}.items()}
    opts = [
        fastopt.RMSProp(to_device(w), bounds=(to_device(low), to_device(high)), copy_to=copy)
        for copy in copies.values()
    ]
    same = fastopt.RMSProp(w, bounds=(low, high), copy_to=half)
    for g in grads:
        for opt in opts:
            opt.step(to_device(g))
        same.step(g)
    for opt in opts:
        assert_same_on_device(opt, w, same.state)
    assert_same_bits(to_host(copies["half"]), half)
    assert_same_bits(to_host(copies["double"]), w.astype(np.float64))


class Bits:
    """An array of bfloat16 as torch has it: the interface knows its bits only."""

    __module__ = "torch"
    is_cuda, dtype = True, "torch.bfloat16"

    def __init__(self, array):
        self.array = array if hasattr(array, "copy_to_host") else to_device(array.view(np.uint16))

    def detach(self):
        return self

    def view(self, dtype):
        return self.array

    def data_ptr(self):
        return device_array.enter("bits", self.array).address


@pytest.fixture
def bits_are_torchs(monkeypatch):
    """What a step asks of torch, on the default stream."""
    current = SimpleNamespace(cuda_stream=0)
    torch = SimpleNamespace(int16=None, cuda=SimpleNamespace(current_stream=lambda device: current))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(Bits, "device", 0, raising=False)


FORMATS = {
    "float16": ("float16", "float16", {}),
    "float16, stochastic": ("float16", "float16", {"stochastic_rounding": True, "seed": 7}),
    "float32 states": ("float16", "float16", {"state_dtype": "float32", "average_decay": 0.9}),
    "float16 gradients": ("float32", "float16", {}),
    "float16 states, stochastic": (
        "float32",
        "float32",
        {"state_dtype": "float16", "stochastic_rounding": True},
    ),
    "bfloat16": ("bfloat16", "bfloat16", {"initial_accumulator": 0.3, "average_decay": 0.5}),
    "bfloat16 in 24 bits": ("bfloat16", "bfloat16", {"master_bits": 24, "average_decay": 0.5}),
    "float16 in 32 bits": ("float16", "float32", {"master_bits": 32, "state_dtype": "bfloat16"}),
    "bfloat16, stochastic": ("bfloat16", "float32", {"stochastic_rounding": True, "zero_grad": True}),
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("param", "gradient", "settings"), FORMATS.values(), ids=FORMATS)
def test_16_bits(param, gradient, settings, several, bits_are_torchs):
    """Stored in 16 bits, with nearest or stochastic rounding: the CPU's bits."""
    if SIMULATED and param == "bfloat16":
        pytest.skip("the simulator's arrays have no interface that says nothing but bits")
    w, grads = problem(N, np.float32)
    w, grads = w.astype(floats(param).dtype), [g.astype(floats(gradient).dtype) for g in grads]

    def moved(array):
        return Bits(array) if array.dtype == floats("bfloat16").dtype else to_device(array)

    cut = (lambda x: [x[:16], x[16:]]) if several else (lambda x: x)
    leaves = [moved(x) for x in (cut(w) if several else [w])]
    opt = fastopt.RMSProp(leaves if several else leaves[0], lr=0.03, clip_norm=50.0, **settings)
    same = fastopt.RMSProp(cut(w), lr=0.03, clip_norm=50.0, **settings)
    for g in grads:
        on_device = [moved(x) for x in (cut(g) if several else [g])]
        opt.step(on_device if several else on_device[0])
        same.step(cut(g))
        assert opt.last == same.last
    contents = [to_host(getattr(leaf, "array", leaf)).tobytes() for leaf in leaves]
    assert b"".join(contents) == w.tobytes()
    for name, expected in same.state.items():
        actual = opt.state[name] if several else [opt.state[name]]
        for one, other in zip(actual, expected if several else [expected], strict=True):
            assert to_host(one).tobytes() == other.tobytes(), name


@pytest.mark.skipif(SIMULATED, reason="the simulator's arrays do not say that they are bfloat16")
@pytest.mark.parametrize("name", MODULES)
def test_split_parameters_take_the_steps_of_float32(name, bits_are_torchs):
    dtype, kind = floats("bfloat16").dtype, getattr(fastopt, name)
    w, grads = problem(N, np.float32, steps=3)
    settings = FULLEST.get(kind, {"weight_decay": 0.1})
    opt = kind(Bits(np.zeros(N, dtype)), master_bits=32, **settings)
    opt.set_params(w)
    same = kind(w, **settings)
    for g in grads:
        opt.step(Bits(g.astype(dtype)))
        same.step(g.astype(dtype).astype(np.float32))
    assert_same_bits(opt.decoded_params(), w)
    for state, expected in same.state.items():
        assert_same_bits(to_host(opt.state[state]), expected, state)


def test_source():
    opt = fastopt.RMSProp(to_device(np.ones(5, np.float32)), momentum=0.9)
    assert opt.source.startswith("def element(param, update, state0, state1, hyper0")
    assert "def wide(length, groups, param_at" in opt.source


def soft_sign(update, param, state, hyper):
    (slow,) = state
    beta, one = hyper
    slow = beta * slow + (one - beta) * update
    if slow < 0.0:
        return -math.sqrt(_size(slow)), (slow,)
    return (0.5 if update < 0.0 else -0.5), (slow,)


def _size(x):
    return abs(x) * SCALE


SCALE = 0.25


def test_own_transform():
    transform = t.Transform(soft_sign, state={"slow": 0.125}, hyper=(0.75, 1.0))
    w, grads = problem(N, np.float32)
    chain = fastopt.chain(transform, t.scale_by_learning_rate(0.1))
    opt, same = fastopt.Optimizer(to_device(w), chain), fastopt.Optimizer(w, chain)
    for g in grads:
        opt.step(to_device(g))
        same.step(g)
    assert_same_on_device(opt, w, same.state)


@pytest.mark.skipif(SIMULATED, reason="the simulator compiles nothing")
def test_a_transform_that_cannot_be_compiled_is_named():
    def unknown(update, param, state, hyper):
        return update if update > 0.0 else str(update), ()

    with pytest.raises(TypeError, match="'unknown'"):
        fastopt.Optimizer(to_device(np.ones(3, np.float32)), t.Transform(unknown))


def test_values_at_the_edges():
    """Subnormal, huge, infinite and not a number, as on the CPU."""
    tiny = np.float32(1e-45)
    g = np.array([0, -0.0, tiny, -tiny, 1e-38, 3e38, -3e38, np.inf, -np.inf, np.nan, 1e-20], np.float32)
    w = np.linspace(-1, 1, g.size, dtype=np.float32)
    for settings in ({}, {"eps": 0.0}, {"eps_inside_sqrt": False}, {"centered": True}):
        param = w.copy()
        opt, same = fastopt.RMSProp(to_device(w), **settings), fastopt.RMSProp(param, **settings)
        for _ in range(2):
            opt.step(to_device(g))
            same.step(g)
        assert_same_on_device(opt, param, same.state)


# All of them on a device; on the simulator every optimizer, and every structure twice.
STRUCTURES = [
    (name, structure)
    for i, name in enumerate(runs.OPTIMIZERS)
    for j, structure in enumerate(runs.STRUCTURES)
    if not SIMULATED or i % 4 == j
]


@pytest.mark.parametrize(("name", "structure"), STRUCTURES)
def test_structures_with_none_gradients(name, structure):
    """Lists, dicts and groups, with gradients that are None now and then: the CPU's run."""
    from fastopt.arrays import tree

    def moved(params):
        if isinstance(params, list) and isinstance(params[0], dict):
            return [{**group, "params": moved(group["params"])} for group in params]
        leaves = (to_device(leaf) for _, leaf in tree.leaves(params))
        return tree.rebuild(params, leaves)

    opt = runs.make(name, moved(runs.structure(structure)))
    same = runs.make(name, runs.structure(structure))
    runs.train(same, range(4))
    host = [leaf for _, leaf in tree.leaves(same.params)]
    for step in range(4):
        grads = [runs.random_array(1000 * step + i, x.shape, x.dtype) for i, x in enumerate(host)]
        device_grads = [to_device(g) for g in grads]
        if tree.is_branch(same.params) and step % 3 != 2:
            device_grads[step % len(device_grads)] = None
        opt.step(tree.rebuild(same.params, iter(device_grads)))
    assert opt.step_count == same.step_count
    assert opt.state_dict()["lags"] == same.state_dict()["lags"]
    shown = [leaf for _, leaf in tree.leaves(opt.params)]
    for actual, expected in zip(shown, host, strict=True):
        assert_same_bits(to_host(actual), expected)
    for key in same.state:
        pairs = zip(tree.leaves(opt.state[key]), tree.leaves(same.state[key]), strict=True)
        for (path, actual), (_, expected) in pairs:
            assert_same_bits(to_host(actual), expected, f"{key}{path}")


def test_assigned_settings_act():
    w, grads = problem(N, np.float32)
    opt, same = (fastopt.RMSProp(x, momentum=0.5) for x in (to_device(w), w))
    for i, g in enumerate(grads):
        opt.lr = same.lr = 0.1 / (1 + i)
        opt.momentum = same.momentum = 0.5 - 0.2 * i
        opt.step(to_device(g))
        same.step(g)
    assert_same_on_device(opt, w, same.state)


def test_one_shot():
    w, (g, *_) = problem(N, np.float32)
    v = np.full(N, 0.5, np.float32)
    on_device = [to_device(x) for x in (w, g, v)]
    param, grad, square_avg = on_device
    fastopt.rmsprop_step(param, grad, square_avg=square_avg, lr=0.1)
    fastopt.rmsprop_step(w, g, square_avg=v, lr=0.1)
    assert_same_bits(to_host(on_device[0]), w)
    assert_same_bits(to_host(on_device[2]), v)


def test_shapes_without_elements_or_dimensions():
    for shape in ((), (0,), (3, 0), (1, 1, 1)):
        w, (g, *_) = problem(shape, np.float32)
        opt, same = fastopt.Adam(to_device(w)), fastopt.Adam(w)
        opt.step(to_device(g))
        same.step(g)
        assert_same_on_device(opt, w, same.state)
        assert opt.state["exp_avg"].shape == shape


def test_thousand_arrays():
    rng = np.random.default_rng(3)
    count = 20 if SIMULATED else 1000
    lengths = rng.integers(0, 9 if SIMULATED else 40, count)
    params = [rng.normal(size=n).astype(np.float32) for n in lengths]
    params.append(rng.normal(size=N).astype(np.float32))
    grads = [rng.normal(size=p.size).astype(np.float32) for p in params]
    flat = np.concatenate(params)
    # Slices of one buffer: at every alignment.
    on_device, flat_grads = to_device(flat), to_device(np.concatenate(grads))
    ends = np.cumsum([p.size for p in params])
    cut = [(end - p.size, end) for end, p in zip(ends, params, strict=True)]
    opt = fastopt.Adam([on_device[a:b] for a, b in cut])
    for _ in range(2):
        opt.step([flat_grads[a:b] for a, b in cut])
    same = fastopt.Adam(flat)
    for _ in range(2):
        same.step(np.concatenate(grads))
    assert_same_bits(to_host(on_device), flat)
