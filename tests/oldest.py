"""Constraints for pip: the oldest versions that pyproject.toml allows.

Every lower bound of a dependency or of an extra becomes a pin.
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
    found: dict[str, Any] = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    return found


def pins() -> list[str]:
    """The lower bounds, as pins."""
    declared = project()
    extras = declared["optional-dependencies"].values()
    wanted = [*declared["dependencies"], *(wanted for extra in extras for wanted in extra)]
    bounds = [match for match in map(BOUND.match, wanted) if match]
    return sorted({f"{bound['name']}=={bound['version']}" for bound in bounds})
