"""torch's optimizers, where torch is installed: eager, with ``foreach``, compiled, fused.

They work in the arrays of the problem, whose memory torch shares.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.peers import Peer, Step
from bench.problems import ADAGRAD, ADAM, OUTSIDE, Form, Problem

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


# Those whose defaults are the same.
SAME = {name.lower(): name for name in ("AdamW", "Adamax", "Adadelta", "RAdam", "Rprop")}


def _make(form: Form, params: list[Any], **how: Any) -> Any:
    s = form.settings
    if form is OUTSIDE:
        return torch.optim.RMSprop(params, lr=s["lr"], alpha=s["beta"], eps=s["eps"], **how)
    if form is ADAM:
        betas = s["beta1"], s["beta2"]
        return torch.optim.Adam(params, lr=s["lr"], betas=betas, eps=s["eps"], **how)
    if form is ADAGRAD:
        return torch.optim.Adagrad(params, lr=s["lr"], eps=s["eps"], **how)
    return getattr(torch.optim, SAME[form.name])(params, **how)


def step_of(problems: Sequence[Problem], threads: int, **how: Any) -> partial[Any] | None:
    """One step of one optimizer over the arrays of all `problems`."""
    form = problems[0].form
    if torch is None or (form not in (OUTSIDE, ADAM, ADAGRAD) and form.name not in SAME):
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
    has = problem.form in (ADAM, ADAGRAD) or problem.form.name == "adamw"
    return step_of([problem], threads, fused=True) if has else None


def _eager(problem: Problem, threads: int) -> Step | None:
    return step_of([problem], threads, foreach=False)


def _compiled(problem: Problem, threads: int) -> Step | None:
    """The step through ``torch.compile``, which needs a C++ compiler; None where it does not work."""
    step = step_of([problem], threads)
    if step is None:
        return None
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    originals = {name: array.copy() for name, array in problem.arrays.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch about its own future
            compiled = torch.compile(step)
            compiled()
    except torch._dynamo.exc.TorchDynamoException as error:
        print(f"torch.compile does not work here: {error}", file=sys.stderr)
        return None
    for name, array in originals.items():  # the first call is a step
        problem.arrays[name][...] = array
    for state in step.func.__self__.state.values():
        state["step"].zero_()
    return compiled


PEERS: dict[str, Peer] = {
    "torch": _foreach,
    "torch_eager": _eager,
    "torch_compiled": _compiled,
    "torch_fused": _fused,
}
