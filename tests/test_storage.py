"""Steps over arrays in every storage format: the bits of the specification, from every executor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.codecs.blocks import ITEM, SIGNED, UNSIGNED
from fastopt.codecs.floats import floats
from fastopt.codecs.rounding import noise, phase
from tests.stored import BFLOAT16, EVERYTHING, FORMATS, N, arrays, assert_same, eight_bits, run
from tests.support import COMPILED, assert_same_bits, sizes

# Each array is converted by itself: every two of parameter, state and rounding, but not every three.
TOGETHER = [
    (param, state, (None, True, False)[(i + j) % 3])
    for i, param in enumerate(FORMATS)
    for j, state in enumerate([None, "bfloat16", "float16", "float32", "8bit"])
]


@pytest.mark.parametrize(("param", "state", "rounding"), TOGETHER)
def test_executors_agree(param, state, rounding):
    settings = {"state_dtype": state, "stochastic_rounding": rounding, "seed": 11, **EVERYTHING}
    dtype = FORMATS[param]
    expected = run("reference", N, dtype, **settings)
    for executor in ("serial", "parallel"):
        assert_same(run(executor, N, dtype, **settings), expected)


@pytest.mark.parametrize("grad", FORMATS)
@pytest.mark.parametrize("param", FORMATS)
def test_gradients_of_another_format(param, grad):
    size = 1000 if COMPILED else 100
    expected = run("reference", size, FORMATS[param], FORMATS[grad], clip_norm=1.0)
    assert_same(run("serial", size, FORMATS[param], FORMATS[grad], clip_norm=1.0), expected)
    assert_same(run("parallel", size, FORMATS[param], FORMATS[grad], clip_norm=1.0), expected)


def test_format_of_gradients_may_change():
    w, grads = arrays(100, np.float32)
    one, other = (fastopt.RMSProp(x, executor=e) for x, e in ((w, "serial"), (w.copy(), "reference")))
    for grad, dtype in zip(grads * 2, [*FORMATS.values()] * 2, strict=True):
        one.step(grad.astype(dtype))
        other.step(grad.astype(dtype))
    assert_same(one, other)


def test_each_gradient_of_a_list_has_its_own_format():
    w = [np.ones(50, np.float32), np.ones(70, BFLOAT16), np.ones(3, np.float16)]
    grads = [np.full(50, 0.5, BFLOAT16), None, np.full(3, 0.5, np.float32)]
    opt = fastopt.RMSProp(w, lr=0.1, zero_grad=True)
    opt.step(grads)
    assert [len(np.unique(x)) for x in w] == [1, 1, 1]
    assert w[0][0] < 1
    assert w[1][0] == 1
    assert not grads[0].any()
    assert not grads[2].any()


@pytest.mark.parametrize("rounding", [False, True])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", sizes(0, 1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 65, 255, 256, 257, 4099))
def test_16_bits_against_numpy(size, name, rounding):
    """Decode, step in float32, encode: typed out."""
    w, grads = arrays(size, FORMATS[name])
    expected, square_avg = w.copy(), np.zeros(size, FORMATS[name])
    opt = fastopt.RMSProp(w, lr=0.01, beta=0.9, eps=1e-8, stochastic_rounding=rounding, seed=5)
    codec = floats(name)
    beta, mix, lr, eps = (np.float32(x) for x in (0.9, 1 - 0.9, 0.01, 1e-8))
    for step, grad in enumerate(grads):
        opt.step(grad)
        x, g, v = (a.astype(np.float32) for a in (expected, grad, square_avg))
        v = beta * v + mix * g * g
        x = x - lr * (g / np.sqrt(v + eps))
        bits = [noise(0, size, phase(5, step), slot) if rounding else None for slot in (0, 2)]
        expected, square_avg = codec.encode(x, bits[0]), codec.encode(v, bits[1])
        assert_same_bits(opt.state["square_avg"], square_avg)
        assert_same_bits(w, expected)


@eight_bits
@pytest.mark.parametrize("rounding", [None, False])
@pytest.mark.parametrize("size", [4096, 4097, 4351, 5003, 70_001])
def test_8_bits_against_numpy(size, rounding):
    w, grads = arrays(size, np.float32)
    expected = w.copy()
    settings = {"momentum": 0.5, "state_dtype": "8bit", "stochastic_rounding": rounding}
    opt = fastopt.RMSProp(w, lr=0.01, **settings)
    v_codes, b_codes = (c.encode(np.zeros(size, np.float32), None) for c in (UNSIGNED, SIGNED))
    beta, mix, lr, eps, half = (np.float32(x) for x in (0.9, 1 - 0.9, 0.01, 1e-8, 0.5))
    single = np.dtype(np.float32)
    for step, g in enumerate(grads):
        opt.step(g)
        v = beta * UNSIGNED.decode(v_codes, single)[:size] + mix * g * g
        b = half * SIGNED.decode(b_codes, single)[:size] + g / np.sqrt(v + eps)
        expected = expected - lr * b
        bits = [None if rounding is False else noise(0, size, phase(0, step), s) for s in (2, 3)]
        v_codes, b_codes = UNSIGNED.encode(v, bits[0]), SIGNED.encode(b, bits[1])
        assert_same_bits(w, expected)
        assert_same_bits(opt.state["square_avg"], v_codes)
        assert_same_bits(opt.state["momentum_buffer"], b_codes)


@eight_bits
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(16, 60), st.booleans())
def test_split_at_blocks_changes_nothing(blocks, more, rounding):
    """Each part large enough for 8 bits."""
    size = (16 + blocks + more) * 256 + 13
    w, grads = arrays(size, BFLOAT16, steps=2)
    options = {"lr": 0.01, "state_dtype": "8bit", "stochastic_rounding": rounding or None}
    whole = fastopt.Adam(w.copy(), **options)
    cut = (16 + blocks) * 256
    parts = fastopt.Adam([w[:cut], w[cut:]], **options)
    for grad in grads:
        whole.step(grad)
        parts.step([grad[:cut], grad[cut:]])
    assert_same_bits(w, whole.params)
    for name, expected in whole.state.items():
        assert_same_bits(np.concatenate(parts.state[name]), expected)


@eight_bits
@pytest.mark.parametrize("threads", range(1, fastopt.get_num_threads() + 1))
def test_any_number_of_threads(threads):
    settings = {"state_dtype": "8bit", "stochastic_rounding": True}
    with fastopt.threads(threads):
        got = run("parallel", 100_003, BFLOAT16, **settings)
    assert_same(got, run("serial", 100_003, BFLOAT16, **settings))


def test_float16_and_tiny_epsilon_give_no_nan():
    w = np.ones(300, np.float16)
    opt = fastopt.RMSProp(w, eps=1e-8)
    for _ in range(3):
        opt.step(np.zeros(300, np.float16))
    assert (w == 1).all()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_overflow_is_that_of_a_cast(name):
    dtype = FORMATS[name]
    w = np.array([1.0, -1.0, 2.0], dtype)
    with np.errstate(over="ignore"):
        expected = np.array([-1e39, 1e39, 2.0]).astype(dtype)
    fastopt.SGD(w, lr=3e38).step(np.array([4.0, -4.0, 0.0], dtype))
    assert_same_bits(w, expected)


def test_a_nonfinite_gradient_changes_only_its_element():
    w, _ = arrays(N, np.float32)
    grad = np.full(N, 0.5, np.float32)
    grad[[3, 70]] = np.nan, np.inf
    opt = fastopt.Adam(w, state_dtype="8bit")
    opt.step(grad)
    opt.step(np.ones(N, np.float32))
    assert np.flatnonzero(~np.isfinite(w)).tolist() == [3, 70]


@eight_bits
def test_nonfinite_like_the_specification():
    settings = {"state_dtype": "8bit", "lr": 0.1}
    for bad in (np.nan, -np.nan, np.inf, -np.inf, 3e38, 1e-38):
        opts = []
        for executor in ("serial", "reference"):
            w, grads = arrays(4096 + 300, np.float32)
            opts.append(fastopt.Adam(w, executor=executor, **settings))
            for grad in grads:
                grad[[0, 300, 4300]] = bad
                opts[-1].step(grad)
        one, other = opts
        for name in one.state:
            assert_same_bits(one.state[name], other.state[name], name)
        np.testing.assert_array_equal(one.params, other.params)


KINDS_OF_BLOCKS = {
    "ordinary": [1.0],
    "zeros": [0.0],
    "some zeros": [0.0, 1.0, 3.0],
    "a wide range": [1.0, 1e-5, 1e-9],
    "zeros and a wide range": [0.0, 1e-6, 1.0],
    "not finite": [np.nan, np.inf, -np.inf, 1.0],
    "large": [1e18, 1e17],
    "tiny": [1e-20, 3e-20],
    "subnormal": [1e-42, 0.0],
}


@eight_bits
@pytest.mark.parametrize("rounding", [None, False])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_blocks_of_every_kind_like_the_specification(rounding, beta):
    """In turn, from one step to the next: plain and other blocks beside each other."""
    rng = np.random.default_rng(3)
    kinds = list(KINDS_OF_BLOCKS.values())
    size = 5 * len(kinds) * 256 + 77
    settings = {"lr": 0.1, "beta1": beta, "beta2": beta, "state_dtype": "8bit"}
    settings["stochastic_rounding"] = rounding
    w = rng.normal(size=size).astype(np.float32)
    opts = [fastopt.Adam(w.copy(), executor=e, **settings) for e in ("serial", "reference")]
    for _ in range(3):
        chosen = np.concatenate(
            [rng.choice(kinds[i], 256) * rng.uniform(0.5, 1, 256) for i in rng.integers(9, size=46)]
        )
        grad = chosen[:size].astype(np.float32)
        for opt in opts:
            opt.step(grad)
        for name, state in opts[0].state.items():
            assert_same_bits(state, opts[1].state[name], name)
        np.testing.assert_array_equal(opts[0].params, opts[1].params)


@eight_bits
def test_states_without_marks_are_read():
    """From before there were marks: all blocks are full ones."""
    w, grads = arrays(4096, np.float32)
    old = {name: np.zeros(16, ITEM) for name in ("exp_avg", "exp_avg_sq")}
    for items, least in zip(old.values(), (0, 130), strict=True):
        items["codes"] = least + np.arange(256) % 90 + np.arange(16)[:, None]
        items["scale"] = 2.0 ** np.arange(-8, 8)
    opts = []
    for executor in ("serial", "reference"):
        state = {name: items.copy() for name, items in old.items()}
        opts.append(fastopt.Adam(w.copy(), state=state, executor=executor))
        decoded = SIGNED.decode(old["exp_avg"], np.dtype(np.float32))
        assert_same_bits(opts[-1].decoded("exp_avg"), decoded)
        opts[-1].step(grads[0])
    assert_same(*opts)
    assert (opts[0].state["exp_avg_sq"]["scale"].view(np.int32) & 1).all()
