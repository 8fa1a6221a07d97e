"""Checkpoints both ways, states that are the memory worked on, and whatever is replaced meanwhile."""

import copy
import pickle

import numpy as np
import pytest

from tests.interop.torch_pairs import SETTINGS, Pair, every, fast, state_keys, through_file, torch


@every
def test_checkpoints_both_ways_mid_run(name):
    pair = Pair(name, SETTINGS[name])
    for without in ((1,), (), ()):
        pair.step(without)
    # Each resumes from the other's checkpoint.
    of_torch, of_fast = (through_file(o.state_dict()) for o in pair.both)
    pair.torch.load_state_dict(of_fast)
    pair.fast.load_state_dict(of_torch)
    pair.assert_same()
    for without in ((), (2,), ()):
        pair.step(without)
        pair.assert_same()
    assert state_keys(pair.fast) == state_keys(pair.torch)


@every
def test_a_resumed_run_has_the_same_bits(name):
    one = Pair(name, SETTINGS[name])
    for without in ((), (1,), ()):
        one.step(without)
    other = Pair(name, SETTINGS[name], params=[p.detach() for p in one.params["fastopt"]])
    other.fast.load_state_dict(through_file(one.fast.state_dict()))
    other.random.set_state(one.random.get_state())
    for without in ((0,), (), ()):
        one.step(without)
        other.step(without)
    for p, q in zip(one.params["fastopt"], other.params["fastopt"], strict=True):
        assert torch.equal(p, q)
        for key, value in one.fast.state[p].items():
            assert torch.equal(value, other.fast.state[q][key])


@every
def test_loaded_settings_hold(name):
    pair = Pair(name, {**SETTINGS[name], "lr": 0.01})
    other = Pair(name, {**SETTINGS[name], "lr": 0.5, "weight_decay": 0.0, "maximize": True})
    other.step()
    for optimizer, source in zip(pair.both, other.both, strict=True):
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
    assert pair.fast.param_groups[0]["lr"] == 0.5
    for _ in range(3):
        pair.step()
        pair.assert_same()


@every
def test_states_are_the_memory_that_is_stepped(name):
    pair = Pair(name, SETTINGS[name])
    pair.step()
    states = [dict(pair.fast.state[p]) for p in pair.params["fastopt"]]
    pair.step()
    for p, state in zip(pair.params["fastopt"], states, strict=True):
        assert all(pair.fast.state[p][key] is value for key, value in state.items())
    for optimizer, params in zip(pair.both, pair.params.values(), strict=True):
        for p in params:  # written to in place
            for key, value in optimizer.state[p].items():
                if key not in ("step", "mu_product", "eta", "mu"):
                    value.mul_(0.5)
    pair.step()
    pair.assert_same()


def replaced(optimizer, params, how):
    for p in params:
        state = optimizer.state[p]
        if how == "entries":
            for key in state:
                state[key] = state[key].clone()
        elif how == "dicts":
            optimizer.state[p] = copy.deepcopy(state)
        elif how == "data of states":
            for key in state:
                state[key].data = state[key].data.clone()
        elif how == "data of parameters":
            p.data = p.data.clone() * 0.5
        elif how == "shared memory":
            p.data.share_memory_()
            for value in state.values():
                value.share_memory_()
        elif how == "one step count":
            if "step" in state:
                state["step"] += 3 if p is params[0] else 0
        elif "step" in state:  # in another dtype, as after loading into a double-precision script
            assert how == "step counts of another dtype"
            state["step"] = state["step"].double() + 1


@every
def test_whatever_is_replaced_is_noticed(name):
    pair = Pair(name, SETTINGS[name])
    pair.step()
    for how in (
        "entries",
        "dicts",
        "data of states",
        "data of parameters",
        "shared memory",
        "one step count",
        "step counts of another dtype",
    ):
        pair.step()
        for optimizer, params in zip(pair.both, pair.params.values(), strict=True):
            replaced(optimizer, params, how)
        for _ in range(2):
            pair.step()
            pair.assert_same()


@every
def test_states_that_are_taken_away_begin_again(name):
    pair = Pair(name, SETTINGS[name])
    pair.step()
    for optimizer in pair.both:
        optimizer.state.clear()
    for _ in range(2):
        pair.step()
        pair.assert_same()


