"""torch's own configurations of each optimizer, from its test suite: numbers and errors."""

import copy
import warnings

import pytest

from tests.interop.torch_pairs import INFOS, NAMES, TOLERANCE, Pair, add_group, fast, state_keys, torch

from torch.testing._internal.common_optimizers import (  # isort: skip
    OptimizerErrorEnum,
    _get_optim_inputs_including_global_cliquey_kwargs,
)


def configurations():
    """Every setting, with every way of stepping that torch has on the CPU, in float64 without them."""
    for name in NAMES:
        inputs = _get_optim_inputs_including_global_cliquey_kwargs(
            "cpu", torch.float32, INFOS[name], skip=("differentiable",)
        )
        for each in inputs:
            kwargs = {k: v for k, v in each.kwargs.items() if k != "differentiable"}
            for dtype in TOLERANCE:
                if dtype == torch.float32 or not (kwargs.get("foreach") or kwargs.get("fused")):
                    yield pytest.param(name, kwargs, dtype, id=f"{name}-{each.desc}-{dtype}")


WRONG = {
    "lr": ("RMSprop", "lr", -1.0, "lr"),
    "alpha": ("RMSprop", "alpha", 2.0, "alpha"),
    "betas": ("Adam", "betas", (0.9, 1.0), r"betas\[1\]"),
    "etas": ("Rprop", "etas", (2.0, 1.2), r"etas\[0\]"),
    "lambd": ("ASGD", "lambd", -1.0, "lambd"),
    "momentum_decay": ("NAdam", "momentum_decay", -1.0, "momentum_decay"),
    "rho": ("Adadelta", "rho", 2.0, "rho"),
}


@pytest.mark.parametrize("when", ["at first", "later"])
@pytest.mark.parametrize(("name", "entry", "value", "words"), WRONG.values(), ids=WRONG)
def test_numbers_are_named_as_in_param_groups(name, entry, value, words, when):
    param = torch.nn.Parameter(torch.ones(3))
    if when == "at first":
        with pytest.raises(ValueError, match=f"^{words} of a param group must be a number"):
            getattr(fast, name)([{"params": [param], entry: value}])
        return
    opt = getattr(fast, name)([param])
    param.grad = torch.ones(3)
    opt.step()
    opt.param_groups[0][entry] = value
    previous = param.detach().clone()
    with pytest.raises(ValueError, match=f"^{words} of a param group must be a number"):
        opt.step()
    opt.param_groups[0][entry] = ["?"] * 2 if isinstance(value, tuple) else "?"
    with pytest.raises(TypeError, match=f"{entry}.* of a param group must be a number, not '\\?'"):
        opt.step()
    assert torch.equal(param.detach(), previous)


def test_all_optimizers_have_configurations():
    assert sorted(NAMES) == sorted(INFOS)
    assert len(list(configurations())) >= 100


@pytest.mark.parametrize(("name", "kwargs", "dtype"), list(configurations()))
def test_numbers(name, kwargs, dtype):
    pair = Pair(name, kwargs, dtype=dtype)
    # torch's fused SGD fails where a parameter's first gradient comes after that of others.
    late = () if name == "SGD" and kwargs.get("fused") else (2,)
    for without in (late, (), (1,), (), (0, 1, 2, 3, 4), (0, 4), (), ()):
        pair.step(without)
        pair.assert_same()
    assert state_keys(pair.fast) == state_keys(pair.torch)


@pytest.mark.parametrize("name", NAMES)
def test_settings_change_between_steps(name):
    pair = Pair(name, {"weight_decay": 0.1})
    for step in range(8):
        for optimizer in pair.both:
            (group,) = optimizer.param_groups
            group["lr"] = 10.0 ** -(1 + step % 3)
            group["weight_decay"] = (0.1, 0.0, 0.3)[step % 3]
            group["maximize"] = step == 5
            if "betas" in group:
                group["betas"] = (0.5 + 0.05 * step, 0.9 + 0.01 * step)
            if "eps" in group:
                group["eps"] = 1e-3 / (step + 1)
            if "alpha" in group:
                group["alpha"] = 0.5 + 0.05 * step
            if "momentum_decay" in group:
                group["momentum_decay"] = 0.01 * step
        # With other betas at every step, no two parameters have the same product of momenta.
        pair.step(without=(step % 5, (step + 2) % 5))
        pair.assert_same()


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_momentum_that_is_switched_on_and_off(name):
    pair = Pair(name, {"momentum": 0.9})
    for momentum in (0.9, 0.0, 0.5, 0.8, 0.0, 0.9):
        for optimizer in pair.both:
            optimizer.param_groups[0]["momentum"] = momentum
        pair.step()
        pair.assert_same()


def test_momentum_of_sgd_that_comes_late():
    pair = Pair("SGD", {"dampening": 0.5})
    for momentum in (0.0, 0.0, 0.5, 0.8):
        for optimizer in pair.both:
            optimizer.param_groups[0]["momentum"] = momentum
        pair.step(without=(1,) if momentum == 0.5 else ())
        pair.assert_same()


@pytest.mark.parametrize("name", NAMES)
def test_param_groups(name):
    pair = Pair(name)
    for which, optimizer in zip(pair.params, pair.both, strict=True):
        new = torch.nn.Parameter(torch.ones(4, 3))
        pair.params[which].append(new)
        add_group(optimizer, {"params": [new], "lr": 0.3, "weight_decay": 0.2})
    for without in ((), (5,), (0, 1), ()):
        pair.step(without)
        pair.assert_same()


def errors():
    for name in NAMES:
        for i, case in enumerate(INFOS[name].optim_error_inputs_func("cpu", torch.float32)):
            yield pytest.param(name, case, id=f"{name}-{i}-{case.optimizer_error_input.desc}")


@pytest.mark.parametrize(("name", "case"), list(errors()))
def test_errors(name, case):
    assert case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
    wrong = case.optimizer_error_input
    params = wrong.params if wrong.params is not None else [torch.nn.Parameter(torch.randn(1, 1))]
    kwargs = copy.deepcopy(wrong.kwargs)
    if issubclass(case.error_type, Warning):
        with pytest.warns(case.error_type, match=case.error_regex):
            getattr(fast, name)(params, **kwargs)
        return
    with pytest.raises(case.error_type, match=case.error_regex), warnings.catch_warnings():
        getattr(fast, name)(params, **kwargs)
