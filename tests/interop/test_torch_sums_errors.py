"""What is refused of automatic rates, statistics and optimizers with sums, and what the errors say."""

import numpy as np
import pytest

import fastopt
from tests.interop.torch_pairs import fast, torch


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        ("AdamW", {"lr": "auto"}, "'auto'"),
        ("AdamW", {"stats": ("grad_norm",)}, "stats must be empty"),
        ("Prodigy", {}, "scale_by_prodigy"),
        ("DoG", {}, "scale_by_dog"),
    ],
)
def test_sums_over_all_parameters_are_refused_inside_the_backward_pass(kind, kwargs, message):
    model = torch.nn.Linear(4, 1)
    with pytest.raises(ValueError, match=message):
        fast.step_in_backward(model, getattr(fast, kind), **kwargs)
    model(torch.ones(4)).backward()  # no hooks are left
    assert model.weight.grad is not None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: fast.AdamW(p, lr="fast"), TypeError, "lr must be a number"),
        (lambda p: fast.AdamW(p, lr=fastopt.auto(lambda step: 1.0)), TypeError, "scheduler of torch"),
        (lambda p: fast.AdamW(p, lr=lambda step: 1.0), TypeError, "scheduler of torch"),
        (lambda p: fast.SGD(p, lr=None), TypeError, "lr must be a number, .* not None"),
        (lambda p: fast.Adam([{"params": p, "lr": None}]), TypeError, "lr must be a number"),
        (lambda p: fast.Adam(p, weight_dcay=0.1), TypeError, r"Adam .*\(did you mean weight_decay\?\)"),
        (lambda p: fast.SGD(p, clip_nrm=0.1), TypeError, r"SGD .*\(did you mean clip_norm\?\)"),
        (lambda p: fast.Rprop(p, lr="auto"), ValueError, "lr must be a number"),
        (lambda p: fast.ASGD(p, lr="auto"), ValueError, "lr must be a number"),
        (lambda p: fast.LAMB(p, lr="auto"), ValueError, "lr must be a number"),
        (lambda p: fast.SGD(p, stats="grad_norm"), TypeError, "stats must be a list"),
        (lambda p: fast.SGD(p, stats=("grad_size",)), ValueError, "stats has 'grad_size'"),
        (lambda p: fast.SGD(p, schedule_free=1.5), ValueError, "schedule_free must be"),
        (lambda p: fast.Lion(p, beta=0.9), TypeError, "has no argument"),
        (lambda p: fast.Lion(p, lr=lambda step: 0.1), TypeError, "must not be a schedule"),
        (lambda p: fast.Lion(p, lr=-1.0), ValueError, "lr must be a number >= 0"),
        (lambda p: fast.Lion(p, copy_to=np.zeros(3)), TypeError, "has no argument"),
        (lambda p: fast.Lion(p, bounds=(np.zeros(3), None)), TypeError, "bounds must be a pair"),
        (lambda p: fast.Lion([{"params": p, "beta": 0.9}]), TypeError, "has no entry"),
        (lambda p: fast.ChainOptimizer(p, 0.1), TypeError, "chain must come from"),
        (lambda p: fast.NativeOptimizer(p), TypeError, "must name a class"),
        (lambda p: type("X", (fast.NativeOptimizer,), {}, of=int), TypeError, "of must be a class"),
    ],
)
def test_errors(make, error, message):
    params = [torch.nn.Parameter(torch.ones(3))]
    with pytest.raises(error, match=message):
        make(params)


@pytest.mark.parametrize("kwargs", [{"lr": "auto"}, {"stats": ("grad_norm",)}, {"schedule_free": 0.9}])
def test_sparse_gradients_are_refused(kwargs):
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = fast.SGD(embedding.parameters(), **{"lr": 0.1, **kwargs})
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="needs dense gradients"):
        optimizer.step()
    assert not optimizer.state


def test_a_fixed_setting_takes_effect_when_it_is_assigned():
    def after(change):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = fast.AdEMAMix([p], lr=0.1, warmup_steps=1000)
        for step in range(3):
            p.grad = torch.ones(3)
            optimizer.step()
            if step == 0 and change == "assign":
                optimizer.param_groups[0]["warmup_steps"] = 2
            if step == 0 and change == "load":
                saved = optimizer.state_dict()
                saved["param_groups"][0]["warmup_steps"] = 2
                optimizer.load_state_dict(saved)
        return p.tolist()

    assert after("assign") == after("load") != after(None)