@every
def test_parameters_are_replaced_in_their_group(name):
    pair = Pair(name, SETTINGS[name])
    pair.step()
    for which, optimizer in zip(pair.params, pair.both, strict=True):
        new = torch.nn.Parameter(torch.full((4,), 2.0))
        pair.params[which][1] = new
        optimizer.param_groups[0]["params"][1] = new
    for _ in range(2):
        pair.step()
        pair.assert_same()


def test_an_old_checkpoint_with_steps_as_numbers():
    pair = Pair("RMSprop", SETTINGS["RMSprop"])
    pair.step()
    saved = copy.deepcopy(pair.torch.state_dict())
    for state in saved["state"].values():
        state["step"] = int(state["step"])
    for optimizer in pair.both:
        optimizer.load_state_dict(copy.deepcopy(saved))
    pair.step()
    pair.assert_same()


@every
def test_copies_and_pickles(name):
    pair = Pair(name, SETTINGS[name])
    pair.step()
    extra = getattr(fast, name)(pair.params["fastopt"], clip_norm=2.0, average_decay=0.9)
    extra.load_state_dict(pair.fast.state_dict())
    for twin in (copy.deepcopy(extra), pickle.loads(pickle.dumps(extra))):
        assert type(twin) is getattr(fast, name)
        assert (twin.clip_norm, twin.average_decay) == (2.0, 0.9)
        mine = twin.param_groups[0]["params"]
        for p in mine:
            p.grad = torch.ones_like(p)
        previous = [p.detach().clone() for p in mine]
        twin.step()
        assert not torch.equal(previous[0], mine[0])
        assert twin.last.norm == pytest.approx(np.sqrt(sum(p.numel() for p in mine)))


@pytest.mark.parametrize("shape", [(2,), (1, 7), ()])
def test_data_of_another_shape_names_the_parameter(shape):
    pair = Pair("Adam", {"amsgrad": True})
    pair.step()
    param = pair.params["fastopt"][1]
    param.grad = None
    param.data = torch.ones(shape)
    previous = [p.detach().clone() for p in pair.params["fastopt"]]
    message = rf"\['params'\]\[1\] has the shape \({str(shape)[1:-1]}\), .* not \(7,\)"
    for p in pair.params["fastopt"]:
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=message):
        pair.fast.step()
    assert all(map(torch.equal, previous, pair.params["fastopt"]))
    del pair.fast.state[param]  # as the error says
    pair.fast.step()
    assert pair.fast.state[param]["step"] == 1
    assert pair.fast.state[pair.params["fastopt"][0]]["step"] == 2


def test_a_state_of_another_shape_is_an_error():
    pair = Pair("Adam")
    pair.step()
    p = pair.params["fastopt"][0]
    previous = p.detach().clone()
    pair.fast.state[p]["exp_avg"] = torch.zeros(2)
    p.grad = torch.ones_like(p)
    with pytest.raises(
        ValueError, match=r"\['params'\]\[0\] has the shape \(3, 5\), .*'exp_avg' .*\(2,\)"
    ):
        pair.fast.step()
    assert torch.equal(p, previous)


@pytest.mark.parametrize("kwargs", [{}, {"momentum": 0.9}, {"average_decay": 0.9}])
def test_steps_that_torch_does_not_count_are_numbered_from_one(kwargs):
    first, second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    optimizer = fast.SGD([first], stats=("grad_norm",), **kwargs)
    numbers = []
    for step in range(5):
        if step == 2:  # each makes a new plan
            optimizer.add_param_group({"params": [second]})
        if step == 4:
            first.data = first.data.clone()
        for param in first, second:
            param.grad = torch.ones_like(param)
        optimizer.step()
        numbers.append(optimizer.stats.step)
    assert numbers == [1, 2, 3, 4, 5]


def test_random_bits_start_with_the_first_step_with_momentum_or_without():
    def after(**kwargs):
        param = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
        optimizer = fast.SGD([param], lr=1e-3, stochastic_rounding=True, **kwargs)
        param.grad = torch.ones_like(param)
        optimizer.step()
        return param.detach().clone()

    assert torch.equal(after(), after(momentum=0.9))  # whose first step is that of the gradient
    assert len(after().unique()) == 2


def test_step_counts_are_on_the_cpu_whatever_the_default_device_is():
    """torch's own are on that one."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = fast.Adam([param], lr=0.5)
    param.grad = torch.ones(3)
    with torch.device("meta"):
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
    assert optimizer.state[param]["step"].device.type == "cpu"
    assert optimizer.state[param]["step"] == 2
