"""Steps inside the backward pass on a CUDA device: the bits of the CPU, streams, captures."""

from types import SimpleNamespace

import pytest

from tests.device import EMULATED, needs_driver
from tests.interop.torch_pairs import NAMES, SETTINGS, fast, torch

from fastopt.interop.torch import backward_steps, step_in_backward  # isort: skip
from tests.interop.cuda_tensors import current_stream, to_cpu, to_cuda  # isort: skip

pytestmark = [
    needs_driver,
    pytest.mark.skipif(
        not (EMULATED or torch.cuda.is_available()),
        reason="torch is without CUDA, and there is no emulated GPU",
    ),
]


@pytest.fixture(autouse=True)
def _usual(monkeypatch):
    with current_stream(monkeypatch):
        yield


def parameters(place, dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    shapes = (70, 80), (7,), (4, 1500), (), (3,)
    tensors = [torch.randn(shape, generator=random, dtype=dtype) for shape in shapes]
    return [torch.nn.Parameter(place(param)) for param in tensors]


def give(params, step, place):
    random = torch.Generator().manual_seed(step)
    for param in reversed(params):  # as a backward pass does
        grad = torch.randn(param.shape, generator=random)
        param.grad = place(grad.to(param.dtype))
        yield param


def complete(param):
    """What autograd does when a gradient is complete: the emulated devices are unknown to it."""
    for hook in list(param._post_accumulate_grad_hooks.values()):
        hook(param)


def usual(tensor):
    return tensor.clone()


@pytest.mark.parametrize(
    ("name", "added", "collected"),
    [
        (name, added, (1, 20, 10**9)[(i + j) % 3])
        for i, name in enumerate(NAMES)
        for j, added in enumerate([{}, {"state_dtype": "8bit"}])
    ],
)
def test_the_bits_of_ordinary_steps_on_the_cpu(name, added, collected, monkeypatch):
    monkeypatch.setattr(backward_steps, "COLLECTED", collected)
    ours, reference = parameters(to_cuda), parameters(usual)
    released = step_in_backward(ours, getattr(fast, name), **SETTINGS[name], **added)
    ordinary = getattr(fast, name)(reference, **SETTINGS[name], **added)
    for step in range(3):
        for param in give(ours, step, to_cuda):
            complete(param)
        assert ours[0].grad is None or collected > 20
        released.step()
        assert all(param.grad is None for param in ours)
        for _ in give(reference, step, usual):
            pass
        ordinary.step()
    for p, q in zip(ours, reference, strict=True):
        assert torch.equal(to_cpu(p), q.detach())
        for key, value in ordinary.state[q].items():
            assert torch.equal(to_cpu(released.state[p][key]), value)


def test_gradients_on_another_stream_are_stepped_apart(monkeypatch):
    ours = parameters(to_cuda)
    released = step_in_backward(ours, fast.SGD, lr=1.0)
    entered, left = [], list(give(ours, 0, to_cuda))
    previous = [to_cpu(param).clone() for param in ours]
    current = torch.cuda.current_stream
    another = SimpleNamespace(cuda_stream=current().cuda_stream, name="another")
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "current_stream", lambda device=None: another)
        complete(left[0])

    class Stream:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            entered.append(self.stream)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(torch.cuda, "stream", Stream)
    for param in left[1:]:
        complete(param)
    assert entered == [another]
    assert left[0].grad is None
    released.step()
    assert not any(torch.equal(to_cpu(p), q) for p, q in zip(ours, previous, strict=True))


def test_captures_are_refused(monkeypatch):
    (param, *_) = ours = parameters(to_cuda)
    released = step_in_backward(ours, fast.Adam, capturable=True)
    list(give(ours, 0, to_cuda))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        complete(param)
    assert not released.state
