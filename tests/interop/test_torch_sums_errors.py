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
