"""A custom optimizer class has everything that the built-in ones have."""

import copy
import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize

import fastopt
import fastopt.interop.scipy
from fastopt import transforms as t
from tests.examples import toy_optimizer
from tests.examples.toy_optimizer import AdaShift
from tests.refusals import refusal
from tests.support import DTYPES, assert_same_bits, problem

PAGE = Path(__file__).parent.parent / "docs" / "own-transform.md"


def falling(step):
    return 0.1 / (1 + step)


def reference(w, grads, lr, beta=0.999, eps=1e-8, decay=0.0):
    """Algorithm 1 of the paper with n = 1 and the identity for phi, in float64; w_1 = w_0."""
    w, v = np.array(w, np.float64), np.zeros(w.size)
    for step, g in enumerate(grads):
        v_now = beta * v + (1 - beta) * grads[step - 1].astype(np.float64) ** 2 if step else v
        rate = lr(step) if callable(lr) else lr
        if step:
            update = g / (np.sqrt(v_now / (1 - beta**step)) + eps)
            w -= rate * (update + decay * w)
        else:
            w -= rate * decay * w
        v = v_now
    return w


def test_the_page_has_this_class():
    source = inspect.getsource(toy_optimizer)
    assert source[source.index("def adashift_update") :].strip() in PAGE.read_text("utf-8")


