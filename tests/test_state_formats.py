"""What users choose and see of the formats of states: names, sizes, errors, saving and copying."""

import copy
import pickle
import re

import numpy as np
import pytest

import fastopt
from fastopt.codecs.blocks import ITEM, UNSIGNED
from fastopt.codecs.floats import floats
from tests.refusals import refusal
from tests.stored import BFLOAT16, FORMATS, N, arrays, assert_same, eight_bits


@eight_bits
def test_memory_of_states():
    w = np.zeros(10**6, np.float32)
    held = {
        cls: sum(a.nbytes for a in cls(w, state_dtype="8bit").state.values()) / w.size
        for cls in (fastopt.RMSProp, fastopt.Adam)
    }
    assert held[fastopt.RMSProp] == pytest.approx(1.016, abs=1e-3)
    assert held[fastopt.Adam] == pytest.approx(2.03, abs=2e-3)


def test_choice_by_name_and_size():
    w = [np.zeros(4096, np.float32), np.zeros(4095, np.float32)]
    formats = {"exp_avg": "bfloat16", "exp_avg_sq": "8bit"}
    opt = fastopt.Adam(w, state_dtype=formats, average_decay=0.9)
    assert [a.dtype for a in opt.state["exp_avg"]] == [BFLOAT16] * 2
    assert [a.dtype for a in opt.state["exp_avg_sq"]] == [ITEM, np.dtype(np.float32)]
    assert [a.dtype for a in opt.state["average"]] == [np.dtype(np.float32)] * 2
    opt = fastopt.Adam(np.zeros(8, BFLOAT16), average_decay=0.9)
    assert opt.state["exp_avg"].dtype == BFLOAT16
    assert opt.state["average"].dtype == np.float32


def test_decoded():
    w = [np.zeros((64, 80), np.float32), np.zeros((2, 3), np.float16)]
    opt = fastopt.RMSProp(w, state_dtype="8bit", initial_accumulator=0.25)
    first, second = opt.decoded("square_avg")
    assert first.shape == (64, 80)
    assert second.shape == (2, 3)
    assert first.dtype == second.dtype == np.float32
    assert (first == 0.25).all()
    assert (second == 0.25).all()
    with refusal(ValueError, ["name", "square_avg", "'sum'"]):
        opt.decoded("sum")


@pytest.mark.parametrize("rounding", [None, True])
@pytest.mark.parametrize("state", [None, "8bit", "float16"])
def test_resumed_run_has_the_same_bits(tmp_path, state, rounding):
    w, grads = arrays(N, BFLOAT16, steps=6)
    settings = {"state_dtype": state, "stochastic_rounding": rounding, "seed": 3, "average_decay": 0.5}
    straight = fastopt.RMSProp(w.copy(), **settings)
    broken = fastopt.RMSProp(w.copy(), **settings)
    for grad in grads[:3]:
        straight.step(grad)
        broken.step(grad)
    broken.save(tmp_path / "run.npz")
    resumed = {
        "load": fastopt.RMSProp(broken.params.copy(), **settings),
        "dict": fastopt.RMSProp(broken.params.copy(), **settings),
        "copy": copy.deepcopy(broken),
        "pickle": pickle.loads(pickle.dumps(broken)),
    }
    resumed["load"].load(tmp_path / "run.npz")
    resumed["dict"].load_state_dict(copy.deepcopy(broken.state_dict()))
    for grad in grads[3:]:
        straight.step(grad)
        for opt in resumed.values():
            opt.step(grad)
    for opt in resumed.values():
        assert_same(opt, straight)


def test_another_seed_is_another_run():
    saved = fastopt.RMSProp(np.zeros(8, np.float16), seed=1, stochastic_rounding=True).state_dict()
    with refusal(ValueError, ["rounding", "[True, 1]", "[True, 2]"]):
        fastopt.RMSProp(np.zeros(8, np.float16), seed=2, stochastic_rounding=True).load_state_dict(
            saved
        )


