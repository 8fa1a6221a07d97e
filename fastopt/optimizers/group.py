"""A group: arrays that share a chain, with the arrays that the chain needs beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastopt.codecs.base import Codec
from fastopt.codecs.floats import Float, compute_dtype, floats, name_of
from fastopt.executors import reference
from fastopt.executors.compiled import Storage
from fastopt.layouts import arrays, homes, tree
from fastopt.layouts.arrays import Array
from fastopt.layouts.files import StateFiles
from fastopt.optimizers.constants import check_start
from fastopt.optimizers.storage import Formats, codec_of, states_of
from fastopt.transforms.base import START_FROM_PARAM, Chain, Transform
from fastopt.transforms.base import chain as make_chain
from fastopt.validation import as_float


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
    formats : Formats
        How they are stored.
    """

    def __init__(
        self,
        params: Any,
        chain: Chain,
        label: str,
        state: Mapping[str, Any],
        files: StateFiles,
        formats: Formats,
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
        for dtype in {compute_dtype(str(name_of(leaf.dtype))) for leaf in self.leaves}:
            reference.probe(self.parts, dtype)
        self._formats = formats
        self.codecs: dict[str, list[Codec]] = {}
        self.states = self._make_states(state, files)
        self.inputs = [self._given(name, own, False) for name, own in self._pairs("inputs")]
        self.outputs = [self._given(name, own, True) for name, own in self._pairs("outputs")]

    def _pairs(self, kind: str) -> list[tuple[str, Any]]:
        return [pair for part in self.chain for pair in getattr(part, kind).items()]

    def _make_states(self, given: Mapping[str, Any], files: StateFiles) -> dict[str, list[Array]]:
        initial = self.chain.states()
        states: dict[str, list[Array]] = {}
        for name, value in initial.items():
            if given.get(name) is not None:
                states[name] = self._given_states(name, given[name])
                continue
            states[name] = []
            self.codecs[name] = [self._formats.codec(name, self.chain, leaf) for leaf in self.leaves]
            for leaf, label, codec in zip(self.leaves, self.names, self.codecs[name], strict=True):
                if value != START_FROM_PARAM:
                    check_start(name, codec, as_float(value))
                if homes.is_on_device(leaf):
                    states[name].append(homes.new_state(leaf, codec, value, files.folder))
                    continue
                array = files.zeros(f"{name}-{label}", codec.shape(leaf.shape), codec.dtype)
                if value == START_FROM_PARAM:
                    codec.store(array, leaf)
                elif value != 0.0 or codec.block > 1:
                    codec.fill(array, as_float(value))
                states[name].append(array)
        return states

    def _given_states(self, name: str, structure: Any) -> list[Array]:
        """The caller's own arrays for a state, in the format that they are in."""
        label = f"state[{name!r}]"
        found = [homes.enter(label, own) for own in tree.leaves_like(self.params, structure, label)]
        self.codecs[name] = []
        for array, leaf, path in zip(found, self.leaves, self.paths, strict=True):
            own = tree.describe(label, path)
            arrays.check_kind(own, array)
            codec = codec_of(array, name, self.chain)
            if codec is None or codec.name not in states_of(leaf.dtype):
                accepted = arrays.listed(states_of(leaf.dtype))
                raise TypeError(
                    f"{own} must have dtype {accepted} for a parameter of {leaf.dtype}, "
                    f"not {array.dtype}"
                )
            arrays.check_stored(own, array, codec.shape(leaf.shape), codec.dtype)
            self.codecs[name].append(codec)
        return found

    def _given(self, label: str, structure: Any, written: bool) -> list[Array]:
        """The caller's arrays, checked: of the parameters' shapes, and what they are used for."""
        found = [homes.enter(label, own) for own in tree.leaves_like(self.params, structure, label)]
        for array, leaf, path in zip(found, self.leaves, self.paths, strict=True):
            name = tree.describe(label, path)
            if not written:
                arrays.check_input(name, array, leaf)
                continue
            arrays.check_writeable(name, array, arrays.outputs_of(leaf.dtype))
            arrays.check_shape(name, array, leaf)
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

    def decoded(self, name: str) -> list[Array | None]:
        """A state of each parameter in the dtype of the arithmetic."""
        if name not in self.states:
            return [None] * len(self.leaves)
        found: list[Array | None] = []
        for leaf, array, codec in zip(self.leaves, self.states[name], self.codecs[name], strict=True):
            numbers = codec.decode(homes.to_host(array), compute_dtype(str(name_of(leaf.dtype))))
            found.append(numbers[: leaf.size].reshape(leaf.shape))
        return found

    def codecs_of(self, row: int, gradient: Codec) -> list[Codec]:
        """How parameter, gradient and slots of one of the parameters are stored."""
        arrays_ = {"input": iter(self.inputs), "output": iter(self.outputs)}
        states = iter(self.codecs.values())
        found = [floats_of(self.leaves[row]), gradient]
        for slot in (slot for part in self.parts for slot in part.slots):
            if slot.kind == "state":
                found.append(next(states)[row])
            else:
                found.append(floats_of(next(arrays_[slot.kind])[row]))
        return found

    def storage(self, row: int, gradient: str) -> tuple[Storage, ...]:
        """The same for the compiler, with how each is rounded."""
        kinds = ["state", "input", *(slot.kind for part in self.parts for slot in part.slots)]
        codecs = self.codecs_of(row, floats(gradient))
        # A copy is as near to what was copied as can be.
        return tuple(
            self._formats.storage(codec) if kind == "state" else Storage(codec.name)
            for kind, codec in zip(kinds, codecs, strict=True)
        )

    @property
    def dithers(self) -> bool:
        """Whether anything is rounded at random."""
        codecs = [*map(floats_of, self.leaves), *(own for each in self.codecs.values() for own in each)]
        return any(self._formats.storage(codec).dithered for codec in codecs)

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


def floats_of(array: Array) -> Float:
    """The codec of an array of plain numbers."""
    return floats(str(name_of(array.dtype)))


def make_groups(
    params: Any, chain: Any, state: dict[str, Any], files: StateFiles, formats: Formats
) -> list[Group]:
    """One group for a chain; for a list of chains one for each entry of the list `params`."""
    if isinstance(chain, (list, tuple)):
        if not isinstance(params, (list, tuple)) or len(params) != len(chain):
            raise ValueError(f"params must be a list with {len(chain)} entries, one for each chain")
        sections = [
            (own, _as_chain(part), f"params[{i}]", {name: all_[i] for name, all_ in state.items()})
            for i, (own, part) in enumerate(zip(params, chain, strict=True))
        ]
    else:
        sections = [(params, _as_chain(chain), "params", state)]
    known = {name for _, part, _, _ in sections for name in part.states()}
    unknown = sorted(state.keys() - known)
    if unknown:
        raise ValueError(f"state has unknown names {unknown}; the chain has {sorted(known)}")
    return [Group(*section, files, formats) for section in sections]


def _as_chain(chain: Any) -> Chain:
    if isinstance(chain, Transform):
        return make_chain(chain)
    if not isinstance(chain, Chain):
        raise TypeError(f"chain must come from fastopt.chain, not be {type(chain).__name__}")
    return chain
