"""What is compared: every optimizer with its defaults, and a few with options, at several rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import fastopt
from fastopt.optimizers.registry import MODULES

RATES = tuple(m * 10.0**e for e in range(-4, 2) for m in (1.0, 3.0))[:11]  # 1e-4, 3e-4, ... 10


class Rule(NamedTuple):
    """An optimizer with settings, and the rates that are tried."""

    kind: str
    settings: Mapping[str, Any]
    rates: tuple[float, ...] = RATES

    def make(self, params: Any, lr: float) -> Any:
        """The optimizer at this rate."""
        return getattr(fastopt, self.kind)(params, lr=lr, **self.settings)


# These are for the factor 1 on the rate that they find.
FREE = {"Prodigy": {}, "DoG": {"average_decay": 0.95}}
RULES = {kind: Rule(kind, {}) for kind in MODULES if kind not in FREE}
RULES |= {
    "SGD, momentum 0.9": Rule("SGD", {"momentum": 0.9}),
    "RMSProp, momentum 0.9": Rule("RMSProp", {"momentum": 0.9}),
    "Adam, schedule-free": Rule("Adam", {"beta1": 0.0, "schedule_free": 0.9}),
    "SGD, schedule-free": Rule("SGD", {"schedule_free": 0.9}),
    "Prodigy": Rule("Prodigy", FREE["Prodigy"], (1.0,)),
    "DoG, average": Rule("DoG", FREE["DoG"], (1.0,)),
}
