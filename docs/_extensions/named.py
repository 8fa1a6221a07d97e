"""A warning for every public name that the reference leaves out.

Public is what a module of fastopt lists in ``__all__``.
"""

from __future__ import annotations

import ast
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

import fastopt
from fastopt.interop import scipy

PACKAGE = Path(fastopt.__file__).parent
MODULES = {"schedules", "transforms"}  # described as a whole, each with its own names


def public_names() -> dict[str, list[str]]:
    """Module -> its ``__all__``; read and not imported, since other libraries may be missing here."""
    names = {"fastopt": fastopt.__all__, "fastopt.interop.scipy": scipy.__all__}  # these are computed
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
                module = ".".join(parts).removesuffix(".__init__")
                if module not in names:
                    names[module] = ast.literal_eval(node.value)
    return names


def check(app: Sphinx, env: BuildEnvironment) -> None:
    documented = {name.rpartition(".")[2] for name in env.domains["py"].data["objects"]}
    for module, names in public_names().items():
        for name in sorted(set(names) - documented - MODULES):
            logging.getLogger(__name__).warning("%s.%s is not in the reference", module, name)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
