"""How much memory is available for the demo."""

from __future__ import annotations

import os
from pathlib import Path

# Where the system does not say.
ASSUMED = 2 << 30

_CGROUP = Path("/sys/fs/cgroup")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None


def _system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        # Half of all there is, where it is unknown how much of it is free.
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (AttributeError, OSError, ValueError):
        return ASSUMED


def available() -> int:
    """Bytes that can be used without swapping, within the limits of a container."""
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is None or used is None:
        return _system()
    return max(0, min(_system(), limit - used))


def affordable(elements: int, bytes_each: int) -> int:
    """At most `elements`, as many as four fifths of the available memory hold, in round numbers."""
    room = available() * 4 // 5 // bytes_each
    if elements <= room:
        return elements
    unit = int("1" + "0" * (len(str(room)) - 1))
    return max(1, room // unit * unit)
