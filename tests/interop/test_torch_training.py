"""Scripts in which the import was changed, and nothing else."""

import math
import textwrap
import warnings

import numpy as np
import pytest

from tests.interop.torch_pairs import Pair, every, fast, torch
from tests.subprocesses import needs_jit, run
from tests.test_readme import ROOT, blocks

from torch.optim.optimizer import register_optimizer_step_post_hook  # isort: skip


def script(optim, name, scheduler, steps=200):
    """What a user has: a network, an optimizer, a scheduler, a loop. The losses."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Tanh(), torch.nn.Flatten(),
        torch.nn.Linear(4 * 6 * 6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3),
    )  # fmt: skip
    images = torch.randn(64, 1, 8, 8)
    labels = images.mean((1, 2, 3)).argsort().argsort() % 3
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    # A larger epsilon, since the sign of a gradient that is nothing but rounding is chance.
    more = {"SGD": {"momentum": 0.9}, "Rprop": {}, "ASGD": {}}.get(name, {"eps": 1e-4})
    if name == "RMSprop":
        more["momentum"] = 0.5
    optimizer = getattr(optim, name)(
        [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
        lr=3e-3,
        **more,
    )
    schedule = scheduler(optimizer)
    losses = []
    for step in range(steps):
        batch = slice(16 * (step % 4), 16 * (step % 4) + 16)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


SCHEDULERS = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 200),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 1e-3, total_steps=210, cycle_momentum=bool({"betas", "momentum"} & o.defaults.keys())
    ),
}


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@every
def test_the_same_losses_over_200_steps(name, scheduler):
    expected = script(torch.optim, name, SCHEDULERS[scheduler])
    ours = script(fast, name, SCHEDULERS[scheduler])
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@every
def test_is_a_torch_optimizer(name):
    w = torch.nn.Parameter(torch.ones(2))
    optimizer, reference = getattr(fast, name)([w]), getattr(torch.optim, name)([w])
    assert isinstance(optimizer, type(reference))
    assert optimizer.defaults == reference.defaults
    assert repr(optimizer) == repr(reference)


def test_closures():
    w = torch.nn.Parameter(torch.tensor([5.0]))
    optimizer = fast.SGD([w], lr=0.1)

    def closure():
        optimizer.zero_grad()
        assert torch.is_grad_enabled()
        loss = (w**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 25.0
    assert w.item() == pytest.approx(4.0)
    assert optimizer.step() is None


def test_hooks():
    w = torch.nn.Parameter(torch.tensor([5.0]))
    w.grad = torch.ones(1)
    optimizer = fast.Adam([w], lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda o, a, k: calls.append(("before", w.item())))
    optimizer.register_step_post_hook(lambda o, a, k: calls.append(("after", w.item())))
    handle = register_optimizer_step_post_hook(lambda o, a, k: calls.append("all"))
    try:
        optimizer.step()
    finally:
        handle.remove()
    assert calls == [("before", 5.0), ("after", pytest.approx(4.9)), "all"]
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1})
    assert optimizer.state_dict()["more"] == 1
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls[-1] == "loaded"


def test_hooks_of_a_class_with_a_step_of_its_own_run_once():
    class Own(fast.Adam):
        def step(self, closure=None):
            return super().step(closure)

    w = torch.nn.Parameter(torch.tensor([5.0]))
    w.grad = torch.ones(1)
    optimizer, calls = Own([w], lr=0.1), []
    optimizer.register_step_pre_hook(lambda o, a, k: calls.append(w.item()))
    optimizer.register_step_post_hook(lambda o, a, k: calls.append(w.item()))
    optimizer.step()
    assert calls == [5.0, pytest.approx(4.9)]


def test_rprop_starts_from_the_rate_of_the_first_gradient():
    losses = []
    for home in (torch.optim, fast):
        first, second = (torch.nn.Parameter(torch.full((3,), 5.0)) for _ in range(2))
        optimizer = home.Rprop([first, second], lr=0.1)
        for i, rate in enumerate((0.2, 0.4, 0.8)):
            optimizer.param_groups[0]["lr"] = rate
            first.grad = torch.ones(3)
            second.grad = torch.ones(3) if i else None
            optimizer.step()
        losses.append([*first.tolist(), *second.tolist()])
        assert optimizer.state[second]["step_size"].tolist() == pytest.approx([0.48] * 3)
    assert losses[0] == pytest.approx(losses[1])


def test_hooks_that_run_the_step_in_the_backward_pass():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    optimizers = {p: fast.SGD([p], lr=0.1) for p in model.parameters()}

    def hook(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    previous = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(2, 4)).sum().backward()
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), previous, strict=True))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = fast.SGD([w], lr=0.1)
    w.grad = torch.ones(3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    assert w.grad is None if set_to_none else torch.equal(w.grad, torch.zeros(3))
    optimizer.step()
    assert torch.allclose(w, torch.full((3,), 0.9))


def test_plateau_and_sequential_schedulers():
    pair = Pair("Adam", {"lr": 0.1})
    schedulers = torch.optim.lr_scheduler
    plateaus = [schedulers.ReduceLROnPlateau(o, patience=1, factor=0.5) for o in pair.both]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warmups = [
            schedulers.SequentialLR(o, [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.5)], [3])
            for o in pair.both
        ]
    for _ in range(6):
        pair.step()
        for warmup, plateau in zip(warmups, plateaus, strict=True):
            warmup.step()
            plateau.step(1.0)
        pair.assert_same()
    rates = [o.param_groups[0]["lr"] for o in pair.both]
    assert rates[0] == rates[1] < 0.02


def test_learning_rates_in_tensors():
    pair = Pair("RMSprop", {"lr": torch.tensor(0.1), "weight_decay": 0.1})
    for _ in range(3):
        pair.step()
        pair.assert_same()
        for optimizer in pair.both:
            optimizer.param_groups[0]["lr"].mul_(0.5)


@pytest.mark.parametrize("unscale", [False, True])
@every
def test_grad_scaler(name, unscale):
    pair = Pair(name, {"lr": 0.1}, shapes=((9,), (4, 2)))
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2) for _ in pair.both]
    data = torch.rand(9, generator=pair.random) + 1
    for step in range(8):
        results = []
        for scaler, optimizer, (p, q) in zip(scalers, pair.both, pair.params.values(), strict=True):
            optimizer.zero_grad()
            loss = (p * data).sum() + 0.5 * (q**2).sum() + 3 * q.sum()
            if step == 4:
                loss = loss * math.inf
            scaler.scale(loss).backward()
            if unscale:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_([p, q], 5.0)
            results.append(scaler.step(optimizer))
            scaler.update()
        assert results == [None, None]
        assert scalers[0].get_scale() == scalers[1].get_scale()
        pair.assert_same()
    assert not hasattr(pair.fast, "grad_scale")
    if name != "SGD":
        assert pair.fast.state[pair.params["fastopt"][0]]["step"] == 7


@every
def test_clip_norm_is_clip_grad_norm(name):
    pair = Pair(name, {"lr": 0.1})
    pair.fast = getattr(fast, name)(pair.params["fastopt"], lr=0.1, clip_norm=1.0)
    original = pair.torch.step
    norms = []

    def clipped_step():
        norms.append(torch.nn.utils.clip_grad_norm_(pair.params["torch"], pair.fast.clip_norm).item())
        original()

    pair.torch.step = clipped_step
    for limit in (1.0, 0.5, 100.0, 2.0):
        pair.fast.clip_norm = limit
        pair.step(without=(1,) if limit == 0.5 else ())
        assert pair.fast.last.norm == pytest.approx(norms[-1], rel=1e-6)
        # torch divides by the norm + 1e-6.
        pair.assert_same(rtol=1e-5, atol=1e-6)


@every
def test_average_of_the_weights(name):
    w = torch.nn.Parameter(torch.full((2, 3), 5.0))
    optimizer = getattr(fast, name)([w], lr=0.1, average_decay=0.9)
    expected = w.detach().clone()
    for step in range(4):
        w.grad = torch.ones(2, 3)
        optimizer.average_decay = 0.9 if step < 2 else 0.5
        optimizer.step()
        expected = optimizer.average_decay * expected + (1 - optimizer.average_decay) * w.detach()
        torch.testing.assert_close(optimizer.state[w]["average"], expected)
    # torch's optimizer takes such a checkpoint, and has no use for the average.
    getattr(torch.optim, name)([w]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be a number > 0, got 0.0"),
        ({"clip_norm": "1"}, TypeError, "clip_norm must be a number > 0, not '1' of type str"),
        ({"average_decay": 1.0}, ValueError, r"average_decay must be a number in \[0, 1\), got 1.0"),
        ({"alpha": 1.5}, ValueError, r"alpha .*must be a number in \[0, 1\), got 1.5"),
        ({"momentum": 1.5}, ValueError, r"momentum .*must be a number in \[0, 1\], got 1.5"),
        ({"differentiable": True}, RuntimeError, "differentiable=True is not supported"),
    ],
)
def test_settings_that_are_refused(settings, error, words):
    w = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(error, match=words) as caught:
        fast.RMSprop([w], **settings)
    assert caught.type is error


def test_a_group_that_is_refused_is_not_added():
    w, v = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = fast.RMSprop([w])
    with pytest.raises(ValueError, match="momentum"):
        optimizer.add_param_group({"params": [v], "momentum": 1.5})
    assert len(optimizer.param_groups) == 1


def test_a_bad_number_in_a_group_changes_nothing():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer = fast.RMSprop([w], lr=0.1)
    w.grad = torch.ones(2)
    optimizer.step()
    previous, held = w.detach().clone(), {k: v.clone() for k, v in optimizer.state[w].items()}
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"lr .*must be a number >= 0, got -1\.0"):
        optimizer.step()
    assert torch.equal(w, previous)
    assert all(torch.equal(value, optimizer.state[w][key]) for key, value in held.items())


@needs_jit
def test_nothing_is_compiled_when_numbers_change(tmp_path):
    code = """
    import torch, fastopt.interop.torch as fast
    w = [torch.nn.Parameter(torch.ones(5)) for _ in range(3)]
    optimizer = fast.RMSprop(w[:2], lr=0.1, weight_decay=0.1, momentum=0.5)
    def step():
        for p in w: p.grad = torch.ones(5)
        optimizer.step()
    step()
    from numba.core import event
    passes = event.RecordingListener()
    event.register("numba:run_pass", passes)
    for name, value in (("lr", 0.01), ("weight_decay", 0.2), ("momentum", 0.9), ("alpha", 0.5)):
        optimizer.param_groups[0][name] = value
        step()
    optimizer.add_param_group({"params": [w[2]], "lr": 0.5})
    step()
    optimizer.load_state_dict(optimizer.state_dict())
    step()
    print(len(passes.buffer))
    """
    assert run(textwrap.dedent(code), tmp_path) == "0"


def test_torch_is_imported_only_when_asked_for(tmp_path):
    code = """
    import sys, numpy as np, fastopt, fastopt.interop
    opt = fastopt.Adam(np.ones(3))
    opt.step(np.ones(3))
    print([name for name in sys.modules if name.split(".")[0] == "torch"])
    """
    assert run(textwrap.dedent(code), tmp_path) == "[]"


def test_stochastic_rounding_loses_no_small_updates():
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    ends = {}
    for chance in (False, True):
        w = torch.nn.Parameter(torch.full((4096,), 1.0, dtype=torch.bfloat16))
        optimizer = fast.SGD([w], lr=1e-3, stochastic_rounding=chance)
        for _ in range(100):
            w.grad = torch.ones_like(w)
            optimizer.step()
        ends[chance] = w.detach().float().mean().item()
    assert ends[False] == 1.0
    assert ends[True] == pytest.approx(0.9, abs=0.005)


def test_code_of_the_page_runs():
    scope = {"__name__": "reader"}
    examples = blocks(ROOT / "docs" / "torch.md")
    assert len(examples) == 8
    for block in examples:
        exec(compile(block, "docs/torch.md", "exec"), scope)


def test_example_runs(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code = (ROOT / "examples" / "torch_network.py").read_text("utf-8")
    assert run(code, tmp_path, MPLBACKEND="agg") == ""
