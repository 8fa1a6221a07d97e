"""Which sums and statistics go with sparse gradients, and how others are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from tests.refusals import refusal
from tests.sparse_sums import agreement, damped, size, square

modes = pytest.mark.parametrize("mode", ["exact", "lazy"])

# What is asked of a sum: zero for a zero update, whatever parameter, state and hyperparameters are.


def divided(update, param, state, hyper):
    return update * update / (state[0] + 1e-8) + param * math.exp(update) * update


def of_the_sign(update, param, state, hyper):
    if update > 0.0:
        return param
    return -param if update < 0.0 else 0.0


def in_either_branch(update, param, state, hyper):
    return abs(update) if param > hyper[0] else np.sqrt(update * update)


def helped(update, param, state, hyper):
    return square(update, param, state, hyper) * state[0]


def count(update, param, state, hyper):
    return 1.0


def far(update, param, state, hyper):
    return 1.0 if 3.0 < param < 4.0 else update


def of_state(update, param, state, hyper):
    return update + state[0]


def shifted(update, param, state, hyper):
    return (update - param) ** 2


def signed(update, param, state, hyper):
    return math.copysign(1.0, update) - 1.0


def above(update, param, state, hyper):
    return 1.0 if update > hyper[0] else 0.0


def without_end(update, param, state, hyper):
    while param > 1.0:
        param = 0.5 * param
    return update


def same(hyper, sums, carried):
    return hyper, carried


def with_sum(function: Any, kind: str, **how: Any) -> Any:
    def steps(update, param, state, hyper):
        return hyper[0] * update, state

    how = {"hyper": (0.5,), "state": {"s": 0.0}, "no_gradient": steps, "from_sums": same, **how}
    return fastopt.Transform(steps, **{kind: {"mine": function}}, **how)


@modes
@pytest.mark.parametrize("kind", ["sums", "sums_after"])
@pytest.mark.parametrize(
    "function", [square, agreement, size, divided, of_the_sign, in_either_branch, helped]
)
def test_sums_that_are_zero_without_an_update_are_accepted(function: Any, kind: str, mode: str) -> None:
    opt = fastopt.Optimizer(np.ones((3, 2)), with_sum(function, kind), sparse=mode)
    opt.step((np.array([1]), np.ones((1, 2))))
    assert opt.params[1, 0] == 0.5


@modes
@pytest.mark.parametrize("kind", ["sums", "sums_after"])
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (count, "can be 1.0"),
        (far, "can be 1.0"),
        (of_state, "depends on"),
        (shifted, "depends on"),
        (signed, "can be -2.0"),
        (above, "can be 1.0"),
        (without_end, "cannot be told"),
    ],
)
def test_other_sums_are_refused(function: Any, why: str, kind: str, mode: str) -> None:
    words = ["sum 'mine'", "steps", why, "sparse=None", "0.0 for an update of 0.0"]
    with refusal(ValueError, words):
        fastopt.Optimizer(np.ones((3, 2)), with_sum(function, kind), sparse=mode)


def moved(update, param, state, hyper):
    return (update - param) * (update - param)


@modes
def test_sums_of_the_new_parameter_see_that_it_stays(mode: str) -> None:
    after = with_sum(moved, "sums", after=True, state={}, hyper=(1.0,), no_gradient=None)
    if mode == "exact":
        after = with_sum(moved, "sums", after=True, state={}, hyper=(1.0,))
    w = np.ones((3, 2))
    opt = fastopt.Optimizer(w, chain(t.scale_by_learning_rate(0.5), after), sparse=mode)
    opt.step((np.array([1]), np.ones((1, 2))))
    assert w.tolist() == [[1, 1], [0.5, 0.5], [1, 1]]
    with refusal(ValueError, ["sum 'mine'", "depends on"]):
        fastopt.Optimizer(w, with_sum(square, "sums", after=True, state={}), sparse=mode)


@pytest.mark.parametrize("front", [lambda: t.add_decayed_weights(0.1), lambda: t.trace(0.9)])
def test_rows_that_move_without_a_gradient_are_refused_in_exact_mode(front: Any) -> None:
    parts = chain(front(), t.clip_by_global_norm(1.0))
    with refusal(ValueError, ["sum 'squares'", "clip_by_global_norm", "exact", "lazy"]):
        fastopt.Optimizer(np.ones((3, 2)), parts, sparse="exact")
    fastopt.Optimizer(np.ones((3, 2)), parts, sparse="lazy").step((np.array([0]), np.ones((1, 2))))
    fastopt.Optimizer(np.ones((3, 2)), chain(t.clip_by_global_norm(1.0), front()), sparse="exact")


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (fastopt.LAMB, {}, ["sum 'param'", "scale_by_trust_ratio"]),
        (fastopt.LARS, {}, ["sum 'param'", "scale_by_trust_ratio"]),
        (fastopt.Prodigy, {}, ["sum 'gradients'", "scale_by_prodigy"]),
        (fastopt.DoG, {}, ["sum 'distance'", "scale_by_dog"]),
        (fastopt.RMSProp, {"lr": "auto"}, ["sum 'param' of lr='auto' is over"]),
        (fastopt.SGD, {"stats": ["grad_norm", "param_norm"]}, ["statistic 'param_norm'"]),
        (fastopt.SGD, {"stats": ["param_nonfinite"]}, ["statistic 'param_nonfinite'"]),
        (fastopt.RMSProp, {"stats": ["square_avg_mean"]}, ["statistic 'square_avg_mean'"]),
    ],
)
@modes
def test_optimizers_and_statistics_over_all_rows_are_refused(
    kind: Any, settings: Any, words: Any, mode: str
) -> None:
    with refusal(ValueError, ["sparse", *words]):
        kind(np.ones((3, 2)), sparse=mode, **settings)


def test_statistics_of_updates_need_rows_that_stay_in_exact_mode() -> None:
    moving = {"lr": 0.1, "momentum": 0.9, "stats": ["update_norm"]}
    with refusal(ValueError, ["update_norm", "exact", "lazy"]):
        fastopt.SGD(np.ones((3, 2)), sparse="exact", **moving)
    opt = fastopt.SGD(np.ones((3, 2)), sparse="lazy", **moving)
    opt.step((np.array([1]), np.ones((1, 2))))
    assert math.isclose(opt.stats["update_norm"], 0.1 * 2**0.5)


@modes
def test_a_group_with_other_sums_takes_dense_gradients_only(mode: str) -> None:
    table, layer = np.ones((4, 3)), np.ones((2, 2))
    chains = [chain(t.scale_by_learning_rate(0.5)), chain(t.scale_by_trust_ratio(), t.scale(0.1))]
    opt = fastopt.Optimizer([[table], [layer]], chains, sparse=mode)
    opt.step([[(np.array([2]), np.ones((1, 3)))], [np.ones((2, 2))]])
    assert table[2, 0] == 0.5
    assert np.allclose(layer, 0.9)
    previous = table.tobytes(), layer.tobytes()
    sparse = np.array([1]), np.ones((1, 2))
    with refusal(ValueError, ["sum 'param'", "scale_by_trust_ratio", "sparse"]):
        opt.step([[np.ones((4, 3))], [sparse]])
    assert (table.tobytes(), layer.tobytes(), opt.step_count) == (*previous, 1)


def test_sums_that_leave_no_closed_form_are_an_error_before_anything_is_written() -> None:
    def refuses(update, param, state, hyper):
        if hyper[1] < 0.7:
            raise ValueError("keeps too little")
        return update, (hyper[1] * state[0],)

    def less(hyper, sums, carried):
        return (1.0, 0.9 if sums[0] < 50.0 else 0.5, 0.1), carried

    part = fastopt.Transform(
        damped,
        state={"average": 0.0},
        no_gradient=refuses,
        sums={"squares": square},
        from_sums=less,
        carried={},
    )
    w = np.ones((3, 2))
    opt = fastopt.Optimizer(w, part, sparse="exact")
    opt.step((np.array([1]), np.ones((1, 2))))
    previous = w.tobytes()
    with refusal(ValueError, ["damped", "keeps too little", "lazy"]):
        opt.step((np.array([2]), np.full((1, 2), 9.0)))
    assert (w.tobytes(), opt.step_count) == (previous, 1)
    opt.step((np.array([2]), np.ones((1, 2))))
    assert np.isclose(opt.state["average"][1, 0], 0.9 * 0.1)


def test_a_one_shot_function_takes_both() -> None:
    class Clipped(fastopt.NamedOptimizer):
        lr: fastopt.Number = fastopt.setting(default=0.5)

        def make_parts(self):
            return [t.clip_by_global_norm(1.0), *self.decay_and_rate()]

    w = np.zeros((3, 2))
    rows = np.array([2, 0])
    fastopt.one_shot(Clipped)(w, (rows, np.array([[3.0, 0.0], [0.0, 4.0]])), sparse="lazy")
    assert np.allclose(w, [[0, -0.4], [0, 0], [-0.3, 0]])
