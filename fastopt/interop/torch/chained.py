"""The chains of transforms that torch's param groups stand for."""

from __future__ import annotations

from typing import ClassVar

import torch

from fastopt.interop.torch.options import Options
from fastopt.interop.torch.param_groups import GroupValue, ParamGroup, chain_of, switches
from fastopt.optimizers.named import NamedOptimizer
from fastopt.transforms.base import Chain


class Chained(Options, torch.optim.Optimizer):
    """An optimizer of torch whose param groups and options have the settings of one of fastopt's."""

    _optimizer: ClassVar[type[NamedOptimizer]]
    _counts: ClassVar[dict[str, float | str]] = {"step": 0.0}  # or the entry of a group to start from

    def _chain(self, group: ParamGroup, products: dict[int, float]) -> Chain:
        return chain_of(self._optimizer, group, products, self._added())

    def _added(self) -> dict[str, object]:
        """fastopt's options for chains."""
        average = None if self.average_decay is None else GroupValue(vars(self), "average_decay")
        return {"average_decay": average, "schedule_free": self.schedule_free}

    def _switches(self, group: ParamGroup) -> tuple[object, ...]:
        """What of a group decides which transforms its chain has."""
        return switches(self._optimizer, group)

    def _state_counts(self) -> dict[str, float | str]:
        """The states that are numbers: SGD counts steps only for an average that needs them."""
        return self._counts if self.schedule_free is None else {"step": 0.0, **self._counts}
