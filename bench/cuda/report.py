"""``python -m bench.cuda.report``: the table of docs/cuda.md, from the newest stored result."""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import cuda_host, report
from bench.machine import cores, version_of
from bench.stored import newest
from bench.tables import duration, table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "cuda"
PAGE = ROOT / "docs" / "cuda.md"
LIBRARIES = (
    "numpy",
    "numba",
    "numba-cuda",
    "torch",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "triton",
    "bitsandbytes",
    "flashoptim",
    "jax",
    "optax",
)
PARTS = {
    "core": "Buffers of float32",
    "codecs": "16-bit numbers and 8-bit states",
    "phase": "The whole phase",
    "norm": "The global norm, host included",
    "torch": "Networks in torch, time on the GPU with its waiting for the host",
    "torch, host": "Networks in torch, the host alone",
    "graphs": "Networks in torch, replayed from a CUDA graph",
    "host": "The host, to start a step of 1024 elements",
    "first step": "The first step of a process, beyond imports and context",
}


def machine() -> dict[str, Any]:
    """The GPU, the host, and the versions of what is measured."""
    from numba import cuda

    from fastopt.executors.cuda import device

    name = cuda.get_current_device().name
    libraries = {name: version for name in LIBRARIES if (version := version_of(name)) is not None}
    return {
        "gpu": name.decode() if isinstance(name, bytes) else str(name),
        "device": device.facts(),
        "driver": _driver(),
        "cores": cores(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fastopt": version_of("fastopt"),
        "commit": _commit(),
        "libraries": libraries,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def _commit() -> str | None:
    return _output("git", "rev-parse", "--short", "HEAD")


def _driver() -> str | None:
    told = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return told.splitlines()[0] if told else None


def store(results: Mapping[str, Any], folder: Path) -> Path:
    """Write the results of a GPU, in the place of its former ones."""
    name = re.sub(r"[^a-z0-9]+", "-", str(results["machine"]["gpu"]).lower()).strip("-")
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(results), indent=1) + "\n", "utf-8")
    return path


def _rounded(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def line(row: Mapping[str, Any]) -> str:
    """A case in a line for the terminal, and below it who is missing."""
    times = ", ".join(f"{peer} {_time(timed)}" for peer, timed in row["peers"].items())
    missing = "".join(f"\n    {peer}: {why}" for peer, why in row.get("missing", {}).items())
    return f"{row['part']}: {row['name']}, {row['elements']:,} elements: {times}{missing}"


def _time(timed: Mapping[str, Any]) -> str:
    return duration(timed["seconds"]["median"])


def text(results: Mapping[str, Any]) -> str:
    """A table for each part, in Markdown."""
    facts = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    where = f"{facts['gpu']}, driver {facts['driver']}, {facts['cores']} cores of its host"
    head = f"Measured on {facts['date']} at commit {facts['commit']}: {where}, Python {facts['python']}"
    lines = [f"{head}, {versions}."]
    for part, title in PARTS.items():
        rows = [_row(row) for row in results["cases"] if row["part"] == part and row["peers"]]
        if rows:
            heads = ["", "elements", "fastopt", "GB/s", "others"]
            lines += ["", f"**{title}**", "", table(heads, rows)]
    return "\n".join(lines)


def _row(row: Mapping[str, Any]) -> list[str]:
    peers = dict(row["peers"])
    ours = peers.pop("fastopt", None)
    speed = ""
    if ours and row["bytes"]:
        speed = f"{row['bytes'] * row['elements'] / ours['seconds']['median'] / 1e9:,.0f}"
    others = "; ".join(f"{peer} {_time(timed)}" for peer, timed in peers.items())
    return [row["name"], f"{row['elements']:,}", _time(ours) if ours else "", speed, others]


def page(old: str) -> str:
    """The page with the tables and the times of the host between their markers."""
    host = cuda_host.sentence(newest(cuda_host.RESULTS))
    return report.insert_between(
        report.insert_between(old, "cuda", text(newest(RESULTS))), "cuda-host", host
    )


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
