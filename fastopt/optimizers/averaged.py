"""The averaged parameters that transforms keep, to evaluate with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from fastopt.arrays import placement
from fastopt.arrays.tree import Tree
from fastopt.changes import assign, for_now
from fastopt.codecs.base import Array
from fastopt.optimizers.unfinished import Exchanged
from fastopt.steps.group import Group, floats_of

if TYPE_CHECKING:
    from fastopt.optimizers.optimizer import Optimizer


class Averaged:
    """What `Optimizer` has to evaluate with an average of its parameters."""

    __slots__ = ()

    def averaged_params(self) -> Tree:
        """Return the averaged parameters: what to evaluate with.

        Those of `schedule_free`, of `average_decay` or of `ASGD`, or of a transform of your own (its
        `averaged`); of several in a chain the last.

        Returns
        -------
        array, or structure of arrays like `params`
            Copies in memory, of the parameters' shapes and dtypes. In a group that keeps no average
            they are the parameters as they are.

        Raises
        ------
        ValueError
            No group keeps one.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.array([1.0])
        >>> opt = fastopt.SGD(w, lr=0.5, average_decay=0.5)
        >>> opt.step(np.array([2.0]))
        >>> w, opt.averaged_params()
        (array([0.]), array([0.5]))
        """
        optimizer: Optimizer = self  # type: ignore[assignment]  # the only class that has this
        return optimizer._structure.build(_averages(optimizer))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the averaged parameters in `params`, in place, until the ``with`` is left.

        The parameters are kept in memory meanwhile, and come back unchanged. Until then the optimizer
        refuses to step, and to be saved, loaded and copied.

        Raises
        ------
        ValueError
            No group keeps an average.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.array([1.0])
        >>> opt = fastopt.SGD(w, lr=0.5, average_decay=0.5)
        >>> opt.step(np.array([2.0]))
        >>> with opt.averaged():
        ...     print(w)
        [0.5]
        >>> w
        array([0.])
        """
        optimizer: Optimizer = self  # type: ignore[assignment]  # as above
        averages, leaves = _averages(optimizer), optimizer._leaves
        params = [placement.to_host(leaf).copy() for leaf in leaves]
        steps = optimizer._steps
        forth, back = (
            [partial(placement.copy, *pair) for pair in zip(leaves, arrays, strict=True)]
            for arrays in (averages, params)
        )
        exchanged = assign(optimizer, "_steps", Exchanged(steps))
        with for_now([exchanged, *forth], [*back, assign(optimizer, "_steps", steps)]):
            yield


def _averages(optimizer: Optimizer) -> list[Array]:
    optimizer.catch_up()
    groups: list[Group] = optimizer._groups
    if not any(transform.averaged for group in groups for transform in group.chain):
        raise ValueError(
            f"{type(optimizer).__name__} keeps no average of its parameters: make it with "
            "average_decay or schedule_free"
        )
    return [array for group in groups for array in _of_group(group)]


def _of_group(group: Group) -> Iterator[Array]:
    """The averages of a group's parameters, or these."""
    every, function, names = iter(group.chain.states()), None, list[str]()
    for transform in group.chain:
        states_of_transform = list(islice(every, len(transform.state)))
        if transform.averaged is not None:
            function, names = transform.averaged, states_of_transform
    states = [group.decoded(name) for name in names]
    for row, leaf in enumerate(group.leaves):
        codec, host = floats_of(leaf), placement.to_host(leaf)
        if function is None:
            yield host.copy()
            continue
        average = function(group.decoded_param(row), tuple(state[row] for state in states))
        yield codec.encode(average, None).reshape(leaf.shape)
