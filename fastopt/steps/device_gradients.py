"""Gradients on a device: checked when they are new, and revalidated by attributes in later steps.

To describe itself an array makes a dict, and to check it all takes 30 us. What can differ from step to
step is compared by the attributes that its library has.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property, partial
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np

from fastopt.arrays import placement
from fastopt.arrays.checks import Array, address
from fastopt.arrays.device_array import DeviceArray, enter, library_of
from fastopt.arrays.object_layout import identities, items_of
from fastopt.changes import Change
from fastopt.codecs.formats import name_of
from fastopt.executors.cpu.columns import COUNT, GRAD
from fastopt.executors.cpu.table import CountedTable
from fastopt.executors.cuda import device, streams
from fastopt.executors.exchange import DEVICE, ID, Expected, can_be_negated, interface
from fastopt.steps.gradients import check_gradients
from fastopt.steps.stepper import Setup

Reader: TypeAlias = Callable[[Any], int]  # of an array that may be of another library

NONE = b"none"  # the identities of no objects
NOWHERE = np.zeros(0, np.int64)
OTHER = -1  # it is not like the one that was checked, or does not say so: check it anew


def absent(array: object) -> int:
    """Reader for a missing gradient."""
    return 0 if array is None else OTHER


def reader(array: object) -> Reader:
    """Return a function for the address of another array if it is like this one, else `OTHER`."""
    make: Callable[[object], Reader] = _MAKERS.get(library_of(array), _reader_of_interfaces)
    try:
        return make(array)
    except AttributeError:  # some other array of that library
        return _reader_of_interfaces(array)


def is_fixed(array: object) -> bool:
    """Whether an object never changes its memory, so that its address can be cached.

    An array of an unknown library may be resized, or its memory be given away.
    """
    return library_of(array) == "numba"


def _torch_reader(array: Any) -> Reader:
    kind, shape, dtype, device = type(array), array.shape, array.dtype, array.device
    strides = array.stride()

    def read(other: Any) -> int:
        if (
            type(other) is kind
            and other.dtype is dtype
            and other.shape == shape
            and other.stride() == strides
            and other.device == device
            and not other.is_neg()  # a sign that is yet to be applied
        ):
            return int(other.data_ptr())
        return OTHER

    return read


def _reader_by(address: str, *attributes: str) -> Callable[[object], Reader]:
    """Return a function that makes readers which compare attributes."""
    describe, find = attrgetter(*attributes), attrgetter(address)

    def make(array: object) -> Reader:
        kind, like = type(array), describe(array)
        return lambda other: (
            int(find(other) or 0) if type(other) is kind and describe(other) == like else OTHER
        )

    return make


def _reader_of_interfaces(array: Any) -> Reader:
    kind, name = type(array), "__cuda_array_interface__"
    if not hasattr(array, name):
        return lambda other: OTHER
    _, read_only = getattr(array, name)["data"]
    like = {**getattr(array, name), "data": None}

    def read(other: Any) -> int:
        if type(other) is not kind:
            return OTHER
        attributes = other.__cuda_array_interface__
        address, is_read_only = attributes["data"]
        same = is_read_only == read_only and {**attributes, "data": None} == like
        return int(address or 0) if same else OTHER

    return read


_MAKERS: dict[str, Callable[[object], Reader]] = {
    "torch": _torch_reader,
    "cupy": _reader_by("data.ptr", "shape", "strides", "dtype"),
    "numba": _reader_by("device_ctypes_pointer.value", "shape", "strides", "dtype", "stream"),
}


class DeviceGradients:
    """The gradients of a step on a device: found, checked if they are new, and bound by address.

    Parameters
    ----------
    setup : Setup
    leaves : list of DeviceArray
        The parameters.
    table : CountedTable
        Where the addresses of the gradients are noted.
    ordinal : int
        Their device.
    bind : callable
        ``bind(addresses)`` has launches take the gradients from there; 0 leaves an array out.
    take_formats : callable
        ``take_formats(names)`` makes what gradients in other formats than before need.

    Attributes
    ----------
    formats : list of str
        Of the gradients.
    addresses : array of int64
    has_gradient : list of bool
        Which arrays have one.
    left_out : list of bool
        Which arrays with elements have none,
    leaves_out : bool
        and whether there are any.
    current_stream : callable
        Gives the stream to step on where the caller names none.
    expected : Expected or None
        By what compiled code knows that the gradients of a step are those that are bound.
    moved : array of int64
        Its element is 1 if compiled code may have bound gradients that are not known here.
    formats_of_leaves : list of str
        Of the parameters.
    noted : array of int64
        As `steps.gradients.ListedGradients` has it, for gradients that come in a list,
    is_noted : bool
        and whether the addresses of those of the coming step are in the table already.
    """

    noted: Array
    is_noted = False

    def __init__(
        self,
        setup: Setup,
        leaves: list[DeviceArray],
        table: CountedTable,
        ordinal: int,
        bind: Callable[[Array], None],
        take_formats: Callable[[list[str]], None],
    ) -> None:
        self._setup, self._structure = setup, setup.structure
        self._leaves, self._table, self._ordinal = leaves, table, ordinal
        self._bind_launches, self._take_formats = bind, take_formats
        self._find = list if setup.listed else partial(self._structure.find, name="grads")
        self._single = self._structure.is_leaf
        self._names = self._structure.names("grads")
        self.formats = [str(name_of(leaf.dtype)) for leaf in leaves]
        self.formats_of_leaves = self.formats
        self.expected: Expected | None = None
        self.moved = np.zeros(1, np.int64)
        self._one = ctypes.c_int64()  # takes a number in less time than an array does
        self._one_at = ctypes.addressof(self._one)
        self.addresses = NOWHERE
        self.has_gradient: list[bool] = []
        self._counts: list[int] = []  # of elements to step
        self.left_out: list[bool] = []
        self.leaves_out = False
        self.current_stream = streams.default(None)
        self._itemsizes: list[int] = []
        self._objects: list[object] = []
        self._ids, self._readers = NONE, list[Reader]()
        self._read: list[int] = []  # what they gave the last time
        self._is_fixed = False

    @property
    def forget(self) -> Change:
        """Forgets the bound gradients, so that the next ones are bound again."""
        known: dict[str, object] = {"_ids": NONE, "_readers": [], "expected": None}
        return partial(vars(self).update, {**known, "addresses": NOWHERE})

    def enter(self, grads: Any) -> tuple[list[object], int]:
        """The gradients in a list, and where the addresses of these objects are."""
        if self.is_noted:
            return grads, address(self.noted)
        if self._single:
            self._one.value = id(grads)
            return grads, self._one_at
        arrays = self._find(grads)
        return arrays, items_of(arrays)

    def which(self, grads: object) -> Array:
        """Which arrays get a gradient: not checked yet."""
        if self.is_noted:
            return np.equal(self.noted, 0)
        arrays = [grads] if self._single else self.enter(grads)[0]
        return np.array([grad is not None for grad in arrays], np.bool_)

    def take(self, grads: Any) -> None:
        """Find the gradients, check those that are new, and bind their addresses.

        Raises
        ------
        TypeError, ValueError
            One of them is not acceptable. Nothing was changed.
        """
        if self.is_noted:
            self.is_noted = False
            self._take_noted()
            return
        arrays = self._find(grads)
        ids = identities(arrays) if self._is_fixed else NONE
        if self._is_fixed and ids == self._ids:
            return
        self._ids = NONE  # until all is bound: whatever interrupts this, the next step binds anew
        if self.expected is not None and self._is_fixed:
            self.expected.table[:, ID] = 0  # until the new ones are held: numbers are used again
        if not self._take_alike(arrays):
            self._take_anew(arrays)
            ids = identities(arrays) if self._is_fixed else NONE
        self._table.rows[:, COUNT] = self._counts  # compiled code may have noted others, in vain
        # What the caller frees is not to be kept from others, and an object's number is good only
        # while it is there: of arrays that can have other memory neither is held.
        self._objects, self._ids = (arrays, ids) if self._is_fixed else ([], NONE)
        if self.expected is not None and self._is_fixed:
            self.expected.table[:, ID] = list(map(id, arrays))

    def _take_noted(self) -> None:
        """Bind gradients that compiled code checked, whose addresses it noted in the table."""
        self._ids, self._readers, self._is_fixed = NONE, [], False
        self.expected = self._of_leaf
        if self.formats != self.formats_of_leaves:
            self._take_formats(self.formats_of_leaves)
        if not len(self.addresses):
            self.current_stream = streams.default(self._leaves[0])
        addresses, has_gradient = self._table.rows[:, GRAD].copy(), [True] * len(self._leaves)
        if self.noted.any():
            addresses[self.noted != 0] = 0
            has_gradient = (self.noted == 0).tolist()
        if has_gradient != self.has_gradient or not np.array_equal(addresses, self.addresses):
            self._bind(addresses, has_gradient)

    def _bind(self, addresses: Array, has_gradient: list[bool]) -> None:
        """Bind the gradients; until all is bound, whatever interrupts this, none count as bound."""
        self.addresses = NOWHERE
        if has_gradient != self.has_gradient:
            self._note_which(has_gradient)
        self._bind_launches(addresses)
        self.addresses = addresses

    def _note_which(self, has_gradient: list[bool]) -> None:
        pairs = list(zip(has_gradient, self._leaves, strict=True))
        left_out = [not has and leaf.size > 0 for has, leaf in pairs]
        new: dict[str, object] = {"has_gradient": has_gradient, "left_out": left_out}
        new |= {"leaves_out": any(left_out), "_counts": [leaf.size * has for has, leaf in pairs]}
        vars(self).update(new)

    def _take_alike(self, arrays: list[object]) -> bool:
        """Bind gradients like the previous ones at other addresses; False if they must be checked."""
        read = self._addresses_of(arrays)
        if read is None:
            return False
        if read == self._read:
            return True
        readers, self._readers, addresses = self._readers, [], np.array(read, np.int64)
        self._bind(addresses, self.has_gradient)
        self._read, self._readers = read, readers
        return True

    def _addresses_of(self, arrays: list[object]) -> list[int] | None:
        """The addresses of gradients that are like the previous ones; None if they must be checked."""
        if not self._readers or self._setup.zero_grad:
            return None
        try:
            read = [read(g) for read, g in zip(self._readers, arrays, strict=True)]
        except (AttributeError, RuntimeError):  # they do not have what is asked for
            return None
        for row, (new, bound) in enumerate(zip(read, self._read, strict=True)):
            if new != bound and not self._is_free(row, new):
                return None
        return read

    def note_alike(self, arrays: Any) -> bool:
        """Note the addresses of other arrays like the previous ones, for compiled code to bind.

        False for arrays that can change their memory, and for those that must be checked.
        """
        expected = self.expected
        if expected is None or not self._is_fixed:
            return False
        if self._single:
            arrays = [arrays]
        read = self._addresses_of(arrays)
        if read is None:
            return False
        self.moved[0] = 1  # before anything changes
        expected.table[:, ID] = 0  # until the new ones are held: numbers are used again
        self._table.rows[:, GRAD] = self._read = read
        self._objects = arrays
        expected.table[:, ID] = list(map(id, arrays))
        return True

    def _is_free(self, row: int, address: int) -> bool:
        """Whether a gradient may be there: aligned, on this device, apart from written arrays."""
        size = self._itemsizes[row]
        return (
            address > 0
            and address % size == 0
            and not self._setup.guarded.meets(address, address + self._leaves[row].size * size)
            and device.ordinal_at(address) == self._ordinal
        )

    def _take_anew(self, arrays: list[object]) -> None:
        entered = self._check(arrays)
        names = [
            known if array is None else str(name_of(array.dtype))
            for known, array in zip(self.formats, entered, strict=True)
        ]
        if names != self.formats:
            self._take_formats(names)
        self._readers, self.expected = [], None
        addresses = np.array([0 if a is None else a.address for a in entered], np.int64)
        self._bind(addresses, [array is not None for array in entered])
        self._read = addresses.tolist()
        sample = next((array for array in entered if array is not None), None)
        self.current_stream = streams.default(sample)
        self._itemsizes = [1 if array is None else array.itemsize for array in entered]
        self._is_fixed = all(is_fixed(array) for array in arrays if array is not None)
        self._readers = [absent if array is None else reader(array) for array in arrays]
        self.expected = None if any(array is None for array in arrays) else self._expect(arrays)

    def _expect(self, arrays: list[Any]) -> Expected | None:
        """By what compiled code knows these gradients, None if it cannot."""
        if self._is_fixed:
            return Expected.identities(arrays)
        exchange = interface(type(arrays[0]))
        if exchange is None or any(type(array) is not type(arrays[0]) for array in arrays):
            return None
        if library_of(arrays[0]) == "torch" and any(can_be_negated(array.stride()) for array in arrays):
            return None
        return Expected(arrays, exchange)

    @cached_property
    def _of_leaf(self) -> Expected | None:
        """Where gradients are noted, compiled code only has to know their library and device."""
        owner = self._leaves[0].owner
        exchange = interface(type(owner))
        return None if exchange is None else Expected([owner], exchange)

    @property
    def stream(self) -> int:
        """The current stream, or the negative number of a device for which compiled code asks."""
        if self._is_fixed or self.expected is None:
            return self.current_stream()
        return -int(self.expected.table[0, DEVICE])

    def _check(self, arrays: list[object]) -> list[DeviceArray | None]:
        names = self._names
        entered: list[Any] = [
            None if g is None else enter(n, g) for n, g in zip(names, arrays, strict=True)
        ]
        for name, array in zip(names, entered, strict=True):
            if array is None and not self._single:
                continue
            if not isinstance(array, (np.ndarray, DeviceArray)):
                kind = type(array).__name__
                raise TypeError(f"{name} must be an array on the device of its parameter, not {kind}")
        check_gradients(self._setup, names, entered, self._leaves)
        for name, array in zip(names, entered, strict=True):
            if array is None or (isinstance(array, DeviceArray) and not array.size):
                continue
            if not isinstance(array, DeviceArray) or device.ordinal(array) != self._ordinal:
                place = f"on CUDA device {self._ordinal}, where its parameter is"
                raise ValueError(f"{name} must be {place}: it is {placement.where(array)}")
        return entered
