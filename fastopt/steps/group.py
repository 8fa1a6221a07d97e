"""A group: parameters that share a chain, with their states, inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from fastopt.arrays import checks, placement, tree
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import AnyArray, DeviceArray, leave
from fastopt.arrays.memory_maps import StateFiles
from fastopt.arrays.object_headers import Header, headers_of
from fastopt.arrays.tree import Structure, Tree
from fastopt.codecs.base import Codec
from fastopt.codecs.floats import Float, floats
from fastopt.codecs.formats import compute_dtype, name_of, outputs_of
from fastopt.executors import reference
from fastopt.kernels.identity import frozen
from fastopt.kernels.job import CORRECTION, ArrayFormat
from fastopt.kernels.terms import Term, terms_of
from fastopt.steps.constants import check_start
from fastopt.steps.state_formats import StateFormats, codec_of, states_of
from fastopt.text import listed
from fastopt.transforms.base import Chain
from fastopt.transforms.states import START_FROM_PARAM
from fastopt.validation import as_float


class Group:
    """Parameters, states, inputs and outputs of one chain.

    Parameters
    ----------
    structure : Structure
        The form of its parameters.
    params : list
        They, in the order of `structure`.
    chain : Chain
    label : str
        How errors name the parameters.
    state : mapping
        The caller's own state arrays, by name.
    files : StateFiles
        Makes new states.
    formats : StateFormats
        How they are stored.
    """

    def __init__(
        self,
        structure: Structure,
        params: list[object],
        chain: Chain,
        label: str,
        state: Mapping[str, object],
        files: StateFiles,
        formats: StateFormats,
    ) -> None:
        self.structure = structure
        self.chain = chain
        # Frozen copies: kernels compiled later, for other formats, use the same functions.
        self.parts = chain.parts(frozen)
        self.stats: tuple[Term, ...] = ()  # what is added up to be reported
        self.no_gradient = [
            frozen(t.no_gradient) if callable(t.no_gradient) else t.no_gradient
            for t in chain.transforms
        ]
        self.paths = structure.paths
        self.names = structure.names(label)
        self.leaves: list[Array] = [
            placement.enter(name, leaf) for name, leaf in zip(self.names, params, strict=True)
        ]
        for name, leaf in zip(self.names, self.leaves, strict=True):
            checks.check_writeable(name, leaf)
        for dtype in {compute_dtype(str(name_of(leaf.dtype))) for leaf in self.leaves}:
            reference.probe(self.parts, dtype)
        self._formats = formats
        self.codecs: dict[str, list[Codec]] = {}
        self.corrections = [formats.correction(leaf) for leaf in self.leaves]
        names = [*chain.states(), CORRECTION] if any(self.corrections) else [*chain.states()]
        self.given_states = [name for name in names if state.get(name) is not None]
        self.states = self._make_states(state, files)
        # The arrays of each input and output, with its name.
        self.inputs = [
            (name, self._given(name, arrays, False)) for t in chain for name, arrays in t.inputs.items()
        ]
        self.outputs = [
            (name, self._given(name, arrays, True)) for t in chain for name, arrays in t.outputs.items()
        ]
        # The kind, arrays and codecs of each slot of the chain, in the order of the table's columns.
        slots: dict[str, Iterator[tuple[list[Array], list[Codec]]]] = {
            "state": iter([(self.states[name], self.codecs[name]) for name in chain.states()]),
            "input": ((arrays, list(map(floats_of, arrays))) for _, arrays in self.inputs),
            "output": ((arrays, list(map(floats_of, arrays))) for _, arrays in self.outputs),
        }
        kinds = [slot.kind for part in self.parts for slot in part.slots]
        self._columns = [(kind, *next(slots[kind])) for kind in kinds]

    def _make_states(self, state: Mapping[str, object], files: StateFiles) -> dict[str, list[Array]]:
        states = self._make_corrections(state, files)
        for name, value in self.chain.states().items():
            if name in self.given_states:
                states[name] = self._take_states(name, state[name])
                continue
            states[name] = []
            self.codecs[name] = [self._formats.codec(name, self.chain, leaf) for leaf in self.leaves]
            each = zip(self.leaves, self.names, self.codecs[name], strict=True)
            for index, (leaf, label, codec) in enumerate(each):
                start: float | AnyArray
                if value == START_FROM_PARAM and self.corrections[index] is not None:
                    start = self._joined(index, states[CORRECTION][index])
                elif value == START_FROM_PARAM:
                    start = leaf
                else:
                    start = as_float(value)
                    check_start(name, codec, start)
                states[name].append(_new_state(f"{name}-{label}", leaf, codec, start, files))
        return states

    def _make_corrections(self, state: Mapping[str, object], files: StateFiles) -> dict[str, list[Any]]:
        """The corrections of parameters, as a state by its name, if there are any."""
        if not any(self.corrections):
            return {}
        if CORRECTION in self.chain.states():
            raise ValueError(
                f"master_bits must be None with a chain that has a state {CORRECTION!r}: it is the "
                "name of what master_bits keeps"
            )
        self.codecs[CORRECTION] = self.corrections  # type: ignore[assignment]
        if CORRECTION in self.given_states:
            return {CORRECTION: self._take_corrections(state[CORRECTION])}
        each = zip(self.leaves, self.names, self.corrections, strict=True)
        return {
            CORRECTION: [
                codec and _new_state(f"{CORRECTION}-{label}", leaf, codec, 0.0, files)
                for leaf, label, codec in each
            ]
        }

    def _take_corrections(self, structure: object) -> list[AnyArray | None]:
        """The caller's own corrections, None for parameters without one."""
        label, arrays = f"state[{CORRECTION!r}]", list[AnyArray | None]()
        matched = self.structure.match(structure, label)
        for array, leaf, path, codec in zip(
            matched, self.leaves, self.paths, self.corrections, strict=True
        ):
            name = tree.describe(label, path)
            if codec is None:
                if array is not None:
                    raise ValueError(f"{name} must be None for a parameter of {leaf.dtype}")
                arrays.append(None)
                continue
            entered = placement.enter(name, array)
            checks.check_stored(name, entered, leaf.shape, codec.dtype)
            arrays.append(entered)
        return arrays

    def _joined(self, index: int, correction: AnyArray) -> Array:
        """A parameter and its correction in float32."""
        codec = self.corrections[index]
        assert codec is not None
        leaf = placement.to_host(self.leaves[index])
        return codec.join(leaf, placement.to_host(correction)).reshape(leaf.shape)

    def decoded_param(self, index: int) -> Array:
        """A copy of a parameter in the dtype of the arithmetic, its correction included."""
        if self.corrections[index] is not None:
            return self._joined(index, self.states[CORRECTION][index])
        leaf = placement.to_host(self.leaves[index])
        numbers = floats_of(leaf).decode(leaf, compute_dtype(str(name_of(leaf.dtype))))
        return numbers.reshape(leaf.shape)

    def set_param(self, index: int, numbers: Array) -> None:
        """Write numbers to a parameter, and to its correction what it cannot hold."""
        leaf, codec = self.leaves[index], self.corrections[index]
        on_device = placement.is_on_device(leaf)
        half = np.empty(leaf.shape, leaf.dtype) if on_device else leaf
        if codec is None:
            floats_of(leaf).store(half, numbers)
        else:
            correction = self.states[CORRECTION][index]
            rest = np.empty(leaf.shape, codec.dtype) if on_device else correction
            codec.store_divided(half, rest, numbers)
            if on_device:
                placement.copy(correction, rest)
        if on_device:
            placement.copy(leaf, half)

    def restart(self, index: int) -> None:
        """Let the states of a parameter that start from it do so again, but for the caller's own."""
        for name, start in self.chain.states().items():
            if start != START_FROM_PARAM or name in self.given_states:
                continue
            array, codec = self.states[name][index], self.codecs[name][index]
            on_device = placement.is_on_device(array)
            stored = np.empty(array.shape, array.dtype) if on_device else array
            codec.store(stored, self.decoded_param(index))
            if on_device:
                placement.copy(array, stored)

    def _take_states(self, name: str, structure: object) -> list[Array]:
        """The caller's own arrays for a state, in the format that they are in."""
        label = f"state[{name!r}]"
        arrays = [placement.enter(label, array) for array in self.structure.match(structure, label)]
        self.codecs[name] = []
        for array, leaf, path in zip(arrays, self.leaves, self.paths, strict=True):
            label_of_array = tree.describe(label, path)
            checks.check_kind(label_of_array, array)
            codec = codec_of(array, name, self.chain)
            if codec is None or codec.name not in states_of(leaf.dtype):
                accepted = listed(states_of(leaf.dtype))
                raise TypeError(
                    f"{label_of_array} must have dtype {accepted} for a parameter of {leaf.dtype}, "
                    f"not {array.dtype}"
                )
            checks.check_stored(label_of_array, array, codec.shape(leaf.shape), codec.dtype)
            self.codecs[name].append(codec)
        return arrays

    def _given(self, label: str, structure: object, written: bool) -> list[Array]:
        """The caller's arrays, checked: of the parameters' shapes, and what they are used for."""
        arrays = [placement.enter(label, array) for array in self.structure.match(structure, label)]
        for array, leaf, path in zip(arrays, self.leaves, self.paths, strict=True):
            name = tree.describe(label, path)
            if not written:
                checks.check_input(name, array, leaf)
                continue
            checks.check_writeable(name, array, outputs_of(leaf.dtype))
            checks.check_shape(name, array, leaf)
        return arrays

    def slots(self) -> list[list[Array]]:
        """For each parameter its correction, if it has one, then the arrays of the chain's slots."""
        slots = [[arrays[i] for _, arrays, _ in self._columns] for i in range(len(self.leaves))]
        if CORRECTION in self.codecs:
            for slots_of_row, correction in zip(slots, self.states[CORRECTION], strict=True):
                slots_of_row[:0] = [] if correction is None else [correction]
        return slots

    @property
    def params(self) -> Tree:
        """The user's parameters, in read-only containers."""
        return self.structure.build_read_only(map(leave, self.leaves))

    def shown(self, name: str) -> list[object]:
        """A state of each parameter for the user.

        Of what fastopt made it is a view: what becomes of the header of that array does not matter.
        """
        if name not in self.states:
            return [None] * len(self.leaves)
        states = self.states[name]
        if name in self.given_states or any(map(placement.is_on_device, states)):
            return [leave(array) for array in states]
        return [None if array is None else array.view() for array in states]

    def decoded(self, name: str) -> list[Array | None]:
        """A state of each parameter in the dtype of the arithmetic."""
        if name not in self.states:
            return [None] * len(self.leaves)
        every: list[Array | None] = []
        for leaf, array, codec in zip(self.leaves, self.states[name], self.codecs[name], strict=True):
            if array is None:
                every.append(None)
                continue
            numbers = codec.decode(placement.to_host(array), compute_dtype(str(name_of(leaf.dtype))))
            every.append(numbers[: leaf.size].reshape(leaf.shape))
        return every

    def codecs_of(self, row: int, gradient: Codec) -> list[Codec]:
        """How parameter, gradient, correction and slots of one of the parameters are stored."""
        codecs = [floats_of(self.leaves[row]), gradient, *filter(None, [self.corrections[row]])]
        return [*codecs, *(codecs[row] for *_, codecs in self._columns)]

    def storage(self, row: int, gradient: str) -> tuple[ArrayFormat, ...]:
        """The same for the compiler, with how each is rounded."""
        is_split = self.corrections[row] is not None
        first = [CORRECTION, "input", CORRECTION] if is_split else ["state", "input"]
        kinds = *first, *(kind for kind, *_ in self._columns)
        codecs = self.codecs_of(row, floats(gradient))
        # A copy is as near to what was copied as can be, and with a correction nothing is lost.
        return tuple(
            self._formats.storage(codec) if kind == "state" else ArrayFormat(codec.name)
            for kind, codec in zip(kinds, codecs, strict=True)
        )

    def headers(self) -> list[list[Header]]:
        """For each parameter, of the arrays beside it that are the caller's: first of all its own."""
        if any(map(placement.is_on_device, self.leaves)):
            return [[] for _ in self.leaves]
        pairs = zip(self.names, self.leaves, strict=True)
        collected = [headers_of(name, leaf, True) for name, leaf in pairs]
        inputs = [(f"state[{name!r}]", self.states[name], True) for name in self.given_states]
        inputs += [(label, arrays, False) for label, arrays in self.inputs]
        inputs += [(label, arrays, True) for label, arrays in self.outputs]
        for label, arrays, written in inputs:
            for path, array, headers in zip(self.paths, arrays, collected, strict=True):
                if array is None:
                    continue
                headers += headers_of(tree.describe(label, path), array, written)
        return collected

    @property
    def terms(self) -> int:
        """How many numbers a step adds up."""
        return len(terms_of(self.parts, self.stats))

    @property
    def dithers(self) -> bool:
        """Whether any array has stochastic rounding."""
        params = zip(self.leaves, self.corrections, strict=True)
        codecs: set[Codec] = {floats_of(leaf) for leaf, correction in params if correction is None}
        codecs |= {codec for name in self.chain.states() for codec in self.codecs[name]}
        return any(self._formats.storage(codec).dithered for codec in codecs)

    def outward(self) -> Iterator[tuple[str, Array]]:
        """The arrays that a step writes, beside the gradients, with names for errors."""
        yield from zip(self.names, self.leaves, strict=True)
        labelled = [(f"state[{name!r}]", arrays) for name, arrays in self.states.items()]
        for label, arrays in [*labelled, *self.outputs]:
            for name, array in zip(self.structure.names(label), arrays, strict=True):
                if array is not None:
                    yield name, array

    def inward(self) -> Iterator[tuple[str, Array]]:
        """The arrays that it only reads, with names for errors."""
        for label, arrays in self.inputs:
            yield from zip(self.structure.names(label), arrays, strict=True)


