"""Ctrl-C in a step of torch's optimizers: torch's counts are those of what was stepped."""

import re
from pathlib import Path

import pytest

from tests import subprocesses
from tests.interop.torch_pairs import fast, torch
from tests.lines import Lines, interrupted_at
from tests.subprocesses import needs_jit, script
from tests.test_interruption import CACHE, INTERRUPTS, ROOT

TENSORS = """
    import torch
    from fastopt.interop import torch as fast

    def made():
        params = [torch.ones(n, requires_grad=True) for n in (1_000_000, 20_000, 16)]
        params.append(torch.ones(64, 64)[:, ::2].detach().requires_grad_())  # with gaps
        return params, getattr(fast, NAME)(params, **SETTINGS)

    def take(params, optimizer, number):
        for i, param in enumerate(params):
            param.grad = None if (number + i) % 3 == 0 else GRADS[i]
        optimizer.step()

    GRADS = [torch.linspace(-1, 1, p.numel()).reshape(p.shape) for p in made()[0]]

    def count(params, optimizer):
        # Each is left out of every third step: together they say how many steps there were.
        return max_steps(own_steps(params, optimizer))

    def own_steps(params, optimizer):
        return [int(optimizer.state[p]["step"]) if optimizer.state[p] else 0 for p in params]

    def max_steps(own):
        number = 0
        while expected(number) != own:
            number += 1
            assert number < 10_000, own
        return number

    def expected(number):
        return [sum((k + i) % 3 != 0 for k in range(number)) for i in range(4)]

    for _ in range(2):  # compiles
        params, optimizer = made()
        for number in range(3):
            take(params, optimizer, number)
    params, optimizer = made()
    step = lambda number: take(params, optimizer, number)
    taken = interrupt(step, lambda: count(params, optimizer), 40, 6)
    others, plain = made()
    for number in range(taken):
        take(others, plain, number)
    for own, other in zip(params, others, strict=True):
        assert torch.equal(own, other)
        for name, state in plain.state[other].items():
            assert torch.equal(optimizer.state[own][name], state), name
    print("same")
"""


@needs_jit
@pytest.mark.parametrize(
    ("name", "settings"), [("Adam", {}), ("NAdam", {}), ("RMSprop", {"momentum": 0.9})]
)
def test_ctrl_c(name, settings):
    constants = f"NAME, SETTINGS = {name!r}, {settings!r}"
    process = subprocesses.start(script(constants, INTERRUPTS, TENSORS), CACHE, cwd=ROOT)
    assert subprocesses.finish(process) == "same"


def test_interrupted_anywhere_the_parameters_come_back():
    """Also on the way back: the copies that were kept of them are the only ones."""
    params = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3)]
    optimizer = fast.SGD(params, lr=0.5, average_decay=0.5)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()

    def exchange():
        with optimizer.averaged():
            pass

    line = 1
    while interrupted_at(line, exchange):
        assert torch.is_grad_enabled(), line
        assert [p.tolist() for p in params] == [[0.5] * 2, [0.5] * 3]
        with optimizer.averaged():
            assert [p.tolist() for p in params] == [[0.75] * 2, [0.75] * 3]
        line += 1
    assert line > 20


@pytest.mark.parametrize("recorded", [False, True])
def test_interrupted_anywhere_gradients_are_recorded_as_before(recorded):
    """The closure's are, the step's are not."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = fast.SGD([param], lr=0.5)

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = param.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    line, switches = 1, 0
    with torch.set_grad_enabled(recorded):
        while True:
            lines = Lines(line, KeyboardInterrupt())
            try:
                with lines:
                    optimizer.step(closure)
                break
            except KeyboardInterrupt:
                if lines.text == "torch._C._set_grad_enabled(recorded_before)":
                    # No interrupt comes before this call, but this error does.
                    switches += 1
                    torch.set_grad_enabled(recorded)
            assert torch.is_grad_enabled() == recorded, lines.place
            line += 1
    assert line > 20
    assert switches


def test_no_context_of_torch_switches_gradients():
    """Such a context switches back in Python, where an interrupt can come first."""
    contexts = re.compile(r"torch\.(no_grad|enable_grad|set_grad_enabled|inference_mode)\(")
    files = sorted(Path(fast.__file__).parent.glob("*.py"))
    assert len(files) > 20
    for file in files:
        assert not contexts.search(file.read_text("utf-8")), file


@pytest.mark.parametrize("in_backward", [False, True])
def test_interrupted_right_after_gradients_are_switched_off(in_backward, monkeypatch):
    """There an interrupt comes first, as the call that switches them off returns to Python."""
    param = torch.nn.Parameter(torch.ones(3))
    if in_backward:
        optimizer = fast.step_in_backward([param], fast.SGD, lr=0.5)
    else:
        optimizer = fast.SGD([param], lr=0.5)

    def take():
        param.sum().backward()
        optimizer.step()

    take()
    switch = torch._C._set_grad_enabled

    def interrupted(is_enabled):
        switch(is_enabled)
        if not is_enabled:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch._C, "_set_grad_enabled", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take()
    assert torch.is_grad_enabled()


@needs_jit
def test_after_a_refused_step_the_next_takes_its_own_gradients():
    """Those of the refused one were checked, and their memory may have been freed since."""
    param = torch.nn.Parameter(torch.zeros(200, 3))
    optimizer = fast.SGD([param], lr=1.0)
    refused = param.grad = torch.ones(200, 3)  # held, for the test to read what it knows
    optimizer.step()
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr of a param group"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 1.0
    param.grad = torch.full((3, 200), 10.0).T  # becomes an array, unlike what is noted in compiled code
    optimizer.step()
    assert param.unique().tolist() == [-11.0]
    assert refused.unique().tolist() == [1.0]


def test_interrupted_anywhere_what_torch_has_ahead_is_that_of_its_count():
    """Also where compiled code has left a gradient to Python, and had taken no step."""

    def made():
        param = torch.nn.Parameter(torch.ones(4, 3))
        optimizer = fast.ASGD([param], lr=0.5, lambd=0.25, t0=0)
        param.grad = torch.ones(3, 4).T
        optimizer.step()
        return optimizer, optimizer.state[param]

    def numbers(state):
        return [float(state[name]) for name in ("step", "eta", "mu")]

    (optimizer, state), (other, expected) = made(), made()
    line = 1
    while interrupted_at(line, optimizer.step):
        # One line switches gradients on again: no interrupt comes before its call, but this error does.
        torch.set_grad_enabled(True)
        if state["step"] != expected["step"]:
            other.step()
        assert numbers(state) == numbers(expected), line
        line += 1
    assert line > 40


@pytest.mark.parametrize("name", ["lr", "lambd", "alpha", "t0"])
def test_a_setting_of_which_a_rate_is_computed_ahead_is_checked_first(name):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = fast.ASGD([param], lr=0.5)
    for value in (-1e9, float("nan")):
        optimizer.step()
        known, count = param.tolist(), optimizer.state[param]["step"].item()
        optimizer.param_groups[0][name], usual = value, optimizer.param_groups[0][name]
        with pytest.raises(ValueError, match=f"{name} of a param group must be a number >= 0"):
            optimizer.step()
        assert (param.tolist(), optimizer.state[param]["step"].item()) == (known, count)
        optimizer.param_groups[0][name] = usual
