"""Rates, statistics, averages and fastopt's own optimizers on a CUDA device, beside the CPU."""

import copy
import math
import pickle

import pytest

from fastopt.transforms import chain, scale, scale_by_adam, skip_nonfinite
from tests.device import EMULATED
from tests.interop.cuda_pairs import Twins, load, needs_torch_on_cuda, usual_settings
from tests.interop.test_torch_sums import AUTOMATIC, NATIVE, STATS, damped
from tests.interop.torch_pairs import fast, torch

from tests.interop.cuda_tensors import to_cuda  # isort: skip

__all__ = ["usual_settings"]  # a fixture

pytestmark = needs_torch_on_cuda

# Parameters that have a gradient later than others, and miss one.
MISSING = (1,), (), (), (0, 4), (2,), ()


def assert_same_sums(pair):
    """Rates and statistics; those of parameters that have the same index."""
    pair.assert_same()
    rates = [optimizer.get_last_lr() for optimizer in pair.both]
    assert repr(rates[0]) == repr(rates[1])  # NaN too
    carried = [[group.get("carried") for group in each.param_groups] for each in pair.both]
    assert carried[0] == carried[1]
    expected, actual = (optimizer.read_stats() for optimizer in pair.both)
    if expected is None:
        assert actual is None
        return
    assert (actual.step, repr(dict(actual))) == (expected.step, repr(dict(expected)))
    on_cpu, on_device = pair.params.values()
    for name, each in expected.per_array.items():
        numbers = actual.per_array[name]
        assert repr([numbers.get(q) for q in on_device]) == repr([each.get(p) for p in on_cpu])


@pytest.mark.parametrize("name", ["LAMB", "LARS", "Prodigy", "DoG", "Lion"])
def test_native_classes_have_the_bits_of_the_cpu(name):
    pair = Twins(name, {**NATIVE[name], "stats": STATS})
    for without in ((1,), (), (), (0,), ()):
        pair.step(without)
        assert_same_sums(pair)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "AdamW", "RAdam"])
def test_automatic_rates_have_the_bits_of_the_cpu(name):
    _, kwargs = AUTOMATIC[name]
    pair = Twins(name, {**kwargs, "lr": "auto", "stats": STATS})
    for without in MISSING:
        pair.step(without)
        assert_same_sums(pair)


@pytest.mark.parametrize("per_array", [False, True])
def test_sums_of_the_step_before(per_array):
    kwargs = {"transforms": damped(per_array), "lr": 0.125, "stats": ("grad_norm",)}
    pair = Twins("ChainOptimizer", kwargs)
    for without in MISSING:
        pair.step(without)
        assert_same_sums(pair)


def test_skipped_steps_do_not_count():
    """Nor in torch's step counts, though only the device knows of them."""
    transforms = chain(skip_nonfinite(), scale_by_adam(), scale(-0.125))
    pair = Twins("ChainOptimizer", {"transforms": transforms})
    for size, without in ((1.0, ()), (math.nan, ()), (2.0, (1,)), (math.nan, (0,)), (0.5, ())):
        pair.step(without, size)
        pair.assert_same()
        counts = [[float(state["step"]) for state in o.state.values()] for o in pair.both]
        assert counts[0] == counts[1]


def test_groups_and_another_one_added():
    """One has a number for its rate; the last joins the rate of the first."""
    pair = Twins("AdamW", {"lr": "auto", "stats": STATS}, shapes=((5,), (40,), (3,)))
    groups = [[params[:1], params[1:2], params[2:]] for params in pair.params.values()]
    optimizers = [
        fast.AdamW([{"params": a}, {"params": b, "lr": 0.1}], lr="auto", stats=STATS)
        for a, b, _ in groups
    ]
    pair.torch, pair.fast = optimizers
    pair.step((2,))
    pair.step((2,))
    for optimizer, (*_, last) in zip(optimizers, groups, strict=True):
        optimizer.add_param_group({"params": last})
    for _ in range(2):
        pair.step()
        assert_same_sums(pair)
    first, second, third = pair.fast.get_last_lr()
    assert first == third != second == 0.1


