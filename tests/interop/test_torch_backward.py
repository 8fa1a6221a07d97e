"""Steps inside the backward pass: the bits of ordinary steps, gradients that are freed, refusals."""

import copy
import gc
import pickle
import sys
import weakref

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fastopt.interop.torch as fast  # noqa: E402
from fastopt.interop.torch import backward_steps, step_in_backward  # noqa: E402
from tests.interop.torch_pairs import NAMES, SETTINGS, every  # noqa: E402
from tests.subprocesses import run  # noqa: E402


class Tied(nn.Module):
    """Layers of several sizes: one is used twice, one is tied, one is used in some batches only."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.table = nn.Embedding(50, 96)
        self.twice = nn.Linear(96, 96)
        self.norm = nn.LayerNorm(96)
        self.seldom = nn.Linear(96, 96)
        self.head = nn.Linear(96, 50, bias=False)
        self.head.weight = self.table.weight
        self.frozen = nn.Linear(50, 1).requires_grad_(False)
        self.to(dtype)

    def forward(self, tokens, seldom=True):
        x = self.table(tokens)
        x = self.norm(self.twice(self.twice(x).relu()))
        return self.frozen(self.head(self.seldom(x) if seldom else x).tanh()).sum()


def model_of(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return Tied(dtype)


TOKENS = torch.arange(24).reshape(4, 6) % 50
COLLECTED = [1, 3000, 10**9]  # one by one, some together, all together


def groups(model):
    return [
        {"params": [p for p in model.parameters() if p.dim() == 2]},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0, "lr": 0.02},
    ]


def train(model, optimizer, steps=4, seldom=lambda i: i % 2 == 0, scheduler=None):
    for i in range(steps):
        optimizer.zero_grad()
        model(TOKENS, seldom(i)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def assert_same(ours, reference, optimizers):
    for (name, p), q in zip(ours.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(p, q), name
    a, b = (optimizer.state_dict() for optimizer in optimizers)
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for key, states in a["state"].items():
        assert states.keys() == b["state"][key].keys()
        assert all(torch.equal(states[name], b["state"][key][name]) for name in states)


@pytest.fixture(params=COLLECTED)
def collected(request, monkeypatch):
    monkeypatch.setattr(backward_steps, "COLLECTED", request.param)


@pytest.mark.parametrize(
    ("name", "added", "collected"),
    [
        (name, added, COLLECTED[(i + j) % 3])
        for i, name in enumerate(NAMES)
        for j, added in enumerate([{}, {"state_dtype": "8bit"}])
    ],
    indirect=["collected"],
)
def test_the_bits_of_ordinary_steps(name, added, collected):
    settings = SETTINGS[name] | added | {"lr": 0.01}
    ours, reference = model_of(), model_of()
    released = step_in_backward(groups(ours), getattr(fast, name), **settings)
    ordinary = getattr(fast, name)(groups(reference), **settings)
    # All have gradients in the first step: the order of elements, for random bits, is then the same.
    train(ours, released)
    train(reference, ordinary)
    assert_same(ours, reference, (released, ordinary))
    assert all(p.grad is None for p in ours.parameters())


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_random_bits_are_those_of_ordinary_steps(name, collected):
    settings = SETTINGS[name] | {"stochastic_rounding": True, "average_decay": 0.9}
    ours, reference = model_of(torch.bfloat16), model_of(torch.bfloat16)
    released = step_in_backward(ours, getattr(fast, name), **settings)
    ordinary = getattr(fast, name)(reference.parameters(), **settings)
    train(ours, released)
    train(reference, ordinary)
    assert_same(ours, reference, (released, ordinary))


def test_schedules_and_settings():
    ours, reference = model_of(), model_of()
    released = step_in_backward(ours, fast.Adam, lr=0.1)
    ordinary = fast.Adam(reference.parameters(), lr=0.1)
    for model, optimizer in ((ours, released), (reference, ordinary)):
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        train(model, optimizer, scheduler=scheduler)
        optimizer.param_groups[0]["weight_decay"] = 0.1
        train(model, optimizer, scheduler=scheduler)
    assert_same(ours, reference, (released, ordinary))


@pytest.mark.parametrize("home", [fast, torch.optim])
@every
def test_state_dicts_both_ways(name, home):
    settings = SETTINGS[name] | {"lr": 0.01}
    model = model_of()
    released = step_in_backward(model, getattr(fast, name), **settings)
    train(model, released)
    other = model_of(seed=1)
    other.load_state_dict(model.state_dict())
    ordinary = getattr(home, name)(other.parameters(), **settings)
    ordinary.load_state_dict(copy.deepcopy(released.state_dict()))  # torch's share the tensors
    train(other, ordinary)
    train(model, released)
    if home is fast:
        assert_same(model, other, (released, ordinary))
    released.load_state_dict(copy.deepcopy(ordinary.state_dict()))
    model.load_state_dict(other.state_dict())
    train(model, released)
    train(other, ordinary)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_gradients_are_freed_before_the_next_come(monkeypatch):
    monkeypatch.setattr(backward_steps, "COLLECTED", 400 * 400)
    model = nn.Sequential(*(nn.Linear(400, 400) for _ in range(5)))
    released = step_in_backward(model, fast.SGD, lr=0.1)
    held = []
    for layer in model:
        layer.weight.register_post_accumulate_grad_hook(
            lambda p: held.append(sum(q.grad is not None for q in model.parameters()))
        )
    model(torch.ones(2, 400)).sum().backward()
    assert len(held) == 5
    assert max(held) <= 5  # biases, which are collected
    assert all(layer.weight.grad is None for layer in model)
    released.step()


def test_hooks_can_be_removed():
    ours, reference = model_of(), model_of()
    released = step_in_backward(ours, fast.RMSprop, momentum=0.9)
    ordinary = fast.RMSprop(reference.parameters(), momentum=0.9)
    train(ours, released)
    released.remove_hooks()
    released.remove_hooks()  # there are none
    train(ours, released)
    assert ours.twice.weight.grad is not None
    train(reference, ordinary, 8)
    assert_same(ours, reference, (released, ordinary))
    step_in_backward(ours, fast.SGD)


def test_what_changes_between_steps():
    model = model_of()
    released = step_in_backward(model.table, fast.SGD, lr=0.1)
    train(model, released, 1)
    previous = model.seldom.weight.clone()
    released.add_param_group({"params": model.seldom.parameters(), "lr": 1.0})
    model.zero_grad()
    train(model, released, 1)
    assert not torch.equal(previous, model.seldom.weight)
    assert model.seldom.weight.grad is None
    frozen = model.frozen.weight
    released.add_param_group({"params": [frozen]})
    frozen.requires_grad_()  # it has no hook yet
    previous = frozen.clone()
    train(model, released, 2)
    assert not torch.equal(previous, frozen)
    del released.param_groups[1]
    train(model, released, 1)
    assert model.seldom.weight.grad is not None
    released.state.clear()
    released.param_groups[0]["momentum"] = 0.9
    train(model, released, 2)
    assert "momentum_buffer" in released.state[model.table.weight]


def test_gradients_that_are_assigned_by_hand():
    w = nn.Parameter(torch.zeros(3))
    released = step_in_backward([w], fast.SGD, lr=1.0)
    w.grad = torch.ones(3)
    released.step()
    assert w.tolist() == [-1.0] * 3
    released.step()  # without any
    assert w.tolist() == [-1.0] * 3


def test_sparse_gradients():
    both = []
    for _ in range(2):
        torch.manual_seed(0)
        both.append(nn.Embedding(10, 3, sparse=True))
    released = step_in_backward(both[0], fast.SGD, lr=0.1)
    ordinary = torch.optim.SGD(both[1].parameters(), lr=0.1)
    for table, optimizer in zip(both, (released, ordinary), strict=True):
        table(torch.tensor([1, 1, 2])).sum().backward()
        optimizer.step()
    torch.testing.assert_close(both[0].weight, both[1].weight)


def test_copies_are_ordinary_optimizers():
    model = model_of()
    released = step_in_backward(model, fast.Adam)
    train(model, released)
    for other in (copy.deepcopy(released), pickle.loads(pickle.dumps(released))):
        (param, *_) = other.param_groups[0]["params"]
        (param * 1.0).sum().backward()
        assert param.grad is not None
        other.step()
        assert other.state[param]["step"] == 5.0
    copy.deepcopy(model)(TOKENS).backward()  # the copy's own


def test_nothing_is_kept_alive():
    model = model_of()
    released = step_in_backward(model, fast.Adam)
    train(model, released)
    seen = weakref.ref(released), weakref.ref(model.table.weight)
    del model, released
    gc.collect()
    assert [ref() for ref in seen] == [None, None]


@pytest.mark.parametrize("added", [{}, {"average_decay": 0.9}])
def test_an_optimizer_that_is_gone_steps_nothing(added):
    """At once, and not when the garbage collector comes: another one may have its parameters."""
    model = model_of()
    gc.disable()
    try:
        released = step_in_backward(model, fast.Adam, **added)
        train(model, released, 1)
        released = None
        model(TOKENS).backward()
        assert model.table.weight.grad is not None
        train(model, step_in_backward(model, fast.SGD), 1)
        assert model.table.weight.grad is None
    finally:
        gc.enable()


def test_accumulation_is_refused():
    model = model_of()
    released = step_in_backward(model, fast.SGD)
    model(TOKENS).backward()
    with pytest.raises(RuntimeError, match=r"before step\(\) ended the iteration.*accumulated"):
        model(TOKENS).backward()
    released.step()
    train(model, released, 1)


def test_two_passes_over_other_parameters_are_one_iteration():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    released = step_in_backward([*first.parameters(), *second.parameters()], fast.SGD)
    for _ in range(2):
        first(torch.ones(3)).sum().backward()
        second(torch.ones(3)).sum().backward()
        released.step()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant):
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    released = step_in_backward(layers, fast.SGD)
    previous = layers[1].weight.clone()
    loss = checkpoint(layers, torch.ones(4, requires_grad=True), use_reentrant=reentrant).sum()
    if reentrant:
        with pytest.raises(RuntimeError, match="pass use_reentrant=False"):
            loss.backward()
        assert torch.equal(previous, layers[1].weight)
    else:
        loss.backward()
        released.step()
        assert not torch.equal(previous, layers[1].weight)


def test_what_is_refused():
    model = model_of()
    with pytest.raises(ValueError, match="clip_norm must be None"):
        step_in_backward(model, fast.SGD, clip_norm=1.0)
    for kind in (torch.optim.SGD, "SGD", fast.SGD(model.parameters())):
        with pytest.raises(TypeError, match="optimizer_class must be"):
            step_in_backward(model, kind)
    released = step_in_backward(model, fast.SGD)
    with pytest.raises(ValueError, match="by another optimizer already"):
        step_in_backward(model.table, fast.SGD)
    other = step_in_backward(nn.Linear(2, 2), fast.SGD)
    with pytest.raises(ValueError, match="by another optimizer already"):
        other.add_param_group({"params": model.table.parameters()})
    assert len(other.param_groups) == 1
    with pytest.raises(RuntimeError, match="closure must be None"):
        released.step(lambda: model(TOKENS))
    released.clip_norm = 1.0
    with pytest.raises(ValueError, match="clip_norm must be None"):
        model(TOKENS).backward()
    released.clip_norm = None
    released.step()
    train(model, released, 1)


def test_an_error_in_the_middle_changes_nothing_and_can_be_mended():
    model = model_of()
    released = step_in_backward(model, fast.SGD, lr=0.1)
    train(model, released, 1)
    previous = [p.clone() for p in model.parameters()]
    released.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):  # noqa: PT012  # whichever steps the bucket
        model(TOKENS).backward()
        released.step()
    assert all(map(torch.equal, previous, model.parameters()))
    released.param_groups[0]["lr"] = 0.1
    released.step()
    assert not any(map(torch.equal, previous, [model.table.weight]))


def test_grad_scaler_is_refused():
    model = nn.Linear(3, 3)
    released = step_in_backward(model, fast.SGD)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(3)).sum()).backward()
    with pytest.raises(RuntimeError, match="GradScaler"):
        scaler.step(released)


DISTRIBUTED = """
import os, tempfile, torch
from torch.nn.parallel import DistributedDataParallel
from fastopt.interop.torch import SGD, step_in_backward
file = tempfile.NamedTemporaryFile()
torch.distributed.init_process_group("gloo", init_method=f"file://{file.name}", rank=0, world_size=1)
alone = torch.nn.Linear(3, 3)
kept = step_in_backward(alone, SGD)
alone(torch.ones(3)).sum().backward()
model = DistributedDataParallel(torch.nn.Linear(3, 3))
for given in (model, model.parameters()):
    try:
        kept = step_in_backward(given, SGD)
        model(torch.ones(3)).sum().backward()
    except RuntimeError as error:
        print(error)
"""


def test_averaging_over_processes_is_refused(tmp_path):
    assert run(DISTRIBUTED, tmp_path).count("DistributedDataParallel: a parameter may be stepped") == 2


MEMORY = r"""
import os, re, torch
import fastopt.interop.torch as fast
torch.set_num_threads(1)
model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(32)))
if os.environ["HOW"] == "released":
    optimizer = fast.step_in_backward(model, fast.SGD)
else:
    optimizer = fast.SGD(model.parameters())
for _ in range(2):
    optimizer.zero_grad()
    open("/proc/self/clear_refs", "w").write("5")  # what was compiled does not count
    model(torch.ones(1, 1024)).sum().backward()
    optimizer.step()
print(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux shows peaks of memory")
def test_peak_memory_is_less_by_the_gradients(tmp_path):
    # Without it, glibc may not use freed memory of this size again.
    how = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    ordinary, released = (
        int(run(MEMORY, tmp_path, HOW=kind, **how)) for kind in ("ordinary", "released")
    )
    assert ordinary - released > 0.8 * 32 * 1024 * 4  # KiB of 32 weights
