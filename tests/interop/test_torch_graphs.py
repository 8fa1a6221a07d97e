"""`capturable=True`: steps in CUDA graphs, beside the same steps of optimizers on the CPU."""

import copy
import pickle
from pathlib import Path

import pytest

from tests.device import EMULATED, needs_driver, needs_emulator
from tests.interop.cuda_tensors import (
    as_on_cuda,
    capture,
    current_stream,
    moves_to_cuda,
    to_cpu,
    to_cuda,
)
from tests.interop.torch_pairs import TOLERANCE, Pair, fast, planner_of, torch
from tests.test_readme import blocks

pytestmark = [
    needs_driver,
    pytest.mark.skipif(
        not (EMULATED or torch.cuda.is_available()),
        reason="torch is without CUDA, and there is no emulated GPU",
    ),
    pytest.mark.filterwarnings("ignore:This instance was constructed with capturable"),
]
NAMES = (
    "RMSprop",
    "Adam",
    "AdamW",
    "NAdam",
    "Adadelta",
    "Adamax",
    "RAdam",
    "Rprop",
    "ASGD",
)  # whose classes have it in torch
COUNTS = "step", "mu_product", "eta", "mu"
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _usual(monkeypatch):
    with current_stream(monkeypatch):
        yield


class GraphPair(Pair):
    """An optimizer on the CPU, torch's or fastopt's, and fastopt's for graphs."""

    def __init__(self, name, kwargs=None, home=torch.optim, lr=None, **more):
        self.home, self.lr = home, lr
        super().__init__(name, kwargs, **more)

    def make(self, which, name):
        params, kwargs = self.params[which], copy.deepcopy(self.kwargs)
        if which == "torch":
            return getattr(self.home, name)(params, **kwargs)
        self.params[which] = params = [torch.nn.Parameter(to_cuda(p.detach())) for p in params]
        kwargs |= {} if self.lr is None else {"lr": self.lr}
        return getattr(fast, name)(params, capturable=True, **kwargs)

    def place(self, i, tensor):
        return to_cuda(tensor)

    def capture(self, monkeypatch):
        """A graph of a step with new gradients, whose content is for later."""
        for p, q in zip(*self.params.values(), strict=True):
            if q.grad is not None:
                q.grad = to_cuda(torch.full_like(p, 7.0))
        states = [v for state in self.fast.state.values() for v in state.values()]
        return capture(monkeypatch, self.fast.step, [*self.params["fastopt"], *states])

    def replay(self, graph):
        """A step of the CPU's, and the same by a graph."""
        for p, q in zip(*self.params.values(), strict=True):
            if q.grad is None:
                p.grad = None
                continue
            p.grad = (1 + 2 * torch.rand(p.shape, generator=self.random)).to(p.dtype)
            with torch.no_grad():
                q.grad.copy_(to_cuda(p.grad))
        self.torch.step()
        graph()

    def assert_same(self, **tolerance):
        tolerance = (
            tolerance or TOLERANCE[torch.float64 if self.dtype == torch.float64 else torch.float32]
        )
        for p, q in zip(*self.params.values(), strict=True):
            torch.testing.assert_close(to_cpu(q), p.detach(), **tolerance)
            reference, ours = self.torch.state.get(p, {}), self.fast.state.get(q, {})
            assert ours.keys() == reference.keys()
            for name, value in reference.items():
                assert ours[name].device == q.device
                assert ours[name].dtype == value.dtype
                torch.testing.assert_close(to_cpu(ours[name]), value, **tolerance)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, (torch.float32, torch.float64)[i % 2]) for i, name in enumerate(NAMES)],
    ids=str,
)
def test_replays_are_torchs_steps(name, dtype, monkeypatch):
    """Captured with some gradients, after steps with others: each parameter has its own count."""
    momentum = {"momentum": 0.9, "centered": True} if name == "RMSprop" else {}
    pair = GraphPair(name, {"lr": 0.1, "weight_decay": 0.05, **momentum}, dtype=dtype)
    for without in ((), (0, 2), (4,)):
        pair.step(without)
        pair.assert_same()
    graph = pair.capture(monkeypatch)
    pair.assert_same()  # nothing was done yet
    for _ in range(3):
        pair.replay(graph)
        pair.assert_same()
    pair.step()
    pair.assert_same()
    pair.step((1,))
    pair.assert_same()


