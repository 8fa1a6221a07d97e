"""A group: arrays that share a chain, with the arrays that the chain needs beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastopt.executors import reference
from fastopt.layouts import arrays, homes, tree
from fastopt.layouts.arrays import Array
from fastopt.layouts.files import StateFiles
from fastopt.transforms.base import START_FROM_PARAM, Chain


class Group:
    """Parameters, states, inputs and outputs of one chain.

    Parameters
    ----------
    params : array or structure of arrays
    chain : Chain
    label : str
        How errors name `params`.
    state : mapping
        The caller's own state arrays, by name.
    files : StateFiles
        Makes new states.
    """

    def __init__(
        self, params: Any, chain: Chain, label: str, state: Mapping[str, Any], files: StateFiles
    ) -> None:
        self.params = params
        self.chain = chain
        self.parts = chain.parts()
        pairs = list(tree.leaves(params))
        self.paths = [path for path, _ in pairs]
        self.names = [tree.describe(label, path) for path, _ in pairs]
        self.leaves: list[Array] = [
            homes.enter(name, leaf) for name, (_, leaf) in zip(self.names, pairs, strict=True)
        ]
        for name, leaf in zip(self.names, self.leaves, strict=True):
            arrays.check_writeable(name, leaf)
        for dtype in self.dtypes():
            reference.probe(self.parts, dtype)
        self.states = self._make_states(state, files)
        self.inputs = [self._given(name, own, False) for name, own in self._pairs("inputs")]
        self.outputs = [self._given(name, own, True) for name, own in self._pairs("outputs")]

    def dtypes(self) -> list[np.dtype[Any]]:
        """The dtypes of the parameters: each needs a kernel of its own."""
        return sorted({leaf.dtype for leaf in self.leaves}, key=str)

    def _pairs(self, kind: str) -> list[tuple[str, Any]]:
        return [pair for part in self.chain for pair in getattr(part, kind).items()]

    def _make_states(self, given: Mapping[str, Any], files: StateFiles) -> dict[str, list[Array]]:
        initial = self.chain.states()
        states: dict[str, list[Array]] = {}
        for name, value in initial.items():
            if given.get(name) is not None:
                states[name] = self._given(f"state[{name!r}]", given[name], True, like_param=True)
                continue
            states[name] = []
            for leaf, label in zip(self.leaves, self.names, strict=True):
                start = 0.0 if isinstance(value, str) else value
                array = files.full(f"{name}-{label}", leaf, start)
                if value == START_FROM_PARAM:
                    homes.copy(array, leaf)
                states[name].append(array)
        return states

    def _given(
        self, label: str, structure: Any, written: bool, like_param: bool = False
    ) -> list[Array]:
        """The caller's arrays, checked: of the parameters' shapes, and what they are used for."""
        found = [homes.enter(label, own) for own in tree.leaves_like(self.params, structure, label)]
        for array, leaf, path in zip(found, self.leaves, self.paths, strict=True):
            name = tree.describe(label, path)
            if not written:
                arrays.check_gradient(name, array, leaf)
                continue
            if like_param:
                arrays.check_writeable(name, array)
                arrays.check_like(name, array, leaf)
            else:
                arrays.check_writeable(name, array, arrays.outputs_of(leaf.dtype))
                arrays.check_shape(name, array, leaf)
        if written and not like_param and len({array.dtype for array in found}) > 1:
            raise TypeError(f"{label} must be arrays of one dtype")
        return found

    def slots(self) -> list[list[Array]]:
        """For each parameter the arrays of the chain's slots, in the order of the table's columns."""
        iterators = {
            "state": iter(self.states.values()),
            "input": iter(self.inputs),
            "output": iter(self.outputs),
        }
        columns = [next(iterators[slot.kind]) for part in self.parts for slot in part.slots]
        return [[column[i] for column in columns] for i in range(len(self.leaves))]

    def written(self) -> Iterator[arrays.Range]:
        """The memory that a step writes, with names for errors."""
        return (arrays.memory_range(name, array) for name, array in self._outward())

    def everything(self) -> Iterator[tuple[str, Any]]:
        """All arrays that a step works with, beside the gradients, with names for errors."""
        yield from self._outward()
        for (name, _), own in zip(self._pairs("inputs"), self.inputs, strict=True):
            for path, array in zip(self.paths, own, strict=True):
                yield tree.describe(name, path), array

    def _outward(self) -> Iterator[tuple[str, Any]]:
        """The arrays that a step writes."""
        yield from zip(self.names, self.leaves, strict=True)
        labelled = [(f"state[{name!r}]", own) for name, own in self.states.items()]
        labelled += [
            (name, own) for (name, _), own in zip(self._pairs("outputs"), self.outputs, strict=True)
        ]
        for label, own in labelled:
            for path, array in zip(self.paths, own, strict=True):
                yield tree.describe(label, path), array

    def read(self) -> Iterator[arrays.Range]:
        """The memory that a step only reads, beside the gradients."""
        for (name, _), own in zip(self._pairs("inputs"), self.inputs, strict=True):
            for path, array in zip(self.paths, own, strict=True):
                yield arrays.memory_range(tree.describe(name, path), array)

    def check_inputs_apart(self, written: list[arrays.Range]) -> None:
        """What is only read shares no memory with what is written."""
        for (name, _), own in zip(self._pairs("inputs"), self.inputs, strict=True):
            for path, array in zip(self.paths, own, strict=True):
                arrays.check_apart(tree.describe(name, path), array, written)
