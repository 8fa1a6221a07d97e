"""Tensors on a CUDA device, beside torch's own optimizers on the CPU."""

import gc
import weakref

import pytest

from tests.device import EMULATED
from tests.interop.cuda_pairs import CudaPair, Twins, every, needs_torch_on_cuda, usual_settings
from tests.interop.torch_pairs import INFOS, NAMES, TOLERANCE, add_group, fast, state_keys, torch

from tests.interop.cuda_tensors import to_cpu, to_cuda, to_sparse  # isort: skip

from torch.testing._internal.common_optimizers import (  # isort: skip
    _get_optim_inputs_including_global_cliquey_kwargs,
)

__all__ = ["usual_settings"]  # a fixture

pytestmark = needs_torch_on_cuda


def configurations():
    for name in NAMES:
        inputs = _get_optim_inputs_including_global_cliquey_kwargs(
            "cpu", torch.float32, INFOS[name], skip=("differentiable", "foreach", "fused")
        )
        for entry in inputs:
            leave = ("differentiable", "foreach", "fused")
            kwargs = {k: v for k, v in entry.kwargs.items() if k not in leave}
            yield pytest.param(name, kwargs, id=f"{name}-{entry.desc}")


@pytest.mark.parametrize(("name", "kwargs"), list(configurations()))
def test_numbers(name, kwargs):
    pair = CudaPair(name, kwargs)
    for without in ((2,), (), (0, 1, 2, 3, 4), (0, 4)):
        pair.step(without)
        pair.assert_same()
    assert state_keys(pair.fast) == state_keys(pair.torch)


DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32),
    *(torch.float64, torch.complex64, torch.complex128),
)
EXTRAS = (
    {"clip_norm": 0.5, "average_decay": 0.9},
    {"stochastic_rounding": True},
    {"clip_norm": 100.0, "stochastic_rounding": True, "maximize": True},
)


# Two dtypes of each optimizer, and of each dtype some optimizers: tensors come to all kernels alike.
# `test_cuda` has every optimizer in float32 and float64.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, DTYPES[(i + j) % 6]) for i, name in enumerate(NAMES) for j in (0, 3)],
    ids=str,
)
def test_same_bits_as_on_the_cpu(name, dtype):
    momentum = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    pair = Twins(name, {"lr": 0.1, "weight_decay": 0.05, **momentum}, dtype=dtype)
    for without in ((), (1,), ()):
        pair.step(without)
        pair.assert_same()


@pytest.mark.parametrize(
    ("name", "extra"), [(name, EXTRAS[i % 3]) for i, name in enumerate(NAMES)], ids=str
)
def test_extras(name, extra):
    dtype = torch.bfloat16 if "stochastic_rounding" in extra else torch.float32
    pair = Twins(name, {"lr": 0.1, **extra}, dtype=dtype)
    for _ in range(3):
        pair.step()
        pair.assert_same()
        if "clip_norm" in extra:
            assert pair.fast.last == pair.torch.last
            pair.fast.clip_norm = pair.torch.clip_norm = pair.fast.clip_norm / 2


def laid_out():
    torch.manual_seed(3)
    image = torch.randn(4, 3, 5, 7)
    return [
        image.to(memory_format=torch.channels_last),
        torch.randn(5, 7).t(),
        image.permute(2, 0, 3, 1),
        torch.randn(6, 10)[:, ::2],
        torch.randn(20)[::2],
        torch.randn(10)[3:7],
    ]


@every
def test_layouts(name):
    """Orders and gaps in memory; gradients in another order than their parameter."""
    pair = CudaPair(name, params=[torch.ones(3)])
    # RMSprop's first step is lr * g / sqrt(0.01 * g * g) = 1, and some parameters come near zero: 4
    # ULP of a number below 1, in each of three steps.
    tolerance = {**TOLERANCE[torch.float32], "atol": 3 * 4 * 2.0**-24}
    for base in laid_out():
        p = torch.nn.Parameter(base.clone(memory_format=torch.preserve_format))
        whole = to_cuda(torch.zeros(2 * base.numel() + 9))
        gaps = base.stride() != p.stride()  # a clone has none
        moved = whole.as_strided(base.shape, base.stride(), 1) if gaps else to_cuda(p.detach())
        with torch.no_grad():
            moved.copy_(to_cuda(p.detach()))
        q = torch.nn.Parameter(moved)
        for new, which, optimizer in zip((p, q), pair.params, pair.both, strict=True):
            pair.params[which].append(new)
            add_group(optimizer, {"params": [new], "lr": 0.1})
    for turned in (False, True, False):
        for p, q in zip(*pair.params.values(), strict=True):
            g = 1 + torch.rand(p.shape, generator=pair.random)
            p.grad = g.clone()
            if turned and g.dim() > 1:
                g = g.transpose(0, -1).contiguous().transpose(0, -1)
            q.grad = to_cuda(g)
        for optimizer in pair.both:
            optimizer.step()
        for p, q in zip(*pair.params.values(), strict=True):
            torch.testing.assert_close(to_cpu(q), p.detach(), **tolerance)


class Mixed(CudaPair):
    """Every other parameter stays on the CPU."""

    def place(self, i, tensor):
        return to_cuda(tensor) if i % 2 else tensor.clone()


@every
def test_parameters_on_several_devices(name):
    pair = Mixed(name, {"weight_decay": 0.1})
    new = [torch.nn.Parameter(torch.ones(9)), torch.nn.Parameter(to_cuda(torch.ones(9)))]
    for param, which, optimizer in zip(new, pair.params, pair.both, strict=True):
        pair.params[which].append(param)
        add_group(optimizer, {"params": [param], "lr": 0.3})
    for without in ((), (1, 2), (0, 2, 4), (1, 3, 5), ()):
        pair.step(without)
        pair.assert_same()


