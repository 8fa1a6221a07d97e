"""``python -m bench.cuda_host [CHECKOUT ...]``: what the host takes to start a step on a GPU.

Several checkouts are compared in turns, each in processes of its own; a ratio is that to the first.
Gradients of networks are other tensors in every step, as after a backward pass. On an emulated GPU
the driver's launch does nothing while it is measured, so that the host's work alone is seen. A
comparison is stored in bench/results/cuda_host/, from where `bench.cuda.report` writes docs/cuda.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import fastopt
from bench.models import MODELS, Shape
from bench.tables import duration, processor
from fastopt.executors.cuda import availability

HERE = Path(__file__).parents[1]
RESULTS = HERE / "bench" / "results" / "cuda_host"
EMULATED = bool(os.environ.get("GPU_EMULATOR"))
STEPS = 400
AT_ONCE = 10  # steps that are too short for the clock
SMALL = 1024


def lowest(step: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> float:
    """Seconds of the quickest of many steps."""
    times = []
    for _ in range(STEPS):
        prepare()
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def many(step: Callable[[], object]) -> float:
    """The same of a step that the clock is too coarse for."""

    def steps() -> None:
        for _ in range(AT_ONCE):
            step()

    return lowest(steps) / AT_ONCE


@contextmanager
def no_launches() -> Iterator[None]:
    """On an emulated GPU, launches that do nothing."""
    if not EMULATED:
        yield
        return
    import gpu_emulator
    from numba import cfunc

    nothing = cfunc("void(intp, intp, intp, intp, intp, intp)")(lambda a, b, c, d, e, f: None)
    library, regions = gpu_emulator._library, gpu_emulator._REGION
    stub = type(gpu_emulator._LAUNCH)(nothing.address)
    library.fake_set_callbacks(stub, regions)
    try:
        yield
    finally:
        library.fake_set_callbacks(gpu_emulator._LAUNCH, regions)


def core() -> Iterator[tuple[str, float]]:
    """A step of one small array of Numba."""
    from numba import cuda

    ones = np.ones(SMALL, np.float32)
    w, *grads = (cuda.to_device(ones) for _ in range(3))
    opt = fastopt.RMSProp(w)
    opt.step(grads[0])
    yield "core, the same gradient", many(lambda: opt.step(grads[0]))

    def both() -> None:
        opt.step(grads[0])
        opt.step(grads[1])

    yield "core, another gradient", many(both) / 2


def tensors(name: str, shapes: list[Shape]) -> float:
    """A step of Adam in torch, with gradients that are new."""
    import torch

    from fastopt.interop.torch import Adam

    with ExitStack() as stack:
        if EMULATED:
            from tests.interop import cuda_tensors

            stack.enter_context(cuda_tensors.as_in_the_field())
            to_cuda = cuda_tensors.to_cuda
        else:
            to_cuda = torch.Tensor.cuda
        params = [torch.nn.Parameter(to_cuda(torch.ones(shape))) for shape in shapes]
        sets = [[to_cuda(torch.ones(shape)) for shape in shapes] for _ in range(2)]
        optimizer = Adam(params)

        def backward() -> None:
            sets.reverse()
            for param, grad in zip(params, sets[0], strict=True):
                param.grad = grad

        def steps() -> None:
            for _ in range(3):
                backward()
                optimizer.step()

        steps()
        if EMULATED:
            states = [tensor for state in optimizer.state.values() for tensor in state.values()]
            plain = cuda_tensors.of_torchs_classes([*params, *chain(*sets), *states])
            everywhere = stack.enter_context(plain)
            steps()
            everywhere()
        return lowest(optimizer.step, backward)


def measure() -> dict[str, float]:
    """Seconds of a step, by name."""
    with no_launches():
        times = dict(core())
        for name, shapes in {"one parameter": lambda: [(SMALL,)], **MODELS}.items():
            times[f"torch, {name}"] = tensors(name, shapes())
    return times


def in_turns(trees: list[Path], rounds: int) -> dict[Path, dict[str, float]]:
    """The smallest times of each checkout."""
    best: dict[Path, dict[str, float]] = {tree: {} for tree in trees}
    command = [sys.executable, "-P", __file__, "--json"]
    with TemporaryDirectory() as folder:
        for number, tree in list(enumerate(trees)) * rounds:
            alone = Path(folder, str(number))  # the package only: bench and tests are those of here
            alone.mkdir(exist_ok=True)
            if not (alone / "fastopt").exists():
                (alone / "fastopt").symlink_to(tree.resolve() / "fastopt")
            paths = [str(alone), str(HERE), os.environ.get("PYTHONPATH", "")]
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
            for name, taken in json.loads(done.stdout.splitlines()[-1]).items():
                best[tree][name] = min(taken, best[tree].get(name, taken))
    return best


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the result is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda_host", description=__doc__)
    parser.add_argument("trees", nargs="*", type=Path, default=[HERE])
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to store a comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="measure in this process")
    options = parser.parse_args(arguments)
    missing = availability.missing()
    if missing is not None:
        print(f"the host's work was not measured: {missing}")
        return 0
    if options.json:
        print(json.dumps(measure()))
        return 0
    times = in_turns(options.trees, options.rounds)
    first = times[options.trees[0]]
    for name in first:
        row = [times[tree][name] for tree in options.trees]
        print(f"{name:28}", *(f"{t * 1e6:9.1f} us {t / first[name]:6.3f} x" for t in row))
    if len(options.trees) > 1:
        print(f"stored {store(times, options.results)}; python -m bench.cuda.report writes the page")
    return 0


def store(times: dict[Path, dict[str, float]], folder: Path) -> Path:
    """Write what was measured, in the place of what the machine has measured before."""
    from cpuinfo import get_cpu_info

    from bench import machine

    facts = machine.facts(get_cpu_info())
    checkouts = [
        {"commit": commit(tree), "seconds": {name: float(f"{t:.4g}") for name, t in row.items()}}
        for tree, row in times.items()
    ]
    results = {"machine": facts, "emulated": EMULATED, "checkouts": checkouts}
    path = folder / f"{machine.name(facts)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return path


def commit(tree: Path) -> str:
    """The commit of a checkout, shortened."""
    command = "git", "rev-parse", "--short=7", "HEAD"
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout.strip()


def sentence(results: Mapping[str, Any]) -> str:
    """What was measured, of the newest checkout and of the first."""
    facts, (first, *_, last) = results["machine"], results["checkouts"]
    where = f"{facts['date']}, {processor(facts)}"
    how = " on an emulated GPU whose launches do nothing" if results["emulated"] else ""
    pairs = (
        f"{name} {duration(seconds)} ({duration(first['seconds'][name])})"
        for name, seconds in last["seconds"].items()
    )
    return (
        f"`python -m bench.cuda_host` measures what the host takes for a step, of several checkouts in "
        f"turns; on {where}{how}, torch {facts['libraries']['torch']}, and in "
        f"brackets at commit {first['commit']}: {'; '.join(pairs)}. A step of the core is one of "
        "RMSProp over one array of Numba, one in torch is of Adam with new gradients."
    )


if __name__ == "__main__":
    raise SystemExit(main())