@pytest.mark.parametrize("lr", [0.1, falling], ids=["number", "schedule"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_rule_of_the_paper(dtype, lr):
    w, grads = problem(50, dtype, steps=5)
    opt = AdaShift(w.copy(), lr, beta=0.9)
    for g in grads:
        opt.step(g)
    expected = reference(w, grads, lr, beta=0.9)
    np.testing.assert_allclose(opt.params, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert_same_bits(opt.state["grad_before"], grads[-1])


@pytest.mark.parametrize("executor", ["parallel", "reference"])
def test_every_executor_gives_the_same_bits(executor):
    w, grads = problem(50, np.float32, steps=3)
    one, other = (AdaShift(w.copy(), executor=way) for way in ("serial", executor))
    for g in grads:
        one.step(g)
        other.step(g)
    assert_same_bits(one.params, other.params)


def test_settings_are_declared_and_assigned():
    assert list(inspect.signature(AdaShift).parameters)[:4] == ["params", "lr", "beta", "eps"]
    opt = AdaShift(np.zeros(3), 0.5)
    assert (opt.lr, opt.beta, opt.eps) == (0.5, 0.999, 1e-8)
    opt.lr = falling
    opt.step(np.ones(3))
    assert opt.current("lr") == 0.05
    opt.lr = opt.current("lr") / 2
    assert repr(opt) == "AdaShift(<3 elements>, lr=0.025, step_count=1)"
    with pytest.raises(AttributeError, match="learning_rate"):
        opt.learning_rate = 0.1
    with refusal(TypeError, ["AdaShift", "beta1", "lr", "beta", "weight_decay"]):
        AdaShift(np.zeros(3), beta1=0.5)
    with refusal(ValueError, ["beta", "[0, 1)"]):
        AdaShift(np.zeros(3), beta=1.0)
    with refusal(TypeError, ["AdaShift", "by position", "params, lr, beta, eps"]):
        AdaShift(np.zeros(3), 0.1, 0.9, 1e-8, True)
    with refusal(TypeError, ["AdaShift", "two values for lr"]):
        AdaShift(np.zeros(3), 0.1, lr=0.1)
    with refusal(TypeError, ["AdaShift", "needs the argument params"]):
        AdaShift()


def test_what_replaces_a_setting_without_being_one():
    with refusal(TypeError, ["Wrong.lr", "declared", "setting(default=...)"]):

        class Wrong(fastopt.NamedOptimizer):
            lr = 0.1


def test_what_is_missing():
    class Needy(fastopt.NamedOptimizer):
        mass: fastopt.Number = fastopt.setting(kw_only=True)

    with refusal(TypeError, ["Needy", "make_parts"]):
        Needy(np.ones(3), mass=1.0)

    class Complete(Needy):
        def make_parts(self):
            return self.decay_and_rate()

    with refusal(TypeError, ["Complete", "needs the argument mass"]):
        Complete(np.ones(3))


def test_signatures():
    """Own settings by name, and the options of all together."""
    assert list(inspect.signature(fastopt.AdamW).parameters)[-3:] == [
        "weight_decay",
        "decoupled_weight_decay",
        "shared",
    ]
    assert list(inspect.signature(fastopt.Optimizer).parameters) == ["params", "chain", "shared"]


def test_groups():
    a, b = np.ones(2), np.ones(2)
    opt = AdaShift([{"params": a, "lr": 1.0}, {"params": b}], lr=0.5, clip_value=2.0)
    for _ in range(2):
        opt.step([np.full(2, 5.0), np.full(2, 5.0)])
    np.testing.assert_allclose(1.0 - a, 2 * (1.0 - b))
    opt.groups[1].lr = falling
    assert opt.groups[1].current("lr") == falling(2)
    assert repr(opt.groups[0]) == "Group(<2 elements>, lr=1.0, clip_value=2.0)"


OPTIONS = {
    "maximize": True,
    "clip_value": 0.5,
    "clip_norm": 0.25,
    "weight_decay": 0.5,
    "bounds": (-0.1, 0.1),
    "average_decay": 0.5,
    "skip_nonfinite": True,
    "zero_grad": True,
}


@pytest.mark.parametrize("name", OPTIONS)
def test_shared_options(name):
    """They do what they do on the chain that says the same."""
    w, grads = problem(20, np.float64, steps=3)
    parts = fastopt.chain(toy_optimizer.scale_by_adashift(0.999, 1e-8), t.scale_by_learning_rate(0.5))
    custom = AdaShift(w.copy(), lr=0.5, **{name: OPTIONS[name]})
    bare = fastopt.Optimizer(w.copy(), parts, **{name: OPTIONS[name]})
    for g in grads:
        custom.step(g.copy())
        bare.step(g.copy())
    assert_same_bits(custom.params, bare.params)
    assert custom.state.keys() == bare.state.keys()
    assert getattr(custom, name) == getattr(bare, name) == OPTIONS[name]


def test_decoupled_decay():
    w, grads = problem(20, np.float64, steps=3)
    opt = AdaShift(w.copy(), lr=0.1, weight_decay=0.5, decoupled_weight_decay=True)
    for g in grads:
        opt.step(g)
    np.testing.assert_allclose(opt.params, reference(w, grads, 0.1, decay=0.5), rtol=1e-12)


def test_decoupled_decay_that_would_have_no_effect():
    class Forgetful(fastopt.NamedOptimizer):
        def make_parts(self):
            return [t.scale_by_learning_rate(self.lr)]

    Forgetful(np.ones(3), decoupled_weight_decay=True)  # of zero
    with refusal(ValueError, ["decoupled_weight_decay", "make_parts", "self.decay_and_rate()"]):
        Forgetful(np.ones(3), weight_decay=0.1, decoupled_weight_decay=True)
    with refusal(ValueError, ["decoupled_weight_decay", "add_decayed_weights", "chain"]):
        fastopt.Optimizer(np.ones(3), t.scale(0.1), weight_decay=0.1, decoupled_weight_decay=True)


@pytest.mark.parametrize("how", ["pickle", "copy", "save", "state_dict"])
def test_it_is_resumed(how, tmp_path):
    w, grads = problem(20, np.float32, steps=4)
    opt = AdaShift(w.copy(), lr=falling, average_decay=0.5, clip_norm=2.0)
    for g in grads[:2]:
        opt.step(g)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(opt))
    elif how == "copy":
        other = copy.deepcopy(opt)
    else:
        other = AdaShift(opt.params.copy(), lr=falling, average_decay=0.5, clip_norm=3.0)
        if how == "save":
            opt.save(tmp_path / "own.npz")
            other.load(tmp_path / "own.npz")
        else:
            other.load_state_dict(opt.state_dict())
    assert other.clip_norm == 2.0
    for g in grads[2:]:
        opt.step(g)
        other.step(g)
    assert_same_bits(opt.params, other.params)
    assert repr(opt) == repr(other)


def test_its_one_shot_form():
    w, grads = problem(20, np.float64, steps=3)
    opt, step_of = AdaShift(w.copy(), lr=0.1), fastopt.one_shot(AdaShift)
    states = {name: np.zeros(20) for name in opt.state}
    for step, g in enumerate(grads):
        opt.step(g)
        step_of(w, g, **states, step=step, lr=0.1)
    assert_same_bits(w, opt.params)
    with refusal(TypeError, ["adashift_step", "needs step"]):
        step_of(w, grads[0], **states)
    with refusal(ValueError, ["exp_avg_sq"]):
        step_of(w, grads[0], step=0, grad_before=states["grad_before"])


def test_minimizing():
    result = fastopt.minimize(lambda x: ((x**2).sum(), 2 * x), np.ones(3), optimizer=AdaShift)
    assert abs(result.x).max() < 1e-2  # with the learning rate of the class
    method = fastopt.interop.scipy.method(AdaShift)
    assert method.__name__ == "adashift"
    same = scipy.optimize.minimize(lambda x: ((x**2).sum(), 2 * x), np.ones(3), jac=True, method=method)
    assert_same_bits(same.x, result.x)
    with pytest.warns(scipy.optimize.OptimizeWarning, match="beta1"):
        scipy.optimize.minimize(
            lambda x: (x**2).sum(), np.ones(3), method=method, options={"beta1": 0.5, "maxiter": 3}
        )
    for wrong in (fastopt.Optimizer, "adam"):
        with refusal(TypeError, ["optimizer", "class"]):
            fastopt.interop.scipy.method(wrong)


def test_its_dialects():
    class Spoken(AdaShift):
        dialects = {"paper": lambda alpha, beta2=0.9: {"lr": alpha, "beta": beta2}}  # noqa: RUF012

    opt = Spoken.like("paper", np.ones(3), alpha=0.5, clip_value=1.0)
    assert (opt.lr, opt.beta, opt.clip_value) == (0.5, 0.9, 1.0)
    with refusal(ValueError, ["dialect", "paper", "Spoken"]):
        Spoken.like("torch", np.ones(3))
    with refusal(ValueError, ["dialect", "none", "AdaShift"]):
        AdaShift.like("torch", np.ones(3))


class EarlyAverage(fastopt.NamedOptimizer):
    def make_parts(self):
        return [t.average_params(0.5), *self.decay_and_rate()]


class Nested(fastopt.NamedOptimizer):
    def make_parts(self):
        return [t.chain(t.scale_by_learning_rate(self.lr), t.average_params(0.5))]


def test_an_average_stands_at_the_end():
    with refusal(ValueError, ["after=True", "end"]):
        EarlyAverage(np.ones(3))
    opt = Nested(np.ones(3), lr=0.5, bounds=(0.75, None))
    opt.step(np.ones(3))
    assert opt.params.tolist() == [0.75] * 3
    assert opt.state["average"].tolist() == [0.875] * 3  # of parameters within the bounds


def test_a_setting_that_is_declared_again_keeps_its_position():
    class Later(AdaShift):
        beta: fastopt.Number = fastopt.setting(default=0.5)
        strict: fastopt.Flag = fastopt.setting(default=False, kw_only=True)

    names = list(inspect.signature(Later).parameters)
    assert names[:5] == ["params", "lr", "beta", "eps", "strict"]
    assert Later(np.ones(3)).beta == 0.5
    assert isinstance(Later.beta, type(AdaShift.beta))


def test_a_rate_that_every_group_has_of_its_own():
    opt = fastopt.SGD([{"params": np.ones(2), "lr": 0.5}, {"params": np.ones(2), "lr": 0.25}])
    with refusal(ValueError, ["every group", "its own lr", "opt.groups"]):
        opt.lr = 0.1
    for read in (lambda: opt.lr, lambda: opt.current("lr")):
        with refusal(AttributeError, ["every group", "its own lr", "opt.groups"]):
            read()
    assert [group.lr for group in opt.groups] == [0.5, 0.25]
    assert [group.current("lr") for group in opt.groups] == [0.5, 0.25]
    some = fastopt.SGD([{"params": np.ones(2), "lr": 0.5}, {"params": np.ones(2)}], lr=0.125)
    assert some.lr == some.current("lr") == 0.125
    opt.momentum = 0.0
    one = fastopt.SGD(np.ones(2), lr=0.5)
    one.groups[0].lr = 0.25
    assert one.lr == 0.25
    one.lr = 0.125
    assert one.groups[0].lr == 0.125


@pytest.mark.parametrize("name", ["nesterov", "bounds", "state_dtype"])
def test_what_has_no_current_value(name):
    opt = fastopt.RMSProp(np.ones(3))
    with pytest.raises((TypeError, AttributeError), match=name):
        opt.current(name)


def test_chains_have_options_of_their_groups():
    a, b = np.ones(2), np.ones(2)
    opt = fastopt.Optimizer([a, b], [t.scale(0.5), t.scale(0.25)], weight_decay=1.0)
    opt.groups[1].weight_decay = 0.0
    opt.step([np.zeros(2), np.zeros(2)])
    assert (a.tolist(), b.tolist()) == ([0.5, 0.5], [1.0, 1.0])
    assert repr(opt).endswith("weight_decay=1.0, groups=[{}, {'weight_decay': 0.0}], step_count=1)")
    twin = pickle.loads(pickle.dumps(opt))
    assert repr(twin) == repr(opt)
    other = fastopt.Optimizer([a, b], [t.scale(0.5), t.scale(0.25)], weight_decay=2.0)
    other.load_state_dict(opt.state_dict())
    assert repr(other) == repr(opt)
