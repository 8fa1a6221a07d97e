"""State dicts that are another optimizer's or damaged are refused before anything is loaded."""

import copy
import itertools
import re

import pytest

import fastopt
from fastopt import transforms as t
from tests.interop.torch_pairs import NAMES, fast, torch

BASES = "NativeOptimizer", "ChainOptimizer"
KINDS = [n for n in fast.__all__ if isinstance(getattr(fast, n), type) and n not in BASES]
ALIKE = {"Adam", "AdamW"}  # whose difference is a setting of the param group


def trained(kind, *args, steps=1, **kwargs):
    """An optimizer of one parameter, after so many steps."""
    w = torch.nn.Parameter(torch.linspace(1.0, 2.0, 3))
    optimizer = kind([w], *args, **kwargs)
    for _ in range(steps):
        w.grad = torch.ones(3)
        optimizer.step()
    return optimizer


def content(optimizer):
    """All that a state dict could change."""
    saved = copy.deepcopy(optimizer.state_dict())
    return repr(saved["param_groups"]), repr(saved["state"])


def refuses(optimizer, saved, error, message):
    previous = content(optimizer)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(saved)
    assert content(optimizer) == previous


@pytest.mark.parametrize("loading", KINDS)
@pytest.mark.parametrize("saved_steps", [0, 1])
def test_those_of_other_classes_are_refused(loading, saved_steps):
    optimizer = trained(getattr(fast, loading))
    for kind, home in itertools.product(KINDS, (fast, torch.optim)):
        if not hasattr(home, kind) or (home is torch.optim and kind not in NAMES):
            continue
        saved = trained(getattr(home, kind), steps=saved_steps).state_dict()
        if kind == loading or {kind, loading} == ALIKE:
            optimizer.load_state_dict(copy.deepcopy(saved))
            trained(getattr(fast, loading), steps=0).load_state_dict(saved)
        elif {kind, loading} != {"Adamax", "RAdam"} or saved_steps:  # which differ in states alone
            refuses(optimizer, saved, ValueError, f"from {loading}, .* it is another optimizer's")


@pytest.mark.parametrize(
    ("saved", "loading", "why"),
    [
        ("Adam", "RMSprop", r"its param_groups\[0\] lacks .*alpha"),
        ("RMSprop", "Adam", r"its param_groups\[0\] lacks betas"),
        ("Adam", "Lion", r"its param_groups\[0\] lacks beta1, beta2"),
        ("RAdam", "AdamW", r"its param_groups\[0\] lacks amsgrad"),
        ("AdamW", "RAdam", r"its param_groups\[0\] has amsgrad"),
        ("Adamax", "RAdam", r"its state\[0\] lacks exp_avg_sq"),
        ("Prodigy", "Lion", r"its param_groups\[0\] has eps, .*d_coef"),
    ],
)
def test_errors_name_what_differs(saved, loading, why):
    refuses(
        trained(getattr(fast, loading)), trained(getattr(fast, saved)).state_dict(), ValueError, why
    )


def test_those_of_other_chains_are_refused():
    rms, trace = t.scale_by_rms(), t.trace(0.9)
    both, first = (
        trained(fast.ChainOptimizer, fastopt.chain(*parts)) for parts in ((rms, trace), (rms,))
    )
    second = trained(fast.ChainOptimizer, trace)
    refuses(first, both.state_dict(), ValueError, r"its state\[0\] has momentum_buffer")
    refuses(both, first.state_dict(), ValueError, r"its state\[0\] lacks momentum_buffer")
    refuses(second, first.state_dict(), ValueError, r"its state\[0\] lacks momentum_buffer")
    both.load_state_dict(trained(fast.ChainOptimizer, fastopt.chain(rms, trace)).state_dict())


