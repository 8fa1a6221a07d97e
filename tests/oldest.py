"""Constraints for pip: the oldest versions that pyproject.toml allows.

Every lower bound becomes a pin.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
BOUND = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<version>[\d.]+)")


def project() -> dict[str, Any]:
    """What pyproject.toml says of the package."""
    declared: dict[str, Any] = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    return declared


def requirements(extra: str) -> list[str]:
    """What an extra asks for, with that of the extras in it."""
    result: list[str] = []
    for wanted in project()["optional-dependencies"][extra]:
        if extras := re.match(r"fastopt\[([\w,-]+)\]", wanted):
            for name in extras[1].split(","):
                result += requirements(name)
        else:
            result.append(wanted)
    return result


def pins(extra: str) -> list[str]:
    """The lower bounds of the package with this extra, as pins."""
    bounds = map(BOUND.match, [*project()["dependencies"], *requirements(extra)])
    return sorted({f"{bound['name']}=={bound['version']}" for bound in bounds if bound})