def test_states_of_the_callers(tmp_path):
    w, (grad, *_) = arrays(N, np.float32)
    buffer = np.zeros(N, BFLOAT16)
    opt = fastopt.RMSProp(w, state={"square_avg": buffer})
    opt.step(grad)
    assert opt.state["square_avg"] is buffer
    assert buffer.any()
    blocks = np.zeros(UNSIGNED.shape((N,)), ITEM)
    fastopt.rmsprop_step(w, grad, square_avg=blocks, step=0)
    assert blocks["codes"].any()
    with refusal(ValueError, ["state['square_avg']", "shape"]):
        fastopt.RMSProp(w, state={"square_avg": blocks[1:]})
    on_disk = fastopt.RMSProp(w, state_dir=tmp_path / "states", state_dtype="bfloat16")
    on_disk.step(grad)
    assert on_disk.state["square_avg"].dtype == BFLOAT16
    assert isinstance(on_disk.state["square_avg"], np.memmap)


def test_a_users_transform(tmp_path):
    def keep(update, param, state, hyper):
        (total,) = state
        return update, (total + update * update,)

    part = fastopt.Transform(keep, state={"total": 0.0}, nonnegative=("total",))
    runs = []
    for executor in ("reference", "serial", "parallel", "auto"):
        w, grads = arrays(N, np.float16)
        opt = fastopt.Optimizer(w, fastopt.chain(part), state_dtype="8bit", executor=executor)
        opt.step(grads[0] * np.float16(0.001))
        runs.append(opt)
    for opt in runs[1:]:
        assert_same(opt, runs[0])
    with refusal(ValueError, ["nonnegative", "'other'", "'total'"]):
        fastopt.Transform(keep, state={"total": 0.0}, nonnegative=("other",))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"state_dtype": "int8"}, TypeError, ["state_dtype", "8bit", "int8"]),
        ({"state_dtype": "4bit"}, TypeError, ["state_dtype", "8bit", "'4bit'"]),
        ({"state_dtype": "8-bit"}, TypeError, ["state_dtype", "8bit", "'8-bit'"]),
        ({"state_dtype": 8}, TypeError, ["state_dtype", "8"]),
        ({"state_dtype": "float64"}, TypeError, ["state_dtype", "float32", "float64"]),
        ({"state_dtype": {"exp_avg": "8bit"}}, ValueError, ["state_dtype", "exp_avg", "square_avg"]),
        ({"state_dtype": {"square_avg": int}}, TypeError, ["state_dtype['square_avg']", "int"]),
        ({"stochastic_rounding": 1}, TypeError, ["stochastic_rounding", "True, False or None", "1"]),
        ({"seed": -1}, ValueError, ["seed", "-1", "2**32"]),
        ({"seed": 2**32}, ValueError, ["seed", "4294967296"]),
        ({"seed": 1.0}, TypeError, ["seed", "whole number", "1.0"]),
        ({"seed": True}, TypeError, ["seed", "True"]),
    ],
)
def test_bad_options(settings, error, words):
    w = np.ones(8, np.float32)
    with refusal(error, words):
        fastopt.RMSProp(w, **settings)
    assert (w == 1).all()


def test_float64_keeps_its_states():
    with refusal(TypeError, ["state_dtype", "float64", "'8bit'"]):
        fastopt.RMSProp(np.ones(8), state_dtype="8bit")
    with refusal(TypeError, ["grads", "float64", "float16"]):
        fastopt.RMSProp(np.ones(8)).step(np.ones(8, np.float16))


def test_bfloat16_without_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    floats.cache_clear()
    with pytest.raises(ImportError, match=re.escape("pip install ml_dtypes")):
        fastopt.RMSProp(np.ones(8, np.float32), state_dtype="bfloat16")
    floats.cache_clear()


def test_norm_and_buffers_of_16_bits():
    for dtype in FORMATS.values():
        x = fastopt.empty(1001, dtype)
        x[:] = 0.5
        assert fastopt.global_norm(x) == pytest.approx(0.5 * 1001**0.5)
        flat, views = fastopt.flatten([x, x[:7]])
        assert flat.dtype == dtype
        assert views[1].shape == (7,)
    assert fastopt.empty(3, "bfloat16").dtype == BFLOAT16
