"""Tensors without memory of their own, traced steps, lazy parameters, and what a step announces."""

import copy
import pickle

import numpy as np
import pytest

from tests.interop.torch_pairs import every, fast, torch

from torch._subclasses import FakeTensorMode  # isort: skip
from torch.fx.experimental.proxy_tensor import make_fx  # isort: skip
from torch.utils.flop_counter import FlopCounterMode  # isort: skip
from torch.testing._internal.two_tensor import TwoTensor  # isort: skip


def stepped(param):
    param.grad = torch.ones_like(param)
    return fast.Adam([param])


def test_tensors_without_memory_of_their_own_are_refused_by_name():
    optimizer = stepped(torch.nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3))))
    with pytest.raises(TypeError, match=r"\['params'\]\[0\] is a TwoTensor, which has no memory"):
        optimizer.step()
    assert not optimizer.state
    with FakeTensorMode():
        optimizer = stepped(torch.nn.Parameter(torch.ones(3)))
    with pytest.raises(TypeError, match="is a FakeTensor, which has no memory of its own"):
        optimizer.step()
    assert not optimizer.state


def test_gradients_without_memory_of_their_own_are_refused_by_name():
    with FakeTensorMode():
        fake = torch.ones(3)
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = fast.SGD([w], lr=0.5)
    for usual in range(2):
        for grad in (fake, TwoTensor(torch.ones(3), torch.ones(3))):
            w.grad = grad
            with pytest.raises(TypeError, match=f"a gradient is a {type(grad).__name__}, which has no"):
                optimizer.step()
        w.grad = torch.ones(3)
        optimizer.step()
        assert w.tolist() == [0.5 - 0.5 * usual] * 3


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_a_masked_parameter_is_refused_by_name():
    masked = torch.masked.masked_tensor(torch.ones(3), torch.ones(3, dtype=torch.bool))
    optimizer = stepped(torch.nn.Parameter(masked))
    with pytest.raises(TypeError, match=r"\['params'\]\[0\] is a MaskedTensor, which has no memory"):
        optimizer.step()
    assert not optimizer.state


def test_a_step_is_not_traced():
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = stepped(w)

    def step(x):
        optimizer.step()
        return x + 1

    with pytest.raises(RuntimeError, match="cannot be traced, and ProxyTorchDispatchMode is on"):
        make_fx(step)(torch.ones(2))
    with FakeTensorMode(), pytest.raises(RuntimeError, match="FakeTensorMode is on"):
        optimizer.step()
    assert w.tolist() == [1.0] * 3
    assert not optimizer.state


def test_other_modes_are_no_hindrance():
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = stepped(w)
    with FlopCounterMode(display=False):
        optimizer.step()
    assert w.tolist() != [1.0] * 3


@pytest.mark.parametrize("state_dtype", ["8bit", torch.bfloat16])
def test_lazy_modules_with_a_format_of_states(state_dtype):
    model = torch.nn.LazyLinear(300)
    optimizer = fast.Adam(model.parameters(), state_dtype=state_dtype)
    model(torch.ones(2, 400)).sum().backward()
    optimizer.step()
    kind = torch.uint8 if state_dtype == "8bit" else state_dtype
    assert optimizer.state[model.weight]["exp_avg_sq"].dtype == kind


def test_a_gradient_whose_memory_was_freed():
    w = torch.nn.Parameter(torch.ones(8))
    optimizer = fast.SGD([w], lr=0.5)
    for _ in range(2):
        w.grad = torch.ones(8)
        optimizer.step()
    w.grad.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="must have memory, and its memory was freed"):
        optimizer.step()
    assert w.tolist() == [0.0] * 8


def test_a_parameter_whose_memory_was_freed():
    w = torch.zeros(8)
    w.untyped_storage().resize_(0)
    w.grad = torch.ones(8)
    with pytest.raises(ValueError, match="must have memory, and its memory was freed"):
        fast.SGD([w], lr=0.5).step()


@every
def test_fused_alone_announces_that_the_step_unscales(name):
    w = torch.nn.Parameter(torch.ones(3))
    assert not hasattr(getattr(fast, name)([w]), "_step_supports_amp_scaling")
    optimizer = getattr(fast, name)([w], fused=True)
    for each in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert getattr(each, "_step_supports_amp_scaling", False)
        assert each.param_groups[0]["fused"]
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        getattr(fast, name)([w], fused=True, foreach=True)


@pytest.mark.parametrize("fused", [False, True])
@every
def test_grad_scaler(name, fused):
    """The same numbers whoever unscales; GradScaler's factors are powers of two."""
    results = []
    for scaled in (False, True):
        w = torch.nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = getattr(fast, name)([w], lr=0.1, fused=fused or None)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=256.0)
        for step in range(3):
            w.grad = None
            loss = (w * w).sum() * (float("inf") if step == 1 and scaled else 1.0)
            if step == 1 and not scaled:
                continue
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(w.detach().numpy())
    np.testing.assert_array_equal(*results)


def test_hooks_and_the_profiler_see_a_step():
    w = torch.nn.Parameter(torch.ones(3))
    optimizer, seen = stepped(w), []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
    ]
    optimizer.step()
    assert seen == ["before", "after"]
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 2
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#Adam.step" in [event.key for event in profile.key_averages()]
