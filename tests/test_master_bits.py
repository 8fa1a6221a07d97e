"""Parameters of 16 bits with a correction: the steps of float32, with every option."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.codecs.base import ENCODE_CHUNK
from fastopt.codecs.floats import floats
from fastopt.optimizers.registry import MODULES
from fastopt.steps.stepper import stepper_of
from tests.cases import FULLEST
from tests.support import COMPILED, EXECUTORS, assert_same_bits, compiled_suite_only, problem

BFLOAT16 = floats("bfloat16").dtype
N = 259 if COMPILED else 40


def split(w, kind, bits=32, dtype=BFLOAT16, **settings):
    """An optimizer whose parameters are those of `w` in this many bits."""
    opt = kind(np.zeros(w.shape, dtype), master_bits=bits, **settings)
    opt.set_params(w)
    return opt


def assert_same_steps(opt, same, w):
    """All numbers are those of an optimizer over the float32 array `w`."""
    assert_same_bits(opt.decoded_params(), w)
    assert opt.state.keys() == {"correction", *same.state}
    for name in same.state:
        assert_same_bits(opt.state[name], same.state[name], name)
    half = opt.params.astype(np.float32)
    assert (np.abs(half - w) <= np.abs(w) * 2.0**-8).all()


# How bits are split has no part in formulas: compiled, some of all kinds; interpreted, all.
@pytest.mark.parametrize("name", list(MODULES)[:: 4 if COMPILED else 1])
def test_every_optimizer_takes_the_steps_of_float32(name):
    kind = getattr(fastopt, name)
    w, grads = problem(N, np.float32, steps=1000 if COMPILED else 8)
    settings = dict(FULLEST.get(kind, {"weight_decay": 0.1}))
    opt, same = split(w, kind, **settings), kind(w, **settings)
    for g in grads:
        half = g.astype(BFLOAT16)  # the format that the kernel was compiled for
        opt.step(half)
        same.step(half.astype(np.float32))
    assert np.isfinite(w).all()
    assert_same_steps(opt, same, w)


OPTIONS = {
    "weight_decay": 0.1,
    "clip_norm": 5.0,
    "zero_grad": True,
    "average_decay": 0.5,
    "bounds": (-1.0, 1.5),
    "state_dtype": "float16",
    "stochastic_rounding": True,
    "seed": 3,
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("size", [0, 1, 33, 257] if COMPILED else [0, 7])
def test_every_option(executor, size):
    """Random bits of states are those of float32 parameters too."""
    w, grads = problem(size, np.float32, steps=5)
    w = np.clip(w, -1.0, 1.5)
    wide, narrow = np.zeros(size, np.float32), np.zeros(size, np.float32)
    how = OPTIONS | {"executor": executor}
    opt = split(w, fastopt.Adam, copy_to=narrow, **how)
    same = fastopt.Adam(w, copy_to=wide, **how)
    for g in grads:
        copies = g.copy(), g.copy()
        opt.step(copies[0])
        same.step(copies[1])
        assert not copies[0].any()
        assert opt.last == same.last
    assert_same_steps(opt, same, w)
    assert_same_bits(narrow, wide)
    assert (opt.averaged_params() == same.averaged_params().astype(BFLOAT16)).all()


@pytest.mark.skipif(not COMPILED, reason="blocks of codes have many elements")
def test_states_of_8_bits():
    w, grads = problem(3 * 4096 + 5, np.float32, steps=4)
    opt = split(w, fastopt.RMSProp, executor="parallel", state_dtype="8bit")
    same = fastopt.RMSProp(w, executor="serial", state_dtype="8bit")
    for g in grads:
        opt.step(g)
        same.step(g)
    assert_same_steps(opt, same, w)


@compiled_suite_only  # interpreted, there is one
@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_executors_agree(bits, dtype):
    w, grads = problem(N, np.float32)
    opts = [split(w, fastopt.LAMB, bits, dtype, executor=executor) for executor in EXECUTORS]
    for opt in opts:
        for g in grads:
            opt.step(g.astype(dtype))
    for opt in opts[1:]:
        assert_same_bits(opt.params.view(np.uint16), opts[0].params.view(np.uint16))
        for name in opt.state:
            assert_same_bits(opt.state[name], opts[0].state[name], name)


def test_24_bits_are_rounded_once_a_step():
    w, (g, *_) = problem(N, np.float32)
    opt = split(w, fastopt.SGD, 24, lr=0.01)
    previous = opt.decoded_params()
    opt.step(g)
    exact = previous - np.float32(0.01) * g
    error = np.abs(opt.decoded_params().astype(np.float64) - exact)
    assert (error <= np.abs(exact) * 2.0**-16).all()  # half a unit of 16 digits
    assert opt.state["correction"].dtype == np.int8


@pytest.mark.parametrize("bits", [24, 32])
def test_bounds_hold_for_what_shows(bits):
    """They are rounded inwards to the 16-bit format: no weight shows beyond them."""
    w = np.linspace(-1, 1, 64, dtype=np.float32)
    opt = split(w, fastopt.SGD, bits, lr=1e-3, bounds=(-0.1234567, 0.7654321))
    opt.step(np.ones(64, np.float32))
    low, high = opt.params.astype(np.float64).min(), opt.params.astype(np.float64).max()
    assert low >= -0.1234567
    assert high <= 0.7654321
    assert low == opt.decoded_params().min()
    assert high == opt.decoded_params().max()


def mixed(rng):
    """A structure with parameters of all formats."""
    formats = {"a": BFLOAT16, "b": np.float32, "c": np.float16, "d": np.float64}
    return {name: rng.normal(size=(5, 3)).astype(dtype) for name, dtype in formats.items()}


def test_structures_groups_and_copies(tmp_path):
    """Wider parameters stay as they are; everything is saved, loaded, copied and pickled."""
    rng = np.random.default_rng(0)
    params = mixed(rng)
    groups = [
        {"params": params, "lr": 0.1},
        {"params": {"e": np.ones(7, BFLOAT16)}, "lr": 0.01},
        {"params": {"f": np.ones(7, np.float32)}},
    ]
    opt = fastopt.Adam(groups, master_bits=24)
    correction = opt.state["correction"]
    assert correction[0]["b"] is None
    assert correction[0]["d"] is None
    assert correction[2] is None or correction[2] == {"f": None}
    values = [
        {name: rng.normal(size=x.shape) for name, x in group["params"].items()} for group in groups
    ]
    opt.set_params(values)
    wide = opt.decoded_params()
    for name in "ac":
        np.testing.assert_allclose(wide[0][name], values[0][name], rtol=2.0**-16)
    assert_same_bits(wide[0]["d"], values[0]["d"])
    assert wide[0]["b"].dtype == np.float32

    def grads():
        return [
            {n: rng.normal(size=x.shape).astype(x.dtype) for n, x in arrays.items()} for arrays in wide
        ]

    opt.step(grads())
    opt.save(tmp_path / "run.npz", params=True)
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    fresh = [{"params": mixed(rng)}, *({"params": copy.deepcopy(g["params"])} for g in groups[1:])]
    others.append(fastopt.Adam(fresh, master_bits=24))
    others[-1].load(tmp_path / "run.npz")
    others.append(fastopt.Adam(copy.deepcopy([dict(g) for g in groups]), master_bits=24))
    others[-1].load_state_dict(copy.deepcopy(opt.state_dict()))
    g = grads()
    for each in (opt, *others):
        each.step(g)
    expected = opt.decoded_params()
    for each in others:
        actual = each.decoded_params()
        for group, same in zip(actual, expected, strict=True):
            for name in same:
                assert_same_bits(group[name], same[name], name)


@pytest.mark.parametrize("mode", ["exact", "lazy"])
def test_sparse_gradients(mode):
    """Rows move in float32, those without a gradient too."""
    w, _ = problem((9, 5), np.float32)
    how = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01, "sparse": mode}
    opt, same = split(w, fastopt.SGD, **how), fastopt.SGD(w, **how)
    rng = np.random.default_rng(1)
    for _ in range(4):
        rows = rng.integers(0, 9, 4)
        values = rng.normal(size=(4, 5)).astype(np.float32)
        opt.step((rows, values))
        same.step((rows, values))
    opt.catch_up()
    same.catch_up()
    assert_same_steps(opt, same, w)


def test_parts_of_a_step_and_missing_gradients():
    w, grads = problem(N, np.float32)
    opt, same = split(w, fastopt.RMSProp), fastopt.RMSProp(w)
    for g in grads:
        for each in (opt, same):
            stepper = stepper_of(each)()
            stepper.begin(g, 1.0)
            assert stepper.decide()
            stepper.run(0, 33)
            stepper.run(33, N)
            stepper.end()
    assert_same_steps(opt, same, w)
    pair = [np.ones(3, BFLOAT16), np.ones(3, BFLOAT16)]
    opt = fastopt.RMSProp(pair, master_bits=32)
    opt.step([None, np.ones(3, np.float32)])
    assert (pair[0] == 1).all()
    assert not opt.state["correction"][0].any()
    assert opt.state["correction"][1].all()


def test_one_shot_and_arrays_of_the_callers():
    w, grads = problem(N, np.float32)
    half, rest = np.zeros(N, BFLOAT16), np.zeros(N, np.int16)
    square_avg = np.zeros(N, np.float32)
    opt = split(w, fastopt.RMSProp, lr=0.1)
    fastopt.RMSProp(half, master_bits=32, state={"correction": rest}).set_params(w)
    for g in grads:
        opt.step(g)
        fastopt.rmsprop_step(half, g, square_avg=square_avg, correction=rest, lr=0.1, master_bits=32)
    assert_same_bits(half.view(np.uint16), opt.params.view(np.uint16))
    assert_same_bits(rest, opt.state["correction"])
    # States that start from the parameter start from all of it.
    joined = fastopt.RMSProp(half, master_bits=32, average_decay=0.5, state={"correction": rest})
    assert_same_bits(joined.state["average"], joined.decoded_params())


def test_chains_and_states_in_files(tmp_path):
    w, (g, *_) = problem(N, np.float32)
    chain = fastopt.chain(t.trace(0.9), t.scale_by_learning_rate(0.1))
    opt = fastopt.Optimizer(np.zeros(N, BFLOAT16), chain, master_bits=32, state_dir=tmp_path / "states")
    opt.set_params(w)
    same = fastopt.Optimizer(w, chain)
    opt.step(g)
    same.step(g)
    assert_same_steps(opt, same, w)
    assert len(list((tmp_path / "states").iterdir())) == 2


@pytest.mark.parametrize("bits", [None, 32])
def test_values_from_the_parameters_themselves(bits):
    first, second = np.full(5, 1.0, np.float16), np.full(5, 2.0, np.float16)
    opt = fastopt.SGD([first, second], lr=1e-4, master_bits=bits)
    opt.set_params([second, first])
    assert_same_bits(first, np.full(5, 2.0, np.float16))
    assert_same_bits(second, np.full(5, 1.0, np.float16))
    several = np.zeros(6 * ENCODE_CHUNK, np.float16)
    several[: 4 * ENCODE_CHUNK] = np.arange(4 * ENCODE_CHUNK) % 1000
    w, values = several[ENCODE_CHUNK // 2 :][: 4 * ENCODE_CHUNK], several[: 4 * ENCODE_CHUNK]
    expected = values.copy()
    fastopt.SGD(w, master_bits=bits).set_params(values)
    assert_same_bits(w, expected)


def test_values_without_master_bits():
    """`set_params` and `decoded_params` serve every optimizer."""
    for dtype in (np.float16, BFLOAT16, np.float32, np.float64):
        w = np.zeros(5, dtype)
        opt = fastopt.SGD(w)
        opt.set_params(np.linspace(0, 1, 5))
        assert_same_bits(w.view(np.uint8), np.linspace(0, 1, 5).astype(dtype).view(np.uint8))
        wide = opt.decoded_params()
        assert wide.dtype == (np.float64 if dtype == np.float64 else np.float32)
        wide += 1
        assert w[0] == 0


REFUSED = [
    ({"master_bits": 16}, ValueError, r"master_bits must be 24, 32 or None, got 16"),
    ({"master_bits": True}, TypeError, "master_bits must be 24, 32 or None, not True"),
    ({"master_bits": "24"}, TypeError, "master_bits must be"),
    ({"master_bits": 24, "state": {"correction": np.zeros(3, np.int16)}}, TypeError, "dtype int8"),
    ({"master_bits": 32, "state": {"correction": np.zeros(4, np.int16)}}, ValueError, "shape"),
    ({"state": {"correction": np.zeros(3, np.int16)}}, ValueError, "unknown names"),
]


@pytest.mark.parametrize(("settings", "error", "message"), REFUSED)
def test_refusals(settings, error, message):
    with pytest.raises(error, match=message):
        fastopt.SGD(np.zeros(3, np.float16), **settings)


def test_refusals_by_the_parameters():
    with pytest.raises(ValueError, match="master_bits must be None for parameters of float32"):
        fastopt.SGD([np.zeros(3, np.float32), np.zeros(3)], master_bits=24)
    taken = fastopt.Transform(lambda u, p, s, h: (u, s), state={"correction": 0.0})
    with pytest.raises(ValueError, match="a state 'correction'"):
        fastopt.Optimizer(np.zeros(3, np.float16), taken, master_bits=24)
    pair = [np.zeros(3, np.float16), np.zeros(3, np.float32)]
    halves = [np.zeros(3, np.int8), np.zeros(3, np.int8)]
    with pytest.raises(ValueError, match=r"\[1\] must be None for a parameter of float32"):
        fastopt.SGD(pair, master_bits=24, state={"correction": halves})


def test_refused_values_change_nothing():
    pair = [np.ones(3, np.float16), np.ones(3, np.float16)]
    opt = fastopt.SGD(pair, master_bits=32)
    opt.set_params([np.full(3, 1.2345), np.full(3, 1.2345)])
    previous = opt.decoded_params()
    for values, error in [
        ([np.zeros(3), np.zeros(4)], ValueError),
        ([np.zeros(3), np.zeros(3, int)], TypeError),
        ([np.zeros(3), [0, 0, 0]], TypeError),
        ([np.zeros(3), None], TypeError),
        ([np.zeros(3)], ValueError),
    ]:
        with pytest.raises(error, match="params"):
            opt.set_params(values)
    pair[1].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt.set_params([np.zeros(3), np.zeros(3)])
    pair[1].flags.writeable = True
    for actual, expected in zip(opt.decoded_params(), previous, strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("master_bits", [24, 32])
@pytest.mark.parametrize("how", ["state_dict", "file"])
def test_a_run_without_master_bits_resumes_with_them(how, master_bits, tmp_path):
    """What was stored is what it had: the corrections start from zero again."""
    w, grads = problem(60, np.float16, steps=4)
    plain = fastopt.Adam(w.copy(), state_dtype=np.float32)
    for g in grads[:2]:
        plain.step(g)
    fresh = fastopt.Adam(plain.params.copy(), master_bits=master_bits)
    used = fastopt.Adam(plain.params.copy(), master_bits=master_bits)
    for g in grads:
        used.step(g)
    used.params[...] = plain.params
    fresh.load_state_dict(plain.state_dict())
    if how == "file":
        plain.save(tmp_path / "run.npz", params=True)
        used.load(tmp_path / "run.npz")
    else:
        used.load_state_dict(plain.state_dict())
    assert_same_bits(used.decoded_params(), plain.params.astype(np.float32))
    for g in grads[2:]:
        fresh.step(g)
        used.step(g)
    assert_same_bits(used.params, fresh.params)
    assert_same_bits(used.decoded_params(), fresh.decoded_params())


def test_checkpoints_of_others_are_refused(tmp_path):
    opts = [fastopt.SGD(np.ones(3, np.float16), master_bits=bits) for bits in (None, 24, 32)]
    for one in opts:
        one.save(tmp_path / "run.npz")
        for other in opts:
            if one is not other and one is not opts[0]:
                with pytest.raises(ValueError, match="has master_bits"):
                    other.load_state_dict(one.state_dict())
                with pytest.raises(ValueError, match="has master_bits"):
                    other.load(tmp_path / "run.npz")
