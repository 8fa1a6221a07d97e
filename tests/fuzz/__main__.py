"""``python -m tests.fuzz --seconds 600``: new seeds, of all kinds in turn, until the time is over."""

import argparse
import ast
import sys
import time
from collections import Counter

from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import attempt, tries, work
from tests.fuzz.stories import SHARED


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="of the first block; by default by the clock")
    parser.add_argument("--only", metavar="KIND", action="append", choices=list(KINDS))
    parser.add_argument("--case", metavar="KIND:SEED", help="try one case again, by seed or as data")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        kind, first, count = chosen.work
        work(kind, int(first), int(count))
        return 0
    if chosen.case:
        return _again(*chosen.case.split(":", 1))
    kinds = chosen.only or [name for name, kind in KINDS.items() if kind.needs()]
    return _search(kinds, chosen.seed, chosen.seconds)


def _again(kind: str, text: str) -> int:
    case = ast.literal_eval(text)
    if isinstance(case, int):
        case = KINDS[kind].draw(case)
    print(case)
    what = attempt(kind, case)
    print(what or "nothing found")
    return what is not None


def _search(kinds: list[str], seed: int | None, seconds: float) -> int:
    stop = time.monotonic() + seconds
    block = int(time.time()) % 10**7 if seed is None else seed
    print(f"from --seed {block}", flush=True)
    tried, failed = Counter[str](), Counter[str]()
    while time.monotonic() < stop:
        for kind in kinds:
            for finding in tries(kind, block * SHARED, SHARED, stop - time.monotonic()):
                tried[kind] += 1
                if finding is not None:
                    failed[kind] += 1
                    print(f"{kind}: {finding}", flush=True)
        block += 1
    for kind in kinds:
        print(f"{kind}: {tried[kind]} cases, {failed[kind]} findings")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