@every
def test_two_graphs_in_turn(name, monkeypatch):
    """Each has its own gradients, and both the same counts."""
    pair = GraphPair(name, {"lr": 0.1}, shapes=((7,), (3, 2)))
    pair.step()
    graphs = []
    for _ in range(2):
        replay = pair.capture(monkeypatch)
        graphs.append((replay, [q.grad for q in pair.params["fastopt"]]))
    for which in (0, 1, 1, 0):
        replay, grads = graphs[which]
        for q, grad in zip(pair.params["fastopt"], grads, strict=True):
            q.grad = grad
        pair.replay(replay)
        pair.assert_same()
    kept = list(planner_of(pair.fast).captured)
    assert kept
    pair.fast.load_state_dict(pair.fast.state_dict())
    assert planner_of(pair.fast).captured == kept  # graphs may still be replayed


@every
def test_the_bits_of_steps_outside_of_graphs(name, monkeypatch):
    """The host's numbers and the device's: powers may be rounded another way in float64 alone."""
    extra = {"average_decay": 0.9, "state_dtype": "8bit", "clip_norm": 1.0}
    pair = GraphPair(name, {"lr": 0.1, **extra}, home=fast, shapes=((65, 64), (7,), ()))
    for _ in range(2):
        pair.step()
        pair.assert_same(rtol=0, atol=0)
        assert pair.fast.last == pair.torch.last
    graph = pair.capture(monkeypatch)
    for _ in range(3):
        pair.replay(graph)
        pair.assert_same(rtol=0, atol=0)
        assert pair.fast.last == pair.torch.last


@every
def test_a_group_without_gradients(name, monkeypatch):
    """Nothing of it is computed or counted, in a step or in a graph."""
    random, both = torch.Generator().manual_seed(3), []
    start, grads = torch.randn(2, 7, generator=random), torch.randn(6, 7, generator=random)
    for place in (torch.clone, to_cuda):
        params = [torch.nn.Parameter(place(row)) for row in start]
        groups = [{"params": [param], "lr": 0.1 / (1 + i)} for i, param in enumerate(params)]
        optimizer = getattr(fast, name)(groups, capturable=place is to_cuda)
        for step, grad in enumerate(grads):
            params[0].grad = place(grad)
            params[1].grad = None if step in (1, 4) else place(grad)
            optimizer.step()
        params[1].grad, wanted = None, place(grads[0])
        params[0].grad = wanted
        states = [v for state in optimizer.state.values() for v in state.values()]
        if place is to_cuda:
            step = capture(monkeypatch, optimizer.step, [*params, *states])
        else:
            step = optimizer.step
        step()
        both.append([*params, *(optimizer.state[p]["step"] for p in params)])
    for here, on_device in zip(*both, strict=True):
        torch.testing.assert_close(to_cpu(on_device), here.detach())


@needs_emulator
@pytest.mark.parametrize(
    ("options", "launches"), [({}, 1), ({"clip_norm": 1.0}, 3)], ids=["", "clipped"]
)
def test_one_launch_for_all_parameters(options, launches, monkeypatch):
    """Each of them with a count of its own; two more launches decide about the norm."""
    import gpu_emulator

    shapes = [(7,), (65, 64), (), (3, 2), (300,), (1024,)]
    pair = GraphPair("Adam", {"lr": 0.1, **options}, home=fast, shapes=shapes)
    for without in ((1,), (2, 3), ()):
        pair.step(without)
    graph = pair.capture(monkeypatch)
    for _ in range(2):
        count = len(gpu_emulator.launches)
        pair.replay(graph)
        assert len(gpu_emulator.launches) - count == launches
        pair.assert_same(rtol=0, atol=0)


def test_random_bits_differ_from_replay_to_replay(monkeypatch):
    pair = GraphPair("Adam", {"stochastic_rounding": True}, home=fast, dtype=torch.bfloat16)
    pair.step()
    graph = pair.capture(monkeypatch)
    for _ in range(4):
        pair.replay(graph)
        pair.assert_same(rtol=0, atol=0)


@every
def test_rates_that_are_tensors_on_the_device(name, monkeypatch):
    """As torch has it: a replay reads them, and a float is what it was in the capture."""
    pair = GraphPair(name, {"lr": 0.1, "weight_decay": 0.1}, lr=to_cuda(torch.tensor(0.1)))
    pair.step()
    graph = pair.capture(monkeypatch)
    for lr in (0.05, 0.2):
        pair.torch.param_groups[0]["lr"] = lr
        pair.fast.param_groups[0]["lr"].fill_(lr)
        pair.fast.param_groups[0]["weight_decay"] = lr  # of no account
        pair.replay(graph)
        pair.assert_same()


