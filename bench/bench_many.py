"""Many arrays in one step: what is lost against one flat buffer with as many elements?"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastopt
from bench import peers_torch, problems
from bench.measure import PAUSE, Sampler, timed
from bench.problems import OUTSIDE, Array, Problem
from bench.roofline import NAME, roofline

FLOAT = np.dtype(np.float32)


def _log_uniform() -> list[int]:
    sizes = np.exp(np.random.default_rng(0).uniform(np.log(64), np.log(4096), 1000))
    return [int(size) for size in sizes]


MODELS = {"1000 small": _log_uniform(), "one large, 1000 tiny": [10**7] + [10] * 1000}


def _pieces(problem: Problem, sizes: list[int]) -> list[Problem]:
    """Arrays of their own, with the content of the flat problem.

    They lie where a new process would put them, one behind the other and 16 bytes apart. In the holes
    that another case left they would be all over the memory, and a step takes some 5 % longer there.
    """
    stops = list(np.cumsum(sizes)[:-1])
    names = list(problem.arrays)
    columns = [np.split(array, stops) for array in (problem.grad, *problem.arrays.values())]
    apart = 16 // FLOAT.itemsize
    room = np.zeros(len(columns) * sum(-(-size // apart) * apart + apart for size in sizes), FLOAT)

    def placed(array: Array) -> Array:
        nonlocal room
        copy, room = room[: array.size], room[-(-array.size // apart) * apart + apart :]
        copy[:] = array
        return copy

    return [
        Problem(problem.form, placed(grad), {n: placed(a) for n, a in zip(names, arrays, strict=True)})
        for grad, *arrays in zip(*columns, strict=True)
    ]


def _optimizer(pieces: list[Problem], executor: str) -> Any:
    state = {"square_avg": [piece.arrays["square_avg"] for piece in pieces]}
    params = [piece.arrays["param"] for piece in pieces]
    return OUTSIDE.optimizer(params, state=state, executor=executor)


def _with_fresh(step: Callable[[Any], object], make: Callable[[], Any]) -> Sampler:
    """A sampler of a step whose gradients are made anew each time, by an untimed `make`."""

    def sample() -> float:
        time.sleep(PAUSE)
        seconds = []
        for _ in range(9):
            gradients = make()  # while those of the step before are still there
            start = time.perf_counter()
            step(gradients)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))

    return sample


def _check(flat: Problem, pieces: list[Problem], foreign: list[Problem]) -> None:
    """Many arrays give the bits of the flat buffer; torch's numbers are equal but for rounding."""
    for name, expected in flat.arrays.items():
        joined = np.concatenate([piece.arrays[name] for piece in pieces])
        np.testing.assert_array_equal(joined, expected, err_msg=name)
        other = np.concatenate([piece.arrays[name] for piece in foreign])
        tolerance = 16 * float(np.finfo(FLOAT).eps)
        np.testing.assert_allclose(other, expected, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("threads", ["serial", "all"])
@pytest.mark.parametrize(
    "model", ["1000 small", pytest.param("one large, 1000 tiny", marks=pytest.mark.full)]
)
def bench_many(model: str, threads: str, compare: Any, benchmark: Any) -> None:
    sizes = MODELS[model]
    count = 1 if threads == "serial" else fastopt.get_num_threads()
    executor = "serial" if count == 1 else "auto"
    flat = problems.make(OUTSIDE, sum(sizes), FLOAT)
    pieces, foreign = _pieces(flat, sizes), _pieces(flat, sizes)
    gradients: list[Array] = [piece.grad for piece in pieces]

    flat_optimizer = OUTSIDE.optimizer(
        flat.arrays["param"], state={"square_avg": flat.arrays["square_avg"]}, executor=executor
    )
    many = _optimizer(pieces, executor)
    torch_step = peers_torch.step_of(foreign, count, foreach=True)
    for _ in range(3):
        flat_optimizer.step(flat.grad)
        many.step(gradients)
        if torch_step is not None:
            torch_step()
    _check(flat, pieces, foreign if torch_step else pieces)

    samplers = {
        "fastopt": timed(partial(many.step, gradients)),
        "flat": timed(partial(flat_optimizer.step, flat.grad)),
        "fresh": _with_fresh(many.step, lambda: [gradient.copy() for gradient in gradients]),
        "flat_fresh": _with_fresh(flat_optimizer.step, flat.grad.copy),
    }
    if torch_step is not None:
        samplers["torch"] = timed(torch_step)
    moved = dict.fromkeys(samplers, flat.bytes_per_element)
    run, moved[NAME] = roofline(flat, count)
    samplers[NAME] = timed(run)
    case = {"question": "many", "model": model, "dtype": "float32", "size": sum(sizes)}
    case |= {"arrays": len(sizes), "threads": count, "all_threads": threads == "all"}
    compare(case, samplers, moved, budget=6.0)
    benchmark.pedantic(many.step, args=(gradients,), rounds=5, warmup_rounds=1)
