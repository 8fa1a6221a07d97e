"""The optimizers with a name: their modules, which are imported when they are asked for.

`fastopt.Adam`, `fastopt.adam_step`, ``fastopt.minimize(optimizer="adam")`` and
`fastopt.interop.scipy.adam` all come from this table.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastopt.optimizers.named import NamedOptimizer

MODULES = {
    "SGD": "fastopt.optimizers.sgd",
    "RMSProp": "fastopt.optimizers.rmsprop",
    "AdaGrad": "fastopt.optimizers.adagrad",
    "Adam": "fastopt.optimizers.adam",
    "AdamW": "fastopt.optimizers.adam",
    "NAdam": "fastopt.optimizers.adam",
    "LARS": "fastopt.optimizers.lars",
    "LAMB": "fastopt.optimizers.lamb",
    "Lion": "fastopt.optimizers.lion",
    "AdaMax": "fastopt.optimizers.adamax",
    "AdaDelta": "fastopt.optimizers.adadelta",
    "RAdam": "fastopt.optimizers.radam",
    "AdaBelief": "fastopt.optimizers.adabelief",
    "Yogi": "fastopt.optimizers.yogi",
    "QHAdam": "fastopt.optimizers.qhadam",
    "AdEMAMix": "fastopt.optimizers.ademamix",
    "Adan": "fastopt.optimizers.adan",
    "Rprop": "fastopt.optimizers.rprop",
    "ASGD": "fastopt.optimizers.asgd",
    "Prodigy": "fastopt.optimizers.prodigy",
    "DoG": "fastopt.optimizers.dog",
}
NAMES = {name.lower(): name for name in MODULES}
# Those with a one-shot function: the others carry numbers from step to step beside their arrays.
ONE_SHOT = {lower: name for lower, name in NAMES.items() if name not in ("Prodigy", "DoG")}


def optimizer_class(name: str) -> type[NamedOptimizer]:
    """The class, by its name in lower case."""
    kind: type[NamedOptimizer] = getattr(import_module(MODULES[NAMES[name]]), NAMES[name])
    return kind
