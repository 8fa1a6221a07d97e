"""The optimizers with a name: their modules, which are imported when they are asked for.

`fastopt.Adam`, `fastopt.adam_step`, ``fastopt.minimize(optimizer="adam")`` and
`fastopt.interop.scipy.adam` all come from this table.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = {
    "SGD": "fastopt.optimizers.sgd",
    "RMSProp": "fastopt.optimizers.rmsprop",
    "AdaGrad": "fastopt.optimizers.adagrad",
    "Adam": "fastopt.optimizers.adam",
    "AdamW": "fastopt.optimizers.adam",
    "NAdam": "fastopt.optimizers.adam",
    "LARS": "fastopt.optimizers.lars",
    "LAMB": "fastopt.optimizers.lamb",
}
NAMES = {name.lower(): name for name in MODULES}


def optimizer_class(name: str) -> Any:
    """The class, by its name in lower case."""
    return getattr(import_module(MODULES[NAMES[name]]), NAMES[name])
