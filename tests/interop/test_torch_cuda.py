"""Tensors on a CUDA device, beside torch's own optimizers on the CPU."""

import copy
import gc
import pickle
import weakref

import pytest

from tests.device import EMULATED, needs_driver
from tests.interop.torch_pairs import INFOS, NAMES, TOLERANCE, Pair, fast, state_keys, torch

from torch.testing._internal.common_optimizers import (  # isort: skip
    _get_optim_inputs_including_global_cliquey_kwargs,
)

from tests.interop.cuda_tensors import current_stream, moves_to_cuda, to_cpu, to_cuda, to_sparse  # isort: skip

pytestmark = [
    needs_driver,
    pytest.mark.skipif(
        not (EMULATED or torch.cuda.is_available()),
        reason="torch is without CUDA, and there is no emulated GPU",
    ),
]
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _usual(monkeypatch):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with current_stream(monkeypatch):
        yield
    torch.set_default_dtype(before)


class CudaPair(Pair):
    """torch's optimizer on the CPU, and fastopt's on a device."""

    def make(self, which, name):
        if which == "fastopt":
            own = self.params[which]
            self.params[which] = [
                torch.nn.Parameter(self.place(i, p.detach())) for i, p in enumerate(own)
            ]
        return super().make(which, name)

    def place(self, i, tensor):
        return to_cuda(tensor)

    def assert_same(self, **tolerance):
        tolerance = tolerance or TOLERANCE[self.dtype.to_real()]
        for i, (p, q) in enumerate(zip(*self.params.values(), strict=True)):
            torch.testing.assert_close(
                to_cpu(q), p.detach(), msg=lambda m, i=i: f"parameter {i}: {m}", **tolerance
            )
            theirs, ours = self.torch.state.get(p, {}), self.fast.state.get(q, {})
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                found = ours[name]
                if (
                    value.dim() == p.dim()
                    and value.shape == p.shape
                    and name not in ("step", "mu_product")
                ):
                    assert found.device == q.device
                    assert found.stride() == value.stride()
                else:
                    assert found.device.type == "cpu"
                torch.testing.assert_close(
                    to_cpu(found),
                    value,
                    msg=lambda m, i=i, n=name: f"{n} of parameter {i}: {m}",
                    **tolerance,
                )


def configurations():
    for name in NAMES:
        found = _get_optim_inputs_including_global_cliquey_kwargs(
            "cpu", torch.float32, INFOS[name], skip=("differentiable", "foreach", "fused")
        )
        for given in found:
            leave = ("differentiable", "foreach", "fused")
            kwargs = {k: v for k, v in given.kwargs.items() if k not in leave}
            yield pytest.param(name, kwargs, id=f"{name}-{given.desc}")


@pytest.mark.parametrize(("name", "kwargs"), list(configurations()))
def test_numbers(name, kwargs):
    pair = CudaPair(name, kwargs)
    for without in ((2,), (), (0, 1, 2, 3, 4), (0, 4)):
        pair.step(without)
        pair.assert_same()
    assert state_keys(pair.fast) == state_keys(pair.torch)


class Twins(CudaPair):
    """fastopt's optimizer over parameters on the CPU and on a device: the same bits."""

    def make(self, which, name):
        home, self.home = fast, which
        if which == "fastopt":
            return super().make(which, name)
        return getattr(home, name)(self.params[which], **copy.deepcopy(self.kwargs))

    def assert_same(self, **_):
        def same(found, expected, what):
            found, expected = to_cpu(found), expected.detach()
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected), what

        for i, (p, q) in enumerate(zip(*self.params.values(), strict=True)):
            same(q, p, i)
            theirs, ours = self.torch.state.get(p, {}), self.fast.state.get(q, {})
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                same(ours[name], value, (name, i))


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128],
    ids=str,
)
@every
def test_same_bits_as_on_the_cpu(name, dtype):
    momentum = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    pair = Twins(name, {"lr": 0.1, "weight_decay": 0.05, **momentum}, dtype=dtype)
    for without in ((), (1,), ()):
        pair.step(without)
        pair.assert_same()