# name of an entry of a state -> what is in it -> the error
DAMAGED = [
    ("exp_avg", torch.ones(4), ValueError, r"\(3,\), not \(4,\)"),
    ("exp_avg", torch.ones(1, 3), ValueError, r"\(3,\), not \(1, 3\)"),
    ("exp_avg", torch.ones(3, dtype=torch.int64), TypeError, "must not be torch.int64"),
    ("exp_avg", torch.ones(3, dtype=torch.complex64), TypeError, "must not be torch.complex64"),
    ("exp_avg", torch.ones(3, dtype=torch.uint8), ValueError, r"must have the shape \(1, 260\)"),
    ("exp_avg", [1.0, 1.0, 1.0], TypeError, "must be a tensor"),
    ("exp_avg", None, ValueError, "lacks exp_avg"),
    ("max_exp_avg_sq", torch.ones(2), ValueError, "must have the shape"),
    ("step", None, ValueError, "lacks step"),
    ("step", "1", TypeError, "must be a number"),
    ("step", True, TypeError, "must be a number"),
    ("step", torch.ones(3), TypeError, "must be a number"),
    ("step", -1, ValueError, "must be a whole number >= 0"),
    ("step", 1.5, ValueError, "must be a whole number >= 0"),
    ("step", torch.tensor(float("nan")), ValueError, "must be a whole number >= 0"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), DAMAGED)
@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.bfloat16}])
def test_damaged_states_are_refused(name, value, error, message, options):
    optimizer = trained(fast.AdamW, **options)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0][name] = value
    refuses(optimizer, saved, error, rf"state\[0\].*{name}.*{message}|state\[0\] {message}")


# option -> the state that it has -> what is in it -> the error
DAMAGED_OF_OPTIONS = [
    ({"average_decay": 0.9}, "average", torch.ones(2), ValueError, "must have the shape"),
    ({"schedule_free": 0.9}, "z", [1.0, 1.0, 1.0], TypeError, "must be a tensor"),
    ({"master_bits": 24}, "correction", torch.ones(3), TypeError, "must not be torch.float32"),
]


@pytest.mark.parametrize(("options", "name", "value", "error", "message"), DAMAGED_OF_OPTIONS)
def test_damaged_states_of_options_are_refused(options, name, value, error, message):
    def made():
        w = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        w.grad = torch.ones_like(w)
        optimizer = fast.AdamW([w], **options)
        optimizer.step()
        return optimizer

    optimizer = made()
    saved = copy.deepcopy(optimizer.state_dict())
    assert name in saved["state"][0]
    saved["state"][0][name] = value
    refuses(optimizer, saved, error, rf"state\[0\]\['{name}'\] {message}")


def test_a_state_that_is_no_dict_is_refused():
    optimizer = trained(fast.AdamW)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0] = [1.0]
    refuses(optimizer, saved, TypeError, r"state\[0\] must be a dict")


@pytest.mark.parametrize("value", [None, 1, "yes", [True]])
def test_the_flag_of_an_automatic_rate_is_a_flag(value):
    optimizer = trained(fast.AdamW, lr="auto")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["automatic_lr"] = value
    refuses(optimizer, saved, TypeError, "automatic_lr of a param group must be True or False")
    optimizer.param_groups[0]["automatic_lr"] = value
    if value == 1:  # as good as True, for a plan that was made with that
        return
    with pytest.raises(TypeError, match="automatic_lr of a param group must be True or False"):
        optimizer.step()


@pytest.mark.parametrize(
    "value", [[[1.0]], "ab", [["1.0", "1.0", "1.0"]], [[True, 1.0, 1.0]], [None], 3, [{0: 1.0}]]
)
def test_other_carried_numbers_are_refused(value):
    optimizer = trained(fast.Prodigy)
    saved = copy.deepcopy(optimizer.state_dict())
    assert [len(numbers) for numbers in saved["param_groups"][0]["carried"]] == [3]
    saved["param_groups"][0]["carried"] = value
    message = r"'carried' in param_groups\[0\] must have the numbers of this optimizer's transforms"
    refuses(optimizer, saved, ValueError, message)