def _new_state(
    name: str, leaf: AnyArray, codec: Codec, start: float | Array, files: StateFiles
) -> AnyArray:
    """A new array beside a parameter, which starts with a number or with those of an array."""
    if isinstance(leaf, DeviceArray):
        return placement.new_state(leaf, codec, start, files.folder)
    array = files.zeros(name, codec.shape(leaf.shape), codec.dtype)
    if isinstance(start, np.ndarray):
        codec.store(array, start)
    elif start != 0.0 or codec.block > 1:
        codec.fill(array, as_float(start))
    return array


def floats_of(array: Array) -> Float:
    """The codec of an array of plain numbers."""
    return floats(str(name_of(array.dtype)))


def make_groups(
    structure: Structure,
    params: list[object],
    chain: Chain | list[Chain],
    state: Mapping[str, Any],
    files: StateFiles,
    formats: StateFormats,
) -> list[Group]:
    """One group for a chain; for a list of chains one for each entry of the list `params`."""
    sections: list[tuple[Structure, list[object], Chain, str, Mapping[str, object]]] = []
    if isinstance(chain, (list, tuple)):
        if not structure.is_list or len(structure.children) != len(chain):
            raise ValueError(f"params must be a list with {len(chain)} entries, one for each chain")
        for name, entries in state.items():
            if not isinstance(entries, (list, tuple)) or len(entries) != len(chain):
                actual = (
                    f"{len(entries)} entries" if isinstance(entries, (list, tuple)) else repr(entries)
                )
                raise ValueError(
                    f"state[{name!r}] must be a list with {len(chain)} entries, one for each chain "
                    f"(None for one without this state), not {actual:.80}"
                )
        remaining = iter(params)
        for i, (form, part) in enumerate(zip(structure.children, chain, strict=True)):
            own_state = {name: all_[i] for name, all_ in state.items()}
            leaves = list(islice(remaining, len(form)))
            sections.append((form, leaves, part, f"params[{i}]", own_state))
    else:
        sections.append((structure, params, chain, "params", state))
    names = {name for _, _, part, _, _ in sections for name in part.states()} if state else set()
    names |= {CORRECTION} if formats.have_corrections else set()
    if unknown := sorted(state.keys() - names):
        raise ValueError(f"state has unknown names {unknown}; the chain has {sorted(names)}")
    return [Group(*section, files, formats) for section in sections]


def shown_states(structure: Structure, groups: Sequence[Group]) -> Mapping[str, Tree]:
    """The states of all groups by name, each a structure like the parameters."""
    names = dict.fromkeys(name for group in groups for name in group.states)
    arrays = ([array for group in groups for array in group.shown(name)] for name in names)
    states = map(structure.build_read_only, arrays)
    return tree.ReadOnlyDict(zip(names, states, strict=True))