def test_statistics_of_nothing_are_zero():
    p = torch.nn.Parameter(torch.zeros(0))
    optimizer = fast.SGD([p], stats=("grad_norm", "grad_nonfinite"))
    p.grad = torch.zeros(0)
    optimizer.step()
    assert list(map(str, optimizer.stats.values())) == ["0.0", "0.0"]


EITHER = pytest.mark.parametrize("kind", ["AdamW", "Lion"])


@EITHER
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *(("clip_norm", value, ValueError) for value in (-1, 0.0, float("nan"), float("inf"))),
        *(("clip_norm", value, TypeError) for value in ("1", True, [1.0])),
        ("average_decay", 1.0, ValueError),
        ("average_decay", "0.9", TypeError),
        ("schedule_free", 1.5, ValueError),
        ("stochastic_rounding", 1, TypeError),
        ("state_dtype", "9bit", TypeError),
        ("state_dtype", torch.int64, TypeError),
        ("master_bits", 16, ValueError),
    ],
)
def test_options_are_checked_when_they_are_given_and_assigned(kind, name, value, error):
    params = [torch.nn.Parameter(torch.ones(3))]
    optimizer = getattr(fast, kind)(params)
    with pytest.raises(error, match=name):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) is None
    with pytest.raises(error, match=name):
        getattr(fast, kind)(params, **{name: value})


@EITHER
def test_misspelt_options_are_no_new_attributes(kind):
    optimizer = getattr(fast, kind)([torch.nn.Parameter(torch.ones(3))])
    for name, meant in [
        ("clip_nrom", "clip_norm"),
        ("max_norm", "clip_norm"),
        ("state_dtpye", "state_dtype"),
    ]:
        with pytest.raises(AttributeError, match=rf"{kind} .*'{name}' \(did you mean {meant}\?\)"):
            setattr(optimizer, name, 1)
        assert not hasattr(optimizer, name)
    # Of others.
    names = "grad_scale", "found_inf", "lr", "fp32_from_fp16_groups", "stat", "note"
    for name in (*names, "scheduler", "schedule", "layer_decay", "master_weights", "clip_grad_norm"):
        setattr(optimizer, name, 1)
        assert getattr(optimizer, name) == 1


@pytest.mark.parametrize("name", ["no_decay", "layer_decay", "steps"])
def test_entries_that_are_near_a_setting_of_adagrad_are_kept(name):
    params = [torch.nn.Parameter(torch.ones(3))]
    assert fast.Adagrad([{"params": params, name: 2}]).param_groups[0][name] == 2


@EITHER
@pytest.mark.parametrize("add", [False, True])
def test_misspelt_entries_of_param_groups_are_refused_and_others_kept(kind, add):
    optimizer_of = getattr(fast, kind)

    def with_entry(name):
        params = [torch.nn.Parameter(torch.ones(3))]
        group = {"params": params, name: 0.5}
        if not add:
            return optimizer_of([group])
        optimizer = optimizer_of([torch.nn.Parameter(torch.ones(2))])
        try:
            optimizer.add_param_group(group)
        finally:
            assert len(optimizer.param_groups) == 1 + (name in optimizer.param_groups[-1])
        return optimizer

    meant = {"weigth_decay": "weight_decay", "learning_rate": "lr", "wd": "weight_decay", "LR": "lr"}
    for name in meant:
        with pytest.raises(TypeError, match=rf"no entry '{name}' \(did you mean {meant[name]}\?\)"):
            with_entry(name)
    # Of schedulers, of SAM, and of users.
    names = (
        "initial_lr",
        "max_lr",
        "max_momentum",
        "rho",
        "name",
        "lr_scale",
        "weight_decay_end",
        "decay",
        "layer_decay",
        "no_decay",
        "steps",
        "eps2",
        "lr0",
    )
    for name in names:
        assert with_entry(name).param_groups[-1][name] == 0.5


def test_a_pair_that_is_none_is_named():
    params = [torch.nn.Parameter(torch.ones(3))]
    for value in 0.9, (0.9,), None:
        with pytest.raises(TypeError, match="betas of a param group must be a pair of numbers, not"):
            fast.AdamW([{"params": params, "betas": value}])
    with pytest.raises(TypeError, match=r"'betas' \(did you mean beta1, beta2\?\)"):
        fast.Lion([{"params": params, "betas": (0.9, 0.99)}])