@pytest.mark.parametrize("when", ["in the checkpoint", "later"])
@every
def test_checkpoints(name, when, monkeypatch):
    """Counts come to the device, and leave it with an optimizer that is not for graphs."""
    pair = GraphPair(name, {"lr": 0.1})
    for _ in range(2):
        pair.step()
    saved = copy.deepcopy(pair.torch.state_dict())
    saved["param_groups"][0]["capturable"] = when == "in the checkpoint"
    with moves_to_cuda(monkeypatch):
        pair.fast.load_state_dict(saved)
    pair.fast.param_groups[0]["capturable"] = True
    pair.step()
    pair.assert_same()
    graph = pair.capture(monkeypatch)
    pair.replay(graph)
    pair.assert_same()

    ours = pair.fast.state_dict()
    assert all(state[key].is_cuda for state in ours["state"].values() for key in COUNTS if key in state)
    usual = getattr(fast, name)(pair.params["fastopt"])
    usual.load_state_dict(ours)
    usual.param_groups[0]["capturable"] = False
    usual.step()
    pair.torch.step()
    for p, q in zip(*pair.params.values(), strict=True):
        torch.testing.assert_close(to_cpu(q), p.detach(), **TOLERANCE[torch.float32])
        for key in COUNTS:
            if key in pair.torch.state[p]:
                assert usual.state[q][key].device.type == "cpu"
                torch.testing.assert_close(usual.state[q][key], pair.torch.state[p][key])


@every
def test_copies(name, monkeypatch):
    """A copy has no graphs, and takes the same steps."""
    pair = GraphPair(name, {"lr": 0.1})
    pair.step()
    pair.capture(monkeypatch)
    for twin in (copy.deepcopy(pair.fast), pickle.loads(pickle.dumps(pair.fast))):
        other = GraphPair(name, {"lr": 0.1})
        other.step()
        other.fast, other.params["fastopt"] = twin, twin.param_groups[0]["params"]
        other.step()
        other.assert_same()
        other.replay(other.capture(monkeypatch))
        other.assert_same()


def test_groups_for_graphs_and_others():
    pair = GraphPair("Adam", {"lr": 0.1})
    p, q = (torch.nn.Parameter(tensor) for tensor in (torch.ones(9), to_cuda(torch.ones(9))))
    for param, which, optimizer in zip((p, q), pair.params, pair.both, strict=True):
        pair.params[which].append(param)
        optimizer.add_param_group({"params": [param], "lr": 0.3, "capturable": False})
    for without in ((), (1,), (5,), ()):
        pair.step(without)
        for p, q in zip(*pair.params.values(), strict=True):
            torch.testing.assert_close(to_cpu(q), p.detach(), **TOLERANCE[torch.float32])
    assert not pair.fast.state[q]["step"].is_cuda
    pair.fast.clip_norm = 1.0
    with pytest.raises(
        ValueError, match="clip_norm must be None where some param_groups are capturable"
    ):
        pair.step()


def test_what_cannot_be_captured(monkeypatch):
    w = torch.nn.Parameter(to_cuda(torch.ones(5)))
    w.grad = to_cuda(torch.ones(5))

    def refused(optimizer, match, **settings):
        previous = to_cpu(w).clone()
        for name, value in settings.items():
            setattr(optimizer, name, value)
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            with pytest.raises(RuntimeError, match=match):
                optimizer.step()
        assert torch.equal(to_cpu(w), previous)

    def stepped(**settings):
        optimizer = fast.Adam([w], **{"capturable": True, **settings})
        optimizer.step()
        return optimizer

    refused(fast.SGD([w]), "SGD cannot be captured in a CUDA graph without capturable=True")
    refused(stepped(capturable=False), "Adam cannot be captured in a CUDA graph without capturable")
    refused(fast.Adam([w], capturable=True), "only after one with the same parameters")
    refused(stepped(), "a step with a GradScaler cannot", found_inf=to_cuda(torch.zeros(1)))
    refused(stepped(clip_norm=1.0), r"clip_norm was changed to 0\.5", clip_norm=0.5)


def test_code_of_the_page_runs(monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "torch.md"
    (code,) = (code for code in blocks(page, "py") if "CUDAGraph" in code)
    scope = {"torch": torch, "AdamW": fast.AdamW}
    with as_on_cuda(monkeypatch):
        exec(compile(code, str(page), "exec"), scope)
        assert int(to_cpu(next(iter(scope["optimizer"].state.values()))["step"])) == 4
