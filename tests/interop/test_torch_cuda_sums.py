"""Automatic rates, averages and fastopt's own optimizers on a CUDA device, beside the CPU."""

import pytest

from tests.interop.cuda_pairs import Twins, needs_torch_on_cuda, usual_settings
from tests.interop.test_torch_sums import NATIVE, damped
from tests.interop.torch_pairs import fast, torch

from tests.interop.cuda_tensors import to_cuda  # isort: skip

__all__ = ["usual_settings"]  # a fixture

pytestmark = needs_torch_on_cuda


@pytest.mark.parametrize("name", ["LAMB", "LARS", "Prodigy", "DoG", "Lion"])
def test_native_classes_have_the_bits_of_the_cpu(name):
    pair = Twins(name, NATIVE[name])
    for without in ((1,), (), (), (0,), ()):
        pair.step(without)
        pair.assert_same()


def test_averages():
    pair = Twins("AdamW", {"schedule_free": 0.9})
    for _ in range(3):
        pair.step()
    averages = [optimizer.averaged_params() for optimizer in pair.both]
    for one, other in zip(*averages, strict=True):
        assert one.device != other.device
        assert torch.equal(one.cpu(), other.cpu())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: fast.AdamW(p, lr="auto", capturable=True), "capturable=False"),
        (lambda p: fast.AdamW(p, lr="auto"), "lr must be a number"),
        (lambda p: fast.SGD(p, stats=("grad_norm",)), "stats must be empty"),
        (lambda p: fast.ChainOptimizer(p, damped(per_array=False)), "sums_after"),
        (lambda p: fast.Prodigy([*p, torch.nn.Parameter(torch.ones(2))]), "on one device"),
    ],
)
def test_what_is_not_possible_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make([torch.nn.Parameter(to_cuda(torch.ones(3)))])


def test_layerwise_rates_may_be_on_several_devices():
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(to_cuda(torch.ones(3)))]
    optimizer = fast.LAMB(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(params[0], params[1].cpu())
