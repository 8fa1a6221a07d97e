"""The chains of an optimizer's groups, as its settings have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastopt.changes import assign
from fastopt.optimizers.group_settings import SettingValues
from fastopt.optimizers.shared_options import complete
from fastopt.transforms.base import Chain

if TYPE_CHECKING:
    from fastopt.optimizers.optimizer import Optimizer


def read_chain(optimizer: Optimizer) -> Any:
    """The chain of an optimizer, a list if every group has its own."""
    chains = [group.chain for group in optimizer._groups]
    return chains[0] if optimizer._groups[0].structure is optimizer._structure else chains


def make_chains(optimizer: Optimizer, settings: SettingValues) -> list[Chain]:
    """The chain of each group, by these settings."""
    kind, chains = type(optimizer), []
    for index, values in enumerate(settings.of_groups()):
        group = kind.__new__(kind)  # has settings, and nothing else
        group._settings, group._options = SettingValues(values, None, ()), optimizer._options
        group._chains_given = optimizer._chains_given
        chains.append(complete(group, group._parts(index)))
    return chains


def use_settings(optimizer: Optimizer, settings: SettingValues, what: str) -> None:
    """Take over settings as a whole, or raise."""
    chains, groups = make_chains(optimizer, settings), optimizer._groups
    if list(map(_kinds, chains)) != [_kinds(group.chain) for group in groups]:
        raise ValueError(
            f"{what} would change which transforms the optimizer is made of: make a new optimizer"
        )
    changes = [assign(group, "chain", chain) for group, chain in zip(groups, chains, strict=True)]
    optimizer._steps.refresh(chains, [*changes, assign(optimizer, "_settings", settings)])


def _kinds(chain: Chain) -> list[Any]:
    return [(t.update, t.slots(), *t.sums.values(), *t.sums_after.values(), t.from_sums) for t in chain]
