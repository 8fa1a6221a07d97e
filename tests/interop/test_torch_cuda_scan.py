"""CUDA tensors looked at in machine code: the bits of tensors in memory; what is unusual is noticed."""

import pytest

from tests.device import EMULATED, needs_driver
from tests.interop.torch_pairs import SETTINGS, every, fast, torch

from fastopt.interop.torch import snapshot  # isort: skip
from fastopt.steps.device_gradients import DeviceGradients  # isort: skip
from tests.interop.cuda_tensors import current_stream, to_cpu, to_cuda  # isort: skip

pytestmark = [
    needs_driver,
    pytest.mark.skipif(
        not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no interface"
    ),
    pytest.mark.skipif(not (EMULATED or torch.cuda.is_available()), reason="torch is without CUDA"),
]

SHAPES = (5, 3), (), (0, 2), (17,)


@pytest.fixture(autouse=True)
def _stream(monkeypatch):
    with current_stream(monkeypatch):
        yield


def train(name, place, missing=((), (), (1,), (0, 3), (), ())):
    random = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(place(torch.randn(s, generator=random))) for s in SHAPES]
    optimizer = getattr(fast, name)(params, **SETTINGS[name], lr=0.1)
    for without in missing:
        for i, p in enumerate(params):
            grad = torch.randn(SHAPES[i], generator=random)
            p.grad = None if i in without else place(grad)
        optimizer.step()
    return params, optimizer


def assert_same(found, expected):
    (params, optimizer), (others, other) = found, expected
    for p, q in zip(params, others, strict=True):
        assert torch.equal(to_cpu(p), to_cpu(q))
        for key, value in other.state[q].items():
            assert torch.equal(to_cpu(optimizer.state[p][key]), to_cpu(value)), key


@every
def test_no_gradient_is_looked_at_in_python(name, monkeypatch):
    def refuse(*_):
        pytest.fail("checked in Python")

    monkeypatch.setattr(DeviceGradients, "_check", refuse)
    found = train(name, to_cuda)
    assert found[1]._planner.plan._snapshot is not None
    assert_same(found, train(name, torch.clone))


@every
def test_without_the_interface(name, monkeypatch):
    monkeypatch.setattr(snapshot, "interface", lambda kind: None)
    found = train(name, to_cuda)
    assert found[1]._planner.plan._snapshot is None
    assert_same(found, train(name, torch.clone))


def test_unusual_gradients():
    """In another order, and usual ones again."""
    both = []
    for place in (to_cuda, torch.clone):
        w = torch.nn.Parameter(place(torch.ones(5, 3)))
        optimizer = fast.Adam([w], lr=0.1)
        for turned in (False, False, True, False, True):
            grad = torch.arange(15.0).reshape(5, 3)
            w.grad = place(grad.t().contiguous().t() if turned else grad)
            optimizer.step()
        both.append(([w], optimizer))
    assert_same(*both)


def test_a_step_that_fails_is_not_counted(monkeypatch):
    params, optimizer = train("Adam", to_cuda)
    stepper = optimizer._planner.plan.launches[0][0].stepper
    before = [to_cpu(p).clone() for p in params]
    stepper.launches[:, 2] += 4096  # more threads than a block has
    with pytest.raises(RuntimeError, match="cuLaunchKernel failed"):
        optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [5.0, 5.0, 6.0, 5.0]
    for p, q in zip(params, before, strict=True):
        assert torch.equal(to_cpu(p), q)
    stepper.launches[:, 2] -= 4096
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [6.0, 6.0, 7.0, 6.0]


def test_a_gradient_in_other_memory_is_refused():
    """One on the CPU has the same dtype and shape, but not the device."""
    _, optimizer = train("SGD", to_cuda)
    stepper = optimizer._planner.plan.launches[0][0].stepper
    known, counts = optimizer._planner.plan._snapshot, stepper.table.counts.copy()
    assert not known.note([torch.ones(s) for s in SHAPES])
    assert (stepper.table.counts == counts).all()
