"""How much faster are steps with fewer bits, and what do they cost in accuracy?"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import fastopt
from bench import accuracy, problems
from bench.combinations import COMBINATIONS, FAST_COMBINATIONS, Combination, bytes_of, filled
from bench.measure import timed
from bench.problems import ADAM, RMSPROP, Form

SIZES = (10**6, 10**8)
SLOW = Form("rmsprop_slow", "RMSProp, beta 0.999", fastopt.RMSProp, {**RMSPROP.settings, "beta": 0.999})


def _cases() -> list[Any]:
    """In a quick run large buffers: RMSProp on one core and on all, Adam on all."""
    cases = []
    for form in (RMSPROP, ADAM):
        for size in SIZES:
            for threads in ("serial", "all"):
                quick = size == max(SIZES) and (form is RMSPROP or threads == "all")
                name = f"{form.name}-{size:.0e}-{threads}".replace("e+0", "e")
                marks = () if quick else pytest.mark.full
                cases.append(pytest.param(form, size, threads, id=name, marks=marks))
    return cases


@pytest.mark.parametrize(("form", "size", "threads"), _cases())
def bench_codecs(form: Form, size: int, threads: str, compare: Any, benchmark: Any) -> None:
    count = 1 if threads == "serial" else fastopt.get_num_threads()
    needed, available = memory(form, size), problems.available_memory()
    if needed > available:
        pytest.skip(f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are free")
    check(form)

    steps, held_by, moved = {}, {}, {}
    arrays: dict[np.dtype[Any], Any] = {}  # parameters and gradients are shared by what has their dtype
    for name, combination in combinations(form).items():
        if combination.number not in arrays:
            arrays[combination.number] = [
                filled(size, numbers, combination.number) for numbers in _numbers()
            ]
        params, grads = arrays[combination.number]
        optimizer = combination.optimizer(form, params)
        counts = bytes_of(size, params, grads, optimizer.state)
        steps[name], moved[name] = partial(optimizer.step, grads), counts["moved"]
        held_by[name] = {"held": counts["held"], "state": counts["state"]}
    case = {"question": "codecs", "form": form.name, "size": size, "threads": count}
    case |= {"all_threads": threads == "all", "bytes": held_by}
    budget = 8.0 if size >= 10**8 else 3.0
    with fastopt.threads(count):
        compare(case, {name: timed(step) for name, step in steps.items()}, moved, budget)
    assert all(np.isfinite(p[:1000].astype(np.float32)).all() for p, _ in arrays.values())
    benchmark.pedantic(steps["float32"], rounds=5, warmup_rounds=1)


def _numbers() -> tuple[Any, Any]:
    """Parameters, and gradients of size 1 to 2, which no format loses."""
    random = np.random.default_rng(0)
    params = random.standard_normal(1 << 20, np.float32)
    return params, np.copysign(1 + random.random(params.size, np.float32), params[::-1])


def combinations(form: Form) -> dict[str, Combination]:
    """All that make a difference to a form."""
    return COMBINATIONS | FAST_COMBINATIONS if form is RMSPROP else COMBINATIONS


def memory(form: Form, size: int) -> float:
    """Bytes that all combinations take together."""
    total, dtypes, sample = 0.0, set(), 1 << 16
    for combination in combinations(form).values():
        params = np.zeros(sample, combination.number)
        counts = bytes_of(sample, params, params, combination.optimizer(form, params).state)
        total += counts["state"] if combination.number in dtypes else counts["held"]
        dtypes.add(combination.number)
    return total * size


def check(form: Form) -> None:
    """See that all combinations take the same steps, but for the rounding of parameters."""
    ends = {}
    for name, combination in combinations(form).items():
        params, grads = (numbers[: 1 << 16].astype(combination.number) for numbers in _numbers())
        optimizer = combination.optimizer(form, params)
        for _ in range(3):
            optimizer.step(grads)
        ends[name] = params.astype(np.float32)
    for name, end in ends.items():  # two places in bfloat16 for each step
        np.testing.assert_allclose(end, ends["float32"], rtol=6 * 2.0**-8, atol=5e-3, err_msg=name)


@pytest.mark.parametrize("form", [RMSPROP, SLOW, ADAM], ids=lambda form: form.name)
def bench_distance(form: Form, benchmark: Any) -> None:
    distances = benchmark.pedantic(accuracy.distances, (form,), rounds=1)
    assert distances["float32"] == 0 < distances["float32, 8-bit state"] < 0.1
    benchmark.extra_info.update({"question": "distance", "form": form.name, "distances": distances})


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def bench_error(signed: bool, benchmark: Any) -> None:
    rows = benchmark.pedantic(accuracy.errors, (signed,), rounds=1)
    nearest = [row for row in rows if row["format"] == "fastopt, to nearest"]
    assert all(row["lost"] == 0 for row in nearest)
    benchmark.extra_info.update({"question": "error", "signed": signed, "rows": rows})