@pytest.mark.parametrize(
    "extra",
    [
        {"clip_norm": 0.5, "average_decay": 0.9},
        {"stochastic_rounding": True},
        {"clip_norm": 100.0, "stochastic_rounding": True, "maximize": True},
    ],
    ids=str,
)
@every
def test_extras(name, extra):
    dtype = torch.bfloat16 if "stochastic_rounding" in extra else torch.float32
    pair = Twins(name, {"lr": 0.1, **extra}, dtype=dtype)
    for _ in range(3):
        pair.step()
        pair.assert_same()
        if "clip_norm" in extra:
            assert pair.fast.last == pair.torch.last
            pair.fast.clip_norm = pair.torch.clip_norm = pair.fast.clip_norm / 2


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("Adam", torch.bfloat16), ("RMSprop", {"square_avg": torch.float16}), ("Adagrad", torch.bfloat16)],
)
def test_formats_of_states(name, dtype):
    pair = Twins(name, {"lr": 0.1, "state_dtype": dtype})
    for without in ((), (1,), ()):
        pair.step(without)
        pair.assert_same()


EIGHT = (65, 64), (7,)  # the first has blocks, the last of them not full, the second none


@pytest.mark.parametrize(
    ("name", "rounding"), [*((name, None) for name in NAMES), ("RMSprop", False), ("Adam", True)]
)
def test_states_of_8_bits(name, rounding):
    momentum = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    settings = {"lr": 0.1, "weight_decay": 0.05, "average_decay": 0.9, **momentum}
    extra = {"state_dtype": "8bit", "stochastic_rounding": rounding}
    pair = Twins(name, {**settings, **extra}, shapes=EIGHT)
    for without in ((), (1,), ()):
        pair.step(without)
        pair.assert_same()
    q = pair.params["fastopt"][0]
    packed = {n: v for n, v in pair.fast.state[q].items() if v.dtype == torch.uint8}
    assert packed
    for state in packed.values():
        assert (state.device, state.shape) == (q.device, (17, 260))
    found, expected = pair.fast.decoded(q), pair.torch.decoded(pair.params["torch"][0])
    for key in packed:
        assert (found[key].device, found[key].dtype) == (q.device, torch.float32)
        assert torch.equal(to_cpu(found[key]), expected[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_states_of_8_bits_beside_16(dtype):
    pair = Twins(
        "Adam", {"lr": 0.1, "state_dtype": "8bit", "clip_norm": 1.0}, dtype=dtype, shapes=EIGHT
    )
    for _ in range(2):
        pair.step()
        pair.assert_same()


def test_states_of_8_bits_need_the_plain_order():
    image = torch.ones(8, 16, 8, 8).to(memory_format=torch.channels_last)
    w = torch.nn.Parameter(to_cuda(image))
    w.grad = to_cuda(image)
    optimizer = fast.RMSprop([w], state_dtype="8bit")
    optimizer.step()
    average = optimizer.state[w]["square_avg"]
    assert (average.dtype, average.stride()) == (torch.float32, w.stride())


def load(pair, of_torch, of_fast, monkeypatch):
    """Checkpoints into both, as a script loads them: tensors on the CPU."""

    def on_cpu(found):
        states = {i: {k: to_cpu(v).clone() for k, v in s.items()} for i, s in found["state"].items()}
        return {**found, "state": states}

    pair.torch.load_state_dict(on_cpu(of_torch))
    with moves_to_cuda(monkeypatch):
        pair.fast.load_state_dict(on_cpu(of_fast))


@pytest.mark.parametrize("name", ["RMSprop", "NAdam"])
def test_checkpoints_of_8_bits(name, monkeypatch):
    """The CPU's go on here and the reverse, those of other formats too, and so do copies."""
    pair = Twins(name, {"lr": 0.1, "state_dtype": "8bit"}, shapes=EIGHT)
    usual = Twins(name, {"lr": 0.1}, shapes=EIGHT)
    for each in (pair, usual):
        each.step()
    load(pair, pair.fast.state_dict(), pair.torch.state_dict(), monkeypatch)
    pair.step()
    pair.assert_same()
    load(pair, usual.fast.state_dict(), usual.torch.state_dict(), monkeypatch)
    pair.step()
    pair.assert_same()
    load(usual, pair.fast.decoded_state_dict(), pair.torch.decoded_state_dict(), monkeypatch)
    usual.step()
    usual.assert_same()

    twins = copy.deepcopy(pair.fast), pickle.loads(pickle.dumps(pair.fast))
    pair.step()
    for twin in twins:
        own = twin.param_groups[0]["params"]
        for p, q in zip(own, pair.params["fastopt"], strict=True):
            p.grad = q.grad
        twin.step()
        for p, q in zip(own, pair.params["fastopt"], strict=True):
            assert torch.equal(to_cpu(p), to_cpu(q))
            for key, value in pair.fast.state[q].items():
                assert torch.equal(to_cpu(twin.state[p][key]), to_cpu(value))


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
    # units in the last place of a number below 1, in each of three steps.
    tolerance = {**TOLERANCE[torch.float32], "atol": 3 * 4 * 2.0**-24}
    for base in laid_out():
        p = torch.nn.Parameter(base.clone(memory_format=torch.preserve_format))
        whole = to_cuda(torch.zeros(2 * base.numel() + 9))
        gaps = base.stride() != p.stride()  # a clone has none
        own = whole.as_strided(base.shape, base.stride(), 1) if gaps else to_cuda(p.detach())
        with torch.no_grad():
            own.copy_(to_cuda(p.detach()))
        q = torch.nn.Parameter(own)
        for new, which, optimizer in zip((p, q), pair.params, pair.both, strict=True):
            pair.params[which].append(new)
            optimizer.add_param_group({"params": [new], "lr": 0.1})
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
    for own, which, optimizer in zip(new, pair.params, pair.both, strict=True):
        pair.params[which].append(own)
        optimizer.add_param_group({"params": [own], "lr": 0.3})
    for without in ((), (1, 2), (0, 2, 4), (1, 3, 5), ()):
        pair.step(without)
        pair.assert_same()


def test_a_limit_on_several_devices_is_refused():
    pair = Mixed("Adam")
    pair.fast.clip_norm = 1.0
    before = [to_cpu(q).clone() for q in pair.params["fastopt"]]
    with pytest.raises(ValueError, match=r"clip_norm must be None .* \['cpu', 'cuda:0'\]"):
        pair.step()
    assert not pair.fast.state
    for q, w in zip(pair.params["fastopt"], before, strict=True):
        assert torch.equal(to_cpu(q), w)


@every
def test_checkpoints_both_ways(name, monkeypatch):
    """torch's on the CPU resumes here on a device, and the reverse."""
    pair = CudaPair(name, {"lr": 0.1})
    for _ in range(2):
        pair.step()
    ours, theirs = pair.fast.state_dict(), copy.deepcopy(pair.torch.state_dict())
    states = {i: {k: to_cpu(v).clone() for k, v in s.items()} for i, s in ours["state"].items()}
    with moves_to_cuda(monkeypatch):
        pair.fast.load_state_dict(theirs)
    pair.torch.load_state_dict({**ours, "state": states})
    for _ in range(2):
        pair.step()
        pair.assert_same()


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
            before = len(gpu_emulator.launches)
            pair.step()
            own = gpu_emulator.launches[before:]
            assert [launch["stream"] for launch in own] == [STREAM] * 2

    def test_nobody_waits(self, monkeypatch):
        """With new gradients, a schedule and groups: no synchronisation, and no copy that waits."""
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