CHECKPOINTS = {
    "AdamW": {"lr": "auto", "stats": STATS},
    "Prodigy": {**NATIVE["Prodigy"], "stats": STATS},
    "ChainOptimizer": {"transforms": damped(per_array=True), "lr": 0.125, "stats": STATS},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_both_ways_and_copies(name, monkeypatch):
    """Sums from the CPU continue on a device, those of a device on the CPU, and both in copies."""
    pair = Twins(name, CHECKPOINTS[name])
    for without in MISSING[:4]:
        pair.step(without)
    other = Twins(name, CHECKPOINTS[name])
    load(other, pair.fast.state_dict(), pair.torch.state_dict(), monkeypatch)
    for params, others in zip(pair.params.values(), other.params.values(), strict=True):
        for p, q in zip(params, others, strict=True):
            q.data.copy_(p)
    other.step((1,))  # which keeps the sums that were loaded
    assert_same_sums(other)
    other.step()
    assert_same_sums(other)

    twins = copy.deepcopy(other.fast), pickle.loads(pickle.dumps(other.fast))
    other.step((2,))
    for twin in twins:
        params = twin.param_groups[0]["params"]
        for p, q in zip(params, other.params["fastopt"], strict=True):
            p.grad = q.grad
        twin.step()
        other.params["fastopt"], other.fast = params, twin
        assert twin.get_last_lr() == other.torch.get_last_lr()  # which brings states up to date
        other.assert_same()


@pytest.mark.parametrize("kwargs", [{"momentum": 0.5}, {}], ids=["counted", "uncounted"])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_a_new_plan_resumes(name, kwargs):
    """Statistics of what is left out stay, with the scale that its gradient had then."""
    kwargs = {"lr": "auto" if name == "AdamW" else 0.125, **(kwargs if name == "SGD" else {})}
    pair = Twins(name, {**kwargs, "stats": STATS, "fused": True})

    def step(scale, without=()):
        for optimizer in pair.both:
            optimizer.grad_scale = torch.tensor(scale)
            optimizer.found_inf = torch.tensor(0.0)
        pair.step(without, scale)
        assert_same_sums(pair)

    step(4.0, (1,))
    step(4.0)
    step(2.0, (0,))
    known = pair.torch.read_stats()
    for optimizer, params in zip(pair.both, pair.params.values(), strict=True):
        optimizer.state_dtype = torch.bfloat16 if optimizer.state_dtype is None else None
        assert optimizer.read_stats().per_array["grad_norm"][params[0]] > 0.0
    step(8.0, (0,))
    later = pair.torch.read_stats()
    params = pair.params["torch"]
    for name in STATS:
        assert later.per_array[name][params[0]] == known.per_array[name][params[0]]
        assert later.per_array[name][params[1]] != known.per_array[name][params[1]]
    step(1.0)


def test_states_that_were_replaced():
    pair = Twins("RMSprop", {"lr": "auto", "stats": STATS})
    pair.step()
    for optimizer in pair.both:
        for state in optimizer.state.values():
            state["trend"] = state["trend"].clone()
    pair.step((1,))
    assert_same_sums(pair)
    pair.step()
    assert_same_sums(pair)


@pytest.mark.skipif(not EMULATED, reason="copies never arrive only where nothing is copied")
def test_reading_statistics_does_not_wait(monkeypatch):
    from fastopt.executors.cuda import device

    w = torch.nn.Parameter(to_cuda(torch.zeros(2)))
    late = torch.nn.Parameter(to_cuda(torch.zeros(1)))
    optimizer = fast.RMSprop([w, late], stats=("grad_norm",))
    assert optimizer.stats is optimizer.read_stats() is None
    for size in 1.0, 2.0:
        w.grad = to_cuda(size * torch.tensor([3.0, 4.0]))
        optimizer.step()
    with monkeypatch.context() as patch:
        patch.setattr(device.Pinned, "has_arrived", lambda pinned: int(pinned.array[0]) < 2)
        for name in ("synchronize", "to_host"):
            patch.setattr(device, name, None)
        assert (optimizer.stats.step, optimizer.stats["grad_norm"]) == (1, 5.0)
    assert optimizer.read_stats(wait=False).step == 2
    with monkeypatch.context() as patch:  # nothing of the new plan has come yet
        patch.setattr(device.Pinned, "has_arrived", lambda pinned: False)
        late.grad = to_cuda(torch.ones(1))
        optimizer.step()
        assert (optimizer.stats.step, optimizer.stats["grad_norm"]) == (2, 10.0)
        assert optimizer.read_stats().step == 3
    assert optimizer.stats.step == 3
    with pytest.raises(TypeError, match="wait"):
        optimizer.read_stats(wait=None)


def test_a_loaded_state_has_no_statistics_yet():
    w = torch.nn.Parameter(to_cuda(torch.zeros(2)))
    optimizer = fast.Adam([w], stats=("grad_norm",))
    w.grad = to_cuda(torch.tensor([3.0, 4.0]))
    optimizer.step()
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    assert optimizer.stats is optimizer.read_stats() is None
    optimizer.step()
    assert (optimizer.read_stats().step, optimizer.stats["grad_norm"]) == (2, 5.0)


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
        (lambda p: fast.AdamW(p, capturable=True, stats=("grad_norm",)), "capturable=False"),
        (lambda p: fast.AdamW([*p, torch.nn.Parameter(torch.ones(2))], lr="auto"), "on one device"),
        (lambda p: fast.SGD([*p, torch.nn.Parameter(torch.ones(2))], stats=STATS), "on one device"),
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
