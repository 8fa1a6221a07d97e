"""Copies of optimizers: by `copy`, by pickle; and what `repr` shows."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.arrays import tree
from tests.runs import OPTIMIZERS, STRUCTURES, assert_same, falling, make, structure, train


def pickled(value):
    return pickle.loads(pickle.dumps(value))


COPIERS = pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])


def assert_goes_on_alone(twin, opt):
    """Both continue with the same bits, and each with arrays of its own."""
    assert_same(twin, opt)
    previous = copy.deepcopy(opt.params)
    train(twin, range(opt.step_count, opt.step_count + 4))
    for (_, now), (_, then) in zip(tree.leaves(opt.params), tree.leaves(previous), strict=True):
        assert now.tobytes() == then.tobytes()
    train(opt, range(opt.step_count, opt.step_count + 4))
    assert_same(twin, opt)


@COPIERS
@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_named_optimizers(name, kind, duplicate):
    opt = make(name, structure(kind))
    train(opt, range(4))
    twin = duplicate(opt)
    assert type(twin) is type(opt)
    assert repr(twin) == repr(opt)
    assert twin.last == opt.last
    assert_goes_on_alone(twin, opt)


@COPIERS
def test_what_was_assigned_goes_along(duplicate):
    opt = make("options", structure("groups"))
    opt.weight_decay = 0.0  # stays in the chain
    opt.groups[0].lr = 0.25
    opt.clip_norm = falling
    train(opt, range(2))
    twin = duplicate(opt)
    for optimizer in (opt, twin):
        assert optimizer.groups[0].lr == 0.25
        optimizer.weight_decay = 0.5
        optimizer.groups[1].beta1 = 0.5
    assert_goes_on_alone(twin, opt)


def sign_update(update, param, state, hyper):
    (exp_avg,) = state
    beta, mix, one = hyper
    exp_avg = beta * exp_avg + mix * update
    return math.copysign(one, exp_avg), (exp_avg,)


SIGN = fastopt.Transform(sign_update, state={"exp_avg": 0.0}, hyper=(0.9, 0.1, 1.0))


@COPIERS
def test_a_chain(duplicate):
    """Of functions of modules, which can be pickled."""
    chain = fastopt.chain(t.add_decayed_weights(0.1), SIGN, t.trace(0.5), t.scale_by_learning_rate(0.1))
    opt = fastopt.Optimizer(structure("dict"), chain, clip_norm=1.0)
    train(opt, range(3))
    assert_goes_on_alone(duplicate(opt), opt)


def test_any_chain_can_be_copied():
    chains = [
        fastopt.chain(t.scale_by_adam(beta2=rate), t.scale_by_learning_rate(rate))
        for rate in (falling, 0.5)
    ]
    opt = fastopt.Optimizer(structure("list")[:2], chains)
    train(opt, range(3))
    assert_goes_on_alone(copy.deepcopy(opt), opt)


@COPIERS
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (fastopt.SGD, {"momentum": 0.9, "dampening": 0.5}),
        (fastopt.NAdam, {"weight_decay": 0.1}),
    ],
)
def test_dialect(kind, settings, duplicate):
    opt = kind.like("torch", structure("array"), **settings)
    assert_goes_on_alone(duplicate(opt), opt)


@COPIERS
def test_keras_epsilon(duplicate):
    opt = fastopt.Adam.like("keras", structure("array"))
    assert_goes_on_alone(duplicate(opt), opt)


class Mine(fastopt.RMSProp):
    """A subclass with arguments of its own."""

    def __init__(self, params, speed):
        super().__init__(params, lr=10 * speed, momentum=0.5)


@COPIERS
def test_a_subclass(duplicate):
    opt = Mine(structure("array"), 0.01)
    train(opt, range(2))
    twin = duplicate(opt)
    assert type(twin) is Mine
    assert_goes_on_alone(twin, opt)


class Trainer:
    """Holds the optimizer, which holds its schedule."""

    def __init__(self):
        self.base, self.w = 0.5, np.ones(4)
        self.opt = fastopt.Adam(self.w, lr=self.rate)

    def rate(self, step):
        return self.base / (1 + step)


@COPIERS
def test_an_optimizer_whose_schedule_knows_it(duplicate):
    opt = Trainer().opt
    train(opt, range(2))
    twin = duplicate(opt)
    trainer = twin.lr.__self__
    assert trainer.opt is twin
    assert trainer.w is twin.params is not opt.params
    assert_goes_on_alone(twin, opt)


@COPIERS
def test_what_is_shared_stays_shared(duplicate):
    w = np.ones(4)
    v = np.zeros(4)
    opt = fastopt.RMSProp(w, state={"square_avg": v})
    model = duplicate({"weights": w, "opt": opt, "square": v})
    twin = model["opt"]
    assert model["weights"] is twin.params is not w
    assert model["square"] is twin.state["square_avg"] is not v
    train(twin, range(1))
    train(opt, range(1))
    assert model["weights"].tobytes() == w.tobytes()


@COPIERS
def test_groups_of_a_copy(duplicate):
    opt = make("adam", structure("groups"))
    twin, group = duplicate((opt, opt.groups[1]))
    group.lr = 0.125
    assert (twin.groups[1].lr, opt.groups[1].lr) == (0.125, 0.5)


def test_memory_maps_are_copied_to_memory(tmp_path):
    opt = make("adam", structure("array"), state_dir=tmp_path / "state")
    train(opt, range(2))
    files = {path: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    twin = copy.deepcopy(opt)
    train(twin, range(2, 3))
    assert files == {path: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    train(opt, range(2, 3))
    assert_same(twin, opt)


def test_a_lambda_can_be_copied_but_not_pickled():
    opt = fastopt.Adam(np.ones(3), lr=lambda step: 0.1)
    train(opt, range(2))
    assert_goes_on_alone(copy.deepcopy(opt), opt)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(opt)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_states_of_a_copy_start_from_other_parameters_too(duplicate):
    """Before the first step, but for states that the caller gave."""
    z = np.full(3, 5.0)
    opt = fastopt.SGD(np.ones(3), average_decay=0.5, schedule_free=0.5, state={"z": z})
    twin = duplicate(opt)
    twin.set_params(np.zeros(3))
    assert twin.state["average"].tolist() == [0.0] * 3
    assert twin.state["z"].tolist() == [5.0] * 3


def test_a_shallow_copy_shares_its_arrays():
    opt = make("adam", structure("array"))
    twin = copy.copy(opt)
    assert twin.params is opt.params
    assert twin.state["exp_avg"] is opt.state["exp_avg"]


def test_representation():
    w = np.ones(1000, np.float32)
    opt = fastopt.RMSProp(
        [w, np.ones(2)],
        lr=falling,
        beta=0.5,
        bounds=([np.zeros_like(w), np.zeros(2)], 3.0),
        copy_to=[np.empty(1000), np.empty(2)],
        clip_norm=2.5,
    )
    text = repr(opt)
    assert text.startswith("RMSProp(<1002 elements>, lr=<schedule falling>, beta=0.5, bounds=(")
    assert "bounds=([<array float32 (1000,)>, <array float64 (2,)>], 3.0)" in text
    assert "copy_to=[<array float64 (1000,)>, <array float64 (2,)>]" in text
    assert text.endswith("clip_norm=2.5, step_count=0)")
    assert len(text) < 600


def test_representation_of_groups_and_chains():
    opt = fastopt.SGD([{"params": np.ones(2), "lr": 0.5}, {"params": np.ones(3)}])
    assert repr(opt) == "SGD(<5 elements>, groups=[{'lr': 0.5}, {}], step_count=0)"
    assert list(map(repr, opt.groups)) == ["Group(<2 elements>, lr=0.5)", "Group(<3 elements>)"]
    chain = fastopt.chain(t.scale_by_rms(), t.at_most(np.zeros(1000)))
    text = repr(fastopt.Optimizer(np.ones(1000), chain, skip_nonfinite=True))
    assert text == f"Optimizer(<1000 elements>, {chain!r}, skip_nonfinite=True, step_count=0)"
    assert len(text) < 200


def test_representation_as_html():
    opt = fastopt.RMSProp(np.ones(3), lr=0.5, momentum=falling)
    opt.step(np.ones(3))
    html = opt._repr_html_()
    assert html.startswith("<table><caption>RMSProp of 3 elements</caption>")
    assert "<tr><th>lr</th><td>0.5</td></tr>" in html
    assert "<td>&lt;schedule falling&gt;</td>" in html
    assert html.endswith("<tr><th>step_count</th><td>1</td></tr></table>")
