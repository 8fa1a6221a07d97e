"""``python -m bench.split_weights``: measure all, store it, and write docs/split-weights.md.

``python -m bench.split_weights memory times`` measures only these, and replaces what was stored
of them. ``quality`` takes a quarter of an hour, the others a minute or two each. ``--report`` only
writes the page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from bench import machine
from bench.split_weights import report

PARTS = "quality", "memory", "times"


def _measure(part: str) -> Any:
    # They need torch, and the report does not.
    if part == "quality":
        from bench.split_weights import quality as module
    elif part == "memory":
        from bench.split_weights import memory as module
    else:
        from bench.split_weights import times as module
    measured: Callable[[], Any] = module.measured
    return measured()


def main(arguments: list[str]) -> int:
    """Measure all, or the parts that are named; store, and write the page."""
    if "--report" not in arguments:
        import cpuinfo

        facts = machine.facts(cpuinfo.get_cpu_info())
        path = report.RESULTS / f"{machine.name(facts)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        for part in arguments or PARTS:
            busy = machine.busy_cores()
            results = {"busy_cores_before": busy, **_measure(part)}
            stored = json.loads(path.read_text("utf-8")) if path.exists() else {}
            stored |= {"machine": facts, part: results}
            path.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")
    report.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
