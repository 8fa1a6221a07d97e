"""A run that was saved and resumed has the bits of one that was not; what does not fit is refused."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests.runs import (
    OPTIMIZERS,
    STRUCTURES,
    assert_same,
    falling,
    make,
    snapshot,
    structure,
    train,
)


def through_file(saved, fresh, folder):
    saved.save(folder / "state.npz")
    fresh.load(folder / "state.npz")


def through_dict(saved, fresh, folder):
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))


WAYS = pytest.mark.parametrize("move", [through_file, through_dict], ids=["file", "dict"])


def renewed(opt, name):
    """The parameters of `opt` as they are now, for another optimizer like a new one."""
    now = copy.deepcopy(opt.params)
    if name != "groups":
        return now
    return [{**group, "params": params} for group, params in zip(structure(name), now, strict=True)]


@WAYS
@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_has_the_same_bits(name, kind, move, tmp_path):
    opt = make(name, structure(kind))
    train(opt, range(4))
    fresh = make(name, renewed(opt, kind))
    move(opt, fresh, tmp_path)
    assert_same(fresh, opt)
    train(opt, range(4, 9))
    train(fresh, range(4, 9))
    assert_same(fresh, opt)


@WAYS
def test_numbers_are_taken_over(move, tmp_path):
    """Those that were assigned, of groups too, and whatever kind of number it was."""
    opt = make("options", structure("groups"))
    opt.lr, opt.clip_norm, opt.beta1 = np.float32(0.25), 0.125, np.float64(0.5)
    opt.weight_decay = 0  # switched off, but still there
    opt.groups[0].eps = 1e-3
    train(opt, range(3))
    fresh = make("options", renewed(opt, "groups"))
    fresh.groups[1].eps = 0.5  # the saved one has none of its own
    move(opt, fresh, tmp_path)
    assert (fresh.lr, fresh.clip_norm, fresh.beta1, fresh.weight_decay) == (0.25, 0.125, 0.5, 0)
    assert [group.lr for group in fresh.groups] == [0.25, 0.5]
    assert [group.eps for group in fresh.groups] == [1e-3, 1e-8]
    for optimizer in (opt, fresh):
        train(optimizer, range(3, 5))
        optimizer.weight_decay = 0.2
        train(optimizer, range(5, 7))
    assert_same(fresh, opt)


@WAYS
@pytest.mark.parametrize("saved", [0.5, falling])
def test_schedules_stay(saved, move, tmp_path):
    opt = fastopt.Adam(np.ones(3), lr=saved)
    other = fastopt.Adam(np.ones(3), lr=falling)
    move(opt, other, tmp_path)
    assert other.lr is falling
    number = fastopt.Adam(np.ones(3), lr=0.75)
    move(opt, number, tmp_path)
    assert number.lr == (0.75 if saved is falling else 0.5)


@WAYS
def test_a_custom_chain(move, tmp_path):
    parts = t.scale_by_adam(), t.average_params(falling), t.scale_by_learning_rate(0.1)
    chain = fastopt.chain(parts[0], parts[2], parts[1])
    opt = fastopt.Optimizer(structure("dict"), chain, clip_norm=1.0)
    train(opt, range(3))
    fresh = fastopt.Optimizer(copy.deepcopy(opt.params), chain, clip_norm=2.0)
    move(opt, fresh, tmp_path)
    train(opt, range(3, 6))
    train(fresh, range(3, 6))
    assert_same(fresh, opt)


def test_the_state_dict_is_live():
    opt = make("adam", structure("array"))
    kept = opt.state_dict()
    train(opt, range(1))
    assert kept["state"]["exp_avg"] is opt.state["exp_avg"]
    assert kept["state"]["exp_avg"].any()


@pytest.mark.parametrize("match", ["path", "position"])
def test_arrays_of_a_live_state_dict_may_change_places(match):
    opt = fastopt.SGD([np.zeros(3), np.zeros(3), np.zeros((2, 2))], momentum=0.5)
    opt.step([np.ones(3), np.full(3, 2.0), np.arange(4.0).reshape(2, 2)])
    saved = opt.state_dict()
    one, other, square = saved["state"]["momentum_buffer"]
    saved["state"]["momentum_buffer"] = [other[::-1], one, square.T]
    opt.load_state_dict(saved, match=match)
    one, other, square = opt.state["momentum_buffer"]
    assert (one.tolist(), other.tolist()) == ([2.0] * 3, [1.0] * 3)
    assert square.tolist() == [[0.0, 2.0], [1.0, 3.0]]


ADAM = {"amsgrad": True}

OTHERS = {
    "optimizer": (lambda p: fastopt.AdamW(p, weight_decay=0.0, amsgrad=True), "optimizer"),
    "transforms": (lambda p: fastopt.Adam(p, clip_value=1.0, **ADAM), "transforms"),
    "flags": (lambda p: fastopt.Adam(p, eps_inside_sqrt=True, **ADAM), "transforms"),
    "states": (lambda p: fastopt.Adam(p), "transforms"),
    "clipping": (lambda p: fastopt.Adam(p, clip_norm=1.0, **ADAM), "has clip_norm off"),
    "skipping": (lambda p: fastopt.Adam(p, skip_nonfinite=True, **ADAM), "has skip_nonfinite off"),
    "rounding": (
        lambda p: fastopt.Adam(p, seed=3, **ADAM),
        "has stochastic_rounding and seed [None, 0]",
    ),
    "fewer arrays": (lambda p: fastopt.Adam(p[:-1], **ADAM), "arrays"),
    "shape": (lambda p: fastopt.Adam([p[0][:-1].copy(), *p[1:]], **ADAM), "(6,)"),
    "dtype": (lambda p: fastopt.Adam([p[0].astype(np.float64), *p[1:]], **ADAM), "float32"),
}


@WAYS
@pytest.mark.parametrize("other", OTHERS)
def test_another_optimizer_is_refused(other, move, tmp_path):
    saved = make("adam", structure("list"))
    train(saved, range(4))
    make_other, word = OTHERS[other]
    opt = make_other(structure("list"))
    train(opt, range(2))
    previous = snapshot(opt)
    with pytest.raises((TypeError, ValueError)) as caught:
        move(saved, opt, tmp_path)
    assert word in str(caught.value)
    assert snapshot(opt) == previous
    train(opt, range(2, 4))
    control = make_other(structure("list"))
    train(control, range(4))
    assert_same(opt, control)


def _without(key):
    return lambda d: d.pop(key)


def _set(*path_and_value):
    *path, last, value = path_and_value

    def change(d):
        for key in path:
            d = d[key]
        d[last] = value

    return change


MALFORMED = {
    **{f"no {key}": (_without(key), key) for key in (
        "version", "optimizer", "transforms", "clips_norm", "skips_nonfinite", "step_count", "lags",
        "settings", "state",
    )},
    "version": (_set("version", 3), "version 3"),
    "count": (_set("step_count", -1), "step_count"),
    "count is a flag": (_set("step_count", True), "step_count"),
    "lags": (_set("lags", 3), "lags"),
    "negative lag": (_set("lags", [0, 0, -1, 0]), "lags"),
    "lag beyond count": (_set("lags", [0, 0, 0, 99]), "lags"),
    "lag of text": (_set("lags", [0, 0, 0, "1"]), "lags"),
    "settings": (_set("settings", None), "settings"),
    "no common": (lambda d: d["settings"].pop("common"), "common"),
    "no clip_norm": (lambda d: d["settings"].pop("clip_norm"), "clip_norm"),
    "groups": (_set("settings", "groups", [{}, {}]), "groups"),
    "group of text": (_set("settings", "groups", ["lr"]), "group"),
    "unknown setting": (_set("settings", "common", "rho", 0.5), "rho"),
    "missing setting": (lambda d: d["settings"]["common"].pop("lr"), "lr"),
    "bad number": (_set("settings", "common", "lr", -1.0), "lr"),
    "not a number": (_set("settings", "common", "lr", "fast"), "lr"),
    "clipping on": (_set("settings", "clip_norm", 1.0), "clip_norm"),
    "part on": (_set("settings", "common", "weight_decay", 0.5), "transforms"),
    "flag on": (_set("settings", "common", "eps_inside_sqrt", True), "transforms"),
    "state names": (lambda d: d["state"].pop("exp_avg"), "exp_avg"),
    "state is a list": (_set("state", []), "exp_avg"),
    "state structure": (_set("state", "exp_avg", ()), "exp_avg"),
    "state of text": (_set("state", "exp_avg", ["x"] * 4), "exp_avg"),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_state_dict_is_refused(what):
    opt = make("adam", structure("list"))
    train(opt, range(3))
    later = copy.deepcopy(opt)
    later.lr = 0.5
    train(later, range(3, 5))
    saved = copy.deepcopy(later.state_dict())
    change, word = MALFORMED[what]
    change(saved)
    previous = snapshot(opt)
    with pytest.raises((TypeError, ValueError)) as caught:
        opt.load_state_dict(saved)
    assert word in str(caught.value)
    assert snapshot(opt) == previous
    assert opt.load_state_dict(later.state_dict()) is None  # what the change was made to is fine


@pytest.mark.parametrize("saved", [None, [], "state", 3])
def test_not_a_dict(saved):
    with pytest.raises(TypeError, match="dict"):
        make("adam", structure("array")).load_state_dict(saved)


@WAYS
def test_a_schedule_that_fails_where_the_run_resumes(move, tmp_path):
    """Found before anything is changed."""
    opt = make("options", structure("groups"))
    train(opt, range(4))
    opt.weight_decay = 0.5
    other = make("options", structure("groups"), lr=lambda step: 0.1 if step < 3 else float("nan"))
    previous = snapshot(other)
    with pytest.raises(ValueError, match="lr"):
        move(opt, other, tmp_path)
    assert snapshot(other) == previous


def test_a_schedule_that_fails_after_a_gradient_was_left_out():
    """The step itself was good; the next one is refused, and can be repeated."""
    values = [0.1, float("nan")]
    params = [np.ones(3), np.ones(3)]
    opt = fastopt.SGD(params, lr=lambda step: values[min(step, 1)])
    g = np.ones(3)
    opt.step([g, None])
    for _ in range(2):
        with pytest.raises(ValueError, match="lr"):
            opt.step([g, g])
    values[1] = 0.2
    opt.step([g, g])
    assert params[0].tolist() == [1 - 0.1 - 0.2] * 3
    assert params[1].tolist() == [1 - 0.1] * 3
    assert opt.step_count == 2
