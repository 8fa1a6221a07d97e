"""Options of the benchmarks, and how a comparison is measured and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import roofline
from bench.measure import ENOUGH, FEWEST, QUICK, Sampler, band, interleave, ratios

ROOFLINE = roofline.NAME
PLAIN = "rmsprop"  # fastopt's, whose speed the bytes of other steps are measured by

Compare = Callable[..., dict[str, list[float]]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="all cases, and more rounds of each")
    about = "buffers of at most N elements and a few rounds: to see that everything runs"
    parser.addoption("--smoke", type=int, metavar="N", help=about)
    about = "append every case that was measured to a file, and leave out those that are in it"
    parser.addoption("--store", type=Path, metavar="FILE", help=about)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A quick run leaves out the cases marked ``full``, a resumed one those that it has; a smoke test
    makes all of them small.
    """
    left_out = [] if config.getoption("--full") else [i for i in items if i.get_closest_marker("full")]
    if store := config.getoption("--store"):
        stored = {json.loads(line)["id"] for line in store.read_text("utf-8").splitlines()}
        left_out += [item for item in items if item.nodeid in stored]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    most = config.getoption("--smoke")
    for item in items if most else []:
        case = getattr(item, "callspec", None)
        if case and "size" in case.params:
            case.params["size"] = min(case.params["size"], most)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: Any, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Store what a case found as soon as it is known."""
    outcome = yield
    store = item.config.getoption("--store")
    if store and outcome.when == "call" and outcome.passed:
        line = json.dumps({"id": item.nodeid, "case": item.funcargs["benchmark"].extra_info})
        with store.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    return outcome


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Compare:
    """``compare(case, samplers, bytes_per_element={})``: measure in turns and record.

    `case` says what is measured; a ``size`` in it and the bytes give GB/s. The first sampler is what
    the others are compared with: their times are recorded as multiples of its time. Where plain RMSProp
    is among them (``rmsprop``), so are the times as multiples of what their bytes take at its speed.
    """
    factor, enough = (2.0, ENOUGH) if request.config.getoption("--full") else (0.4, QUICK)
    if request.config.getoption("--smoke"):
        factor, enough = 0.0, FEWEST

    def run(
        case: Mapping[str, Any],
        samplers: Mapping[str, Sampler],
        bytes_per_element: Mapping[str, int] | None = None,
        budget: float = 2.0,
    ) -> dict[str, list[float]]:
        samples = interleave(samplers, budget * factor, enough)
        first = next(iter(samples))
        results = {}
        for name, seconds in samples.items():
            result: dict[str, Any] = {"seconds": {**band(seconds), "least": min(seconds)}}
            if name != first:
                result["time_ratio"] = band(ratios(seconds, samples[first]))
                result["least_ratio"] = min(seconds) / min(samples[first])
            if bytes_per_element:
                moved = bytes_per_element[name]
                speeds = [case["size"] * moved / s / 1e9 for s in seconds]
                result |= {"bytes_per_element": moved, "gb_per_s": band(speeds)}
                if ROOFLINE in samples:
                    most = [
                        case["size"] * bytes_per_element[ROOFLINE] / s / 1e9 for s in samples[ROOFLINE]
                    ]
                    result["fraction_of_roofline"] = band(ratios(speeds, most))
                if "c" in samples:
                    limit = [case["size"] * bytes_per_element["c"] / s / 1e9 for s in samples["c"]]
                    result["fraction_of_c"] = band(ratios(speeds, limit))
                if PLAIN in samples:
                    share = moved / bytes_per_element[PLAIN]
                    result["bytes_ratio"] = band([r / share for r in ratios(seconds, samples[PLAIN])])
            results[name] = result
        rounds = len(samples[first])
        benchmark.extra_info.update({**case, "rounds": rounds, "reference": first, "peers": results})
        return samples

    return run
