"""torch's optimizers, where torch is installed: eager with ``foreach``, and fused where torch has that.

They work in the arrays of the problem, whose memory torch shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.peers import Peer, Step
from bench.problems import ADAGRAD, ADAM, OUTSIDE, Form, Problem

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


def _make(form: Form, params: list[Any], **how: Any) -> Any:
    s = form.settings
    if form is OUTSIDE:
        return torch.optim.RMSprop(params, lr=s["lr"], alpha=s["beta"], eps=s["eps"], **how)
    if form is ADAM:
        betas = s["beta1"], s["beta2"]
        return torch.optim.Adam(params, lr=s["lr"], betas=betas, eps=s["eps"], **how)
    return torch.optim.Adagrad(params, lr=s["lr"], eps=s["eps"], **how)


def step_of(problems: Sequence[Problem], threads: int, **how: Any) -> Step | None:
    """One step of one optimizer over the arrays of all `problems`."""
    form = problems[0].form
    if torch is None or form not in (OUTSIDE, ADAM, ADAGRAD):
        return None
    torch.set_num_threads(threads)
    params = []
    for problem in problems:
        param = torch.from_numpy(problem.arrays["param"]).requires_grad_()
        param.grad = torch.from_numpy(problem.grad)
        params.append(param)
    optimizer = _make(form, params, **how)
    for param, problem in zip(params, problems, strict=True):
        state = {n: torch.from_numpy(a) for n, a in problem.arrays.items() if n != "param"}
        optimizer.state[param] = {"step": torch.zeros(()), **state}
    return partial(optimizer.step)


def _foreach(problem: Problem, threads: int) -> Step | None:
    return step_of([problem], threads, foreach=True)


def _fused(problem: Problem, threads: int) -> Step | None:
    return step_of([problem], threads, fused=True) if problem.form is not OUTSIDE else None


PEERS: dict[str, Peer] = {"torch": _foreach, "torch_fused": _fused}