def test_a_limit_on_several_devices_is_refused():
    pair = Mixed("Adam")
    pair.fast.clip_norm = 1.0
    previous = [to_cpu(q).clone() for q in pair.params["fastopt"]]
    with pytest.raises(ValueError, match=r"clip_norm must be None .* \['cpu', 'cuda:0'\]"):
        pair.step()
    assert not pair.fast.state
    for q, w in zip(pair.params["fastopt"], previous, strict=True):
        assert torch.equal(to_cpu(q), w)


@every
def test_settings_and_schedules(name):
    pair = CudaPair(name, {"weight_decay": 0.1})
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in pair.both]
    for step in range(4):
        for optimizer in pair.both:
            optimizer.param_groups[0]["maximize"] = step == 2
        pair.step()
        for scheduler in schedulers:
            scheduler.step()
        pair.assert_same()


@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_what_grad_scaler_leaves(scale):
    """Tensors of one number on the device: a factor, and whether to step at all."""
    pair = CudaPair("AdamW")
    for step in range(3):
        bad = step == 1
        for i, (p, q) in enumerate(zip(*pair.params.values(), strict=True)):
            p.grad = torch.full_like(p, 1.0 + i)
            q.grad = to_cuda(scale * p.grad)
        pair.fast.grad_scale = to_cuda(torch.tensor([scale]))
        pair.fast.found_inf = to_cuda(torch.tensor([float(bad)]))
        pair.fast.step()
        if not bad:
            pair.torch.step()
        pair.assert_same()


def test_states_that_were_replaced():
    pair = CudaPair("RMSprop", {"momentum": 0.5})
    pair.step()
    for optimizer, params in zip(pair.both, pair.params.values(), strict=True):
        for p in params:
            state = optimizer.state[p]
            state["square_avg"] = torch.ones_like(state["square_avg"])
            state["momentum_buffer"].zero_()
            p.data = p.data.clone()
    pair.step()
    pair.assert_same()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradients_are_torchs(name):
    pair = CudaPair(name, {"lr": 0.1}, shapes=((4, 3), (5,)))
    for step in range(3):
        (p, _), (q, _) = pair.params.values()
        pair.step(without=(0,) if step < 2 else ())
        if step < 2:
            sparse = torch.zeros(4, 3)
            sparse[step] = 1.5
            p.grad = sparse.to_sparse(1)
            q.grad = to_sparse(sparse)
            pair.params["torch"][1].grad = pair.params["fastopt"][1].grad = None
            for optimizer in pair.both:
                optimizer.step()
        pair.assert_same()


def test_refusals(monkeypatch):
    w = torch.nn.Parameter(to_cuda(torch.ones(4, 3)))

    def refused(make, grad, kind, match):
        optimizer = make([w])
        w.grad = grad
        with pytest.raises(kind, match=match):
            optimizer.step()
        assert torch.equal(to_cpu(w), torch.ones(4, 3))

    def ones():
        return to_cuda(torch.ones(4, 3))

    refused(fast.Adam, to_sparse(torch.ones(4, 3)), RuntimeError, "does not support sparse gradients")
    with monkeypatch.context() as patch:
        patch.setattr("fastopt.executors.cuda.availability.missing", lambda: "no driver: get one")
        refused(fast.Adam, ones(), RuntimeError, "cannot be stepped: no driver: get one")
    w.grad = None
    optimizer = fast.Adam([w], lr=0.5)
    w.grad = w.detach()
    with pytest.raises(ValueError, match="must not share memory"):
        optimizer.step()


def test_gradients_are_not_kept():
    """torch gives memory that is free to others: a step must not hold it until the next."""
    w = torch.nn.Parameter(to_cuda(torch.ones(8)))
    optimizer = fast.SGD([w], lr=0.5)
    for _ in range(2):
        w.grad = to_cuda(torch.ones(8))
        optimizer.step()
        gone = weakref.ref(w.grad)
        w.grad = None
        gc.collect()
        assert gone() is None


@pytest.mark.skipif(not EMULATED, reason="counts launches, which the emulated GPU alone tells")
class TestLaunches:
    def test_one_for_a_group_in_torchs_stream(self):
        import gpu_emulator

        from tests.interop.cuda_tensors import STREAM

        pair = CudaPair("RMSprop", shapes=((3, 5), (7,), (64,), (1,)))
        other = torch.nn.Parameter(to_cuda(torch.ones(5)))
        pair.fast.add_param_group({"params": [other], "lr": 0.5})
        for _ in range(3):
            other.grad = to_cuda(torch.ones(5))
            count = len(gpu_emulator.launches)
            pair.step()
            launches = gpu_emulator.launches[count:]
            assert [launch["stream"] for launch in launches] == [STREAM] * 2

    def test_nobody_waits(self, monkeypatch):
        """With new gradients, a schedule and groups: no synchronization, and no copy that waits."""
        from fastopt.executors.cuda import device

        pair = CudaPair("Adam", shapes=((3, 5), (7,)))
        pair.step()
        waits = ("synchronize", "to_host", "to_device", "across", "clear", "allocate")
        for name in waits:
            monkeypatch.setattr(device, name, lambda *_, name=name: pytest.fail(name))
        for _ in range(3):
            pair.fast.param_groups[0]["lr"] *= 0.5
            for q in pair.params["fastopt"]:
                q.grad = torch.ones_like(q)
            pair.fast.step()