def test_what_users_keep_beside_states_and_settings_is_loaded():
    optimizer = trained(fast.AdamW)
    w = optimizer.param_groups[0]["params"][0]
    optimizer.param_groups[0]["rho"] = 0.05  # as SAM has it
    optimizer.param_groups[0]["tag"] = "head"
    optimizer.state[w]["my_average"] = torch.ones(3)
    other = trained(fast.AdamW)
    other.param_groups[0]["rho"] = 0.1
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert (other.param_groups[0]["rho"], other.param_groups[0]["tag"]) == (0.05, "head")
    (state,) = other.state.values()
    assert torch.equal(state["my_average"], torch.ones(3))


# Names that users give to entries of their own, and that are settings of other classes than AdamW.
@pytest.mark.parametrize("name", ["warmup_steps", "alpha", "momentum", "rho", "clip_value", "lr_decay"])
@pytest.mark.parametrize("home", [fast, torch.optim])
def test_entries_of_users_with_the_name_of_a_setting_are_loaded_by_a_new_optimizer(home, name):
    optimizer = trained(home.AdamW)
    optimizer.param_groups[0][name] = 0.05
    other = trained(fast.AdamW, steps=0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.param_groups[0][name] == 0.05


def test_checkpoints_from_before_an_argument_are_loaded():
    saved = copy.deepcopy(trained(torch.optim.Adam).state_dict())
    old = "params", "lr", "betas", "eps", "weight_decay", "amsgrad"
    (group,) = saved["param_groups"]
    saved["param_groups"] = [{name: group[name] for name in old}]
    trained(fast.Adam, steps=0).load_state_dict(saved)
    momentum = copy.deepcopy(trained(torch.optim.SGD, momentum=0.9).state_dict())
    momentum["state"][0]["momentum_buffer"] = None  # as torch saved one that was not used
    trained(fast.SGD, steps=0).load_state_dict(momentum)


def test_param_groups_may_be_a_tuple_as_for_torch():
    optimizer = trained(fast.AdamW)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"] = tuple(saved["param_groups"])
    other = trained(fast.AdamW, steps=0)
    other.load_state_dict(saved)
    assert content(other) == content(optimizer)


def test_a_state_of_a_setting_that_was_just_assigned_may_be_missing():
    optimizer = trained(fast.RMSprop)
    optimizer.param_groups[0]["momentum"] = 0.9
    other = trained(fast.RMSprop, steps=0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    (w,) = other.param_groups[0]["params"]
    w.grad = torch.ones(3)
    other.step()
    assert re.search("momentum_buffer", str(list(other.state[w])))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda saved: None, TypeError, "state_dict must be a dict, not None"),
        (lambda saved: [saved], TypeError, "state_dict must be a dict, not"),
        (lambda saved: {"model": {}, "optimizer": saved}, ValueError, r"\['model', 'optimizer'\]"),
        (lambda saved: saved["state"], ValueError, r"has the entries \[0\]"),
        (lambda saved: {**saved, "state": None}, ValueError, "must be an optimizer's"),
        (lambda saved: {**saved, "param_groups": {}}, ValueError, "must be an optimizer's"),
        (lambda saved: {**saved, "param_groups": [3]}, TypeError, "must be dicts with .*, not 3"),
        (lambda saved: {**saved, "param_groups": [{}]}, TypeError, "must be dicts with .*, not {}"),
        (
            lambda saved: {**saved, "param_groups": []},
            ValueError,
            "different number of parameter groups",
        ),
    ],
)
def test_what_is_no_state_dict_of_an_optimizer_is_refused(change, error, message):
    optimizer = trained(fast.AdamW)
    refuses(optimizer, change(copy.deepcopy(optimizer.state_dict())), error, message)


def test_one_state_for_two_parameters_must_fit_both():
    first, second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    optimizer = fast.AdamW([first, second])
    first.grad = torch.ones(3)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["params"] = [0, 0]
    refuses(optimizer, saved, ValueError, r"must have the shape \(2,\)")
