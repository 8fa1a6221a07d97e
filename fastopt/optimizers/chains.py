"""The chains of an optimizer's groups, as its settings have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastopt.changes import assign
from fastopt.kernels.identity import frozen
from fastopt.optimizers.group_settings import SettingValues
from fastopt.optimizers.shared_options import complete
from fastopt.transforms.base import Chain, Transform

if TYPE_CHECKING:
    from fastopt.optimizers.optimizer import Optimizer


def read_chain(optimizer: Optimizer) -> Chain | list[Chain]:
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
    for group, chain in zip(groups, chains, strict=True):
        _check_same(group.chain, chain, what)
    changes = [assign(group, "chain", chain) for group, chain in zip(groups, chains, strict=True)]
    optimizer._steps.refresh(chains, [*changes, assign(optimizer, "_settings", settings)])


def _check_same(current: Chain, new: Chain, what: str) -> None:
    """Check that a chain has the same transforms, but for their hyperparameters, or raise ValueError.

    Functions that `make_parts` defines anew are the same if their content is.
    """
    kinds, functions = list(map(_kind, current)), list(map(_functions, current))
    new_kinds, new_functions = list(map(_kind, new)), list(map(_functions, new))
    if kinds != new_kinds or _codes(functions) != _codes(new_functions):
        raise ValueError(
            f"{what} would change which transforms the optimizer is made of: make a new optimizer"
        )
    for old, others, transform in zip(functions, new_functions, new, strict=True):
        if not all(map(_is_same, old, others)):
            raise ValueError(
                f"{what} would change the transforms of the optimizer: functions of {transform.name!r} "
                "use other values, of which only `hyper` can change; make a new optimizer"
            )


def _kind(t: Transform) -> tuple[object, ...]:
    """What an optimizer relies on of a transform, besides its functions, from the beginning."""
    sums = list(t.sums), list(t.sums_after), list(t.carried), t.per_array
    return t.name, t.slots(), t.after, t.round_towards, sums


def _functions(transform: Transform) -> list[object]:
    each = transform.update, *transform.sums.values(), *transform.sums_after.values()
    return [*each, transform.from_sums, transform.no_gradient]


def _codes(functions: list[list[object]]) -> list[list[object]]:
    return [[getattr(each, "__code__", each) for each in of_one] for of_one in functions]


def _is_same(one: object, other: object) -> bool:
    return one == other or frozen(one) is frozen(other)
