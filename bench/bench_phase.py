"""The whole optimizer phase of a training loop in one step, against the same phase in eager torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import fastopt
from bench import peers, phase_torch, problems
from bench.bench_family import SIZES
from bench.measure import timed
from bench.problems import OUTSIDE, RMSPROP, Array, Problem

SCALE = 1024.0


def _settings(size: int) -> dict[str, Any]:
    # Gradients are of size 1 to 2, so this clips a little, and weight decay cannot cancel what is left.
    more = {"weight_decay": 1e-2, "average_decay": 0.999, "clip_norm": size**0.5}
    return {**OUTSIDE.settings, **more}


# The norm reads the gradient; the step reads gradient, parameter, accumulator and average, and writes
# them all (the gradient is cleared) and the copy.
BYTES = {"float16": 4 + 16 + 16 + 2, "float64": 4 + 16 + 16 + 8}


def _arrays(size: int, copy: str) -> dict[str, Array]:
    problem = problems.make(OUTSIDE, size, np.dtype(np.float32))
    problem.grad[:] *= SCALE
    average, copied = fastopt.empty(size), np.empty(size, copy)
    average[:] = problem.arrays["param"]
    copied.fill(0)  # maps its pages
    return {**problem.arrays, "grad": problem.grad, "average": average, "copy": copied}


def _fastopt(arrays: dict[str, Array]) -> peers.Step:
    param = arrays["param"]
    optimizer = OUTSIDE.kind(
        param,
        **_settings(param.size),
        skip_nonfinite=True,
        zero_grad=True,
        copy_to=arrays["copy"],
        state={name: arrays[name] for name in ("square_avg", "average")},
    )
    return partial(optimizer.step, arrays["grad"], grad_scale=SCALE)


def _check(copy: str, threads: int) -> None:
    """Both phases give the same numbers, but for rounding, and clear the gradient."""
    arrays, other = _arrays(1 << 20, copy), _arrays(1 << 20, copy)
    gradient, step = arrays["grad"].copy(), _fastopt(arrays)
    foreign = phase_torch.step_of(other, _settings(1 << 20), SCALE, threads)
    for _ in range(3):
        arrays["grad"][:] = other["grad"][:] = gradient
        step()
        if foreign is not None:
            foreign()
            for name, array in arrays.items():
                # A copy in float64 is one of numbers that were rounded to float32.
                tolerance = 16 * float(max(np.finfo(array.dtype).eps, np.finfo(np.float32).eps))
                np.testing.assert_allclose(
                    array, other[name], rtol=tolerance, atol=tolerance, err_msg=name
                )
        assert not arrays["grad"].any()


@pytest.mark.parametrize("size", [SIZES["quick"], pytest.param(SIZES["full"], marks=pytest.mark.full)])
@pytest.mark.parametrize("copy", ["float16", pytest.param("float64", marks=pytest.mark.full)])
def bench_phase(copy: str, size: int, compare: Any, benchmark: Any) -> None:
    needed, available = size * 44, problems.available_memory()
    if needed > available:
        pytest.skip(f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are free")
    count = fastopt.get_num_threads()
    _check(copy, count)

    arrays = _arrays(size, copy)
    plain = Problem(RMSPROP, arrays["grad"], {n: arrays[n] for n in ("param", "square_avg")})
    steps = {
        "fastopt": _fastopt(arrays),
        "torch": phase_torch.step_of(arrays, _settings(size), SCALE, count),
    }
    moved = dict.fromkeys(steps, BYTES[copy])
    steps["rmsprop"], moved["rmsprop"] = peers.PEERS["fastopt"](plain, count), plain.bytes_per_element
    present = {name: step for name, step in steps.items() if step is not None}
    case = {"question": "phase", "copy": copy, "dtype": "float32", "size": size, "threads": count}
    compare(case, {name: timed(step) for name, step in present.items()}, moved, budget=8.0)
    assert np.isfinite(arrays["param"][:1000]).all()
    benchmark.pedantic(present["fastopt"], rounds=5, warmup_rounds=1)
