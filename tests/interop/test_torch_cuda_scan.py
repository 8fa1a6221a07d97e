"""CUDA tensors checked in machine code: the bits of tensors in memory; what is unusual is noticed."""

import pytest

import fastopt
from tests.device import EMULATED, needs_driver
from tests.interop.torch_pairs import SETTINGS, every, fast, planner_of, torch

from fastopt.executors import exchange  # isort: skip
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


def assert_same(actual, expected):
    (params, optimizer), (others, other) = actual, expected
    for p, q in zip(params, others, strict=True):
        assert torch.equal(to_cpu(p), to_cpu(q))
        for key, value in other.state[q].items():
            assert torch.equal(to_cpu(optimizer.state[p][key]), to_cpu(value)), key


@every
def test_no_gradient_is_checked_in_python(name, monkeypatch):
    def refuse(*_):
        pytest.fail("checked in Python")

    monkeypatch.setattr(DeviceGradients, "_check", refuse)
    trained = train(name, to_cuda)
    assert planner_of(trained[1]).plan._snapshot is not None
    assert_same(trained, train(name, torch.clone))


@every
def test_without_the_interface(name, monkeypatch):
    monkeypatch.setattr(snapshot, "interface", lambda kind: None)
    trained = train(name, to_cuda)
    assert planner_of(trained[1]).plan._snapshot is None
    assert_same(trained, train(name, torch.clone))


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
    stepper = planner_of(optimizer).plan.launches[0][0].stepper
    previous = [to_cpu(p).clone() for p in params]
    stepper.launches.table[:, 2] += 4096  # more threads than a block has
    with pytest.raises(RuntimeError, match="cuLaunchKernel failed"):
        optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [5.0, 5.0, 6.0, 5.0]
    for p, q in zip(params, previous, strict=True):
        assert torch.equal(to_cpu(p), q)
    stepper.launches.table[:, 2] -= 4096
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [6.0, 6.0, 7.0, 6.0]


def test_a_gradient_on_another_device_is_not_usual():
    """Its dtype and shape are the same."""
    _, optimizer = train("SGD", to_cuda)
    snapshot, stepper = (
        planner_of(optimizer).plan._snapshot,
        planner_of(optimizer).plan.launches[0][0].stepper,
    )
    counts = stepper.table.counts.copy()
    assert snapshot.is_same()
    assert snapshot.is_noted
    snapshot._grads.table[0, exchange.DEVICE] += 1 << 32  # the next device
    assert snapshot.is_same()
    assert not snapshot.is_noted
    assert (stepper.table.counts == counts).all()


def test_gradients_that_change_their_alignment():
    """Some launches are others then; usual steps follow."""
    both = []
    for place in (to_cuda, torch.clone):
        random = torch.Generator().manual_seed(1)
        params = [torch.nn.Parameter(place(torch.randn(n, generator=random))) for n in (64, 33, 7)]
        optimizer = fast.Adam(params, lr=0.1)
        for offset in (0, 0, 0, 1, 0, 0, 2, 2, 2, 0):
            for p in params:
                p.grad = place(torch.randn(len(p) + offset, generator=random))[offset:]
            optimizer.step()
        both.append((params, optimizer))
    assert_same(*both)


def test_more_steps_than_buffers_and_missing_gradients():
    """Tables go to the device through a ring of buffers; a step without a gradient is bound anew."""
    both = []
    for place in (to_cuda, torch.clone):
        random = torch.Generator().manual_seed(2)
        params = [torch.nn.Parameter(place(torch.randn(n, generator=random))) for n in (5, 40, 3)]
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.01}]
        optimizer = fast.RMSprop(groups, lr=0.1, momentum=0.5)
        for step in range(40):
            for i, p in enumerate(params):
                grad = place(torch.randn(len(p), generator=random))
                p.grad = None if (step, i) in {(21, 0), (22, 2), (30, 1)} else grad
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
        both.append((params, optimizer))
    assert_same(*both)


@pytest.mark.parametrize("zero_grad", [False, True])
def test_other_tensors_in_each_step_of_the_core(zero_grad, monkeypatch):
    """One call of machine code binds them, but those that are cleared are checked anew."""
    sizes = 50, 0, 7
    params, twins = ([place(torch.ones(n)) for n in sizes] for place in (to_cuda, torch.clone))
    twins = [twin.numpy() for twin in twins]
    opt, here = (fastopt.RMSProp(leaves, lr=0.1, zero_grad=zero_grad) for leaves in (params, twins))

    def step(number):
        grads = [torch.full((n,), float(number)) for n in sizes]
        opt.step([to_cuda(grad) for grad in grads])
        here.step([grad.numpy() for grad in grads])

    step(1)
    taken, take = [], DeviceGradients.take
    monkeypatch.setattr(DeviceGradients, "take", lambda *arguments: (taken.append(1), take(*arguments)))
    for number in (3, -2, 5):
        step(number)
    assert len(taken) == (3 if zero_grad else 0)
    with pytest.raises(ValueError, match="memory"):
        opt.step([to_cuda(torch.ones(50)), to_cuda(torch.ones(0)), params[2]])
    step(4)
    step(2)
    assert opt.step_count == here.step_count == 6
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(to_cpu(param), torch.from_numpy(twin))
