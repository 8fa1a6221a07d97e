"""What users keep in ``optimizer.state[p]``, under whatever name: it is kept, and has no effect."""

import copy

import pytest

import fastopt
from fastopt import transforms as t
from fastopt.interop.torch.carried import CARRIED, SUMS
from tests.interop.torch_pairs import fast, torch
from tests.refusals import refusal

BASES = "NativeOptimizer", "ChainOptimizer"
KINDS = [n for n in fast.__all__ if isinstance(getattr(fast, n), type) and n not in BASES]

# Names that some class, option or checkpoint gives to entries of its own.
NAMES = (
    *("step", "mu", "eta", "mu_product", CARRIED, SUMS, "average", "z", "correction"),
    *("momentum_buffer", "grad_avg", "max_exp_avg_sq", "exp_avg", "s", "mine"),
)
VALUES = [
    3.5,
    [1.0, 2.0],
    torch.arange(5.0),
    torch.tensor(7.0, dtype=torch.float64),
    torch.arange(300).to(torch.uint8),  # as states of 8 bits are stored
]


def made(kind):
    return getattr(fast, kind)([torch.nn.Parameter(torch.linspace(1.0, 2.0, 3))])


def take(optimizer):
    (param,) = optimizer.param_groups[0]["params"]
    param.grad = 3 * param.detach() - 1
    optimizer.step()
    return param.tolist()


def names_left(kind):
    """The names that this class has no use for."""
    optimizer = made(kind)
    take(optimizer)
    ((_, state),) = optimizer.state_dict()["state"].items() or [(0, {})]
    taken = {*state, *optimizer.param_groups[0]}  # where it has carried numbers
    settings = {"momentum": "momentum_buffer", "centered": "grad_avg", "amsgrad": "max_exp_avg_sq"}
    return [name for name in NAMES if name not in taken | {settings.get(each) for each in taken}]


@pytest.mark.parametrize("kind", KINDS)
def test_entries_of_users_are_kept_and_ignored(kind):
    names = names_left(kind)
    assert "mine" in names
    for value in VALUES:
        plain, optimizer = made(kind), made(kind)
        ((param,),) = (group["params"] for group in optimizer.param_groups)
        entries = optimizer.state[param]
        for number in range(3):
            if number < 2:  # in front of the first step, and in a run
                entries |= dict.fromkeys(names, value)
            assert take(optimizer) == take(plain)
        assert all(entries[name] is value for name in names)
        new = made(kind)
        with torch.no_grad():
            new.param_groups[0]["params"][0].copy_(param)
        new.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        expected = take(plain)
        for other in (copy.deepcopy(optimizer), new):
            assert take(other) == expected
            (state,) = other.state.values()
            for name in names:
                assert torch.as_tensor(state[name]).tolist() == torch.as_tensor(value).tolist(), name
        decoded = optimizer.decoded_state_dict()["state"][0]
        assert all(decoded[name] is value for name in names)


@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.bfloat16}])
def test_entries_that_are_of_no_parameter(options):
    """torch keeps and loads them too."""
    optimizer, other = (
        fast.AdamW([torch.nn.Parameter(torch.ones(3))], average_decay=0.5, **options) for _ in range(2)
    )
    entries = {"average": torch.ones(2), "correction": torch.ones(2, dtype=torch.int32)}
    optimizer.state["run"], optimizer.state[7] = entries, "seed"
    optimizer.state["codes"] = torch.ones(2, dtype=torch.uint8)
    take(optimizer)
    other.load_state_dict(optimizer.state_dict())
    for each in (optimizer.state, other.state, optimizer.decoded_state_dict()["state"]):
        assert each["run"] is entries
        assert each[7] == "seed"
        assert each["codes"] is optimizer.state["codes"]
    assert take(copy.deepcopy(optimizer)) == take(optimizer)
    assert optimizer.state["run"] is entries


def test_averages_are_of_the_parameter_alone():
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = fast.SGD([param], lr=1.0, average_decay=0.5)
    optimizer.state[param]["correction"] = torch.ones(3)
    param.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.averaged_params()[0].tolist() == [0.5] * 3


@pytest.mark.parametrize("name", ["step", CARRIED, SUMS, "correction"])
def test_states_of_transforms_with_a_name_that_torch_has_are_refused(name):
    def update(update, param, state, hyper):
        return update, state

    part = fastopt.Transform(update, state={name: 0.0})
    params = [torch.nn.Parameter(torch.ones(3))]
    with refusal(ValueError, ["state must not be named", repr(name)]):
        fast.ChainOptimizer(params, fastopt.chain(part, t.scale(0.5)))


@pytest.mark.parametrize("name", ["mu", "eta", "mu_product"])
def test_states_of_transforms_may_have_the_names_of_numbers_of_other_classes(name):
    def add_update(update, param, state, hyper):
        return update, (state[0] + update,)

    part = fastopt.Transform(add_update, state={name: 0.0})
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = fast.ChainOptimizer([param], part, state_dtype=torch.bfloat16)
    for _ in range(2):
        param.grad = torch.ones(3)
        optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    state = optimizer.state[param][name]
    assert (state.tolist(), state.dtype) == ([2.0] * 3, torch.bfloat16)
