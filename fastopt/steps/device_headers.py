"""The caller's arrays on a device, as they were when the optimizer was built.

A tensor can get other memory later: ``tensor.data = other``, ``resize_`` and ``set_`` free what
launches have the address of. So each step first checks that shape, dtype and address are the same: in
machine code where the library has DLPack's exchange interface, else by attributes. Arrays of Numba, as
the states are that fastopt makes, keep their memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastopt.arrays import checks, placement
from fastopt.arrays.device_array import DeviceArray
from fastopt.executors import launching
from fastopt.executors.exchange import DESCRIBE, Expected, interface
from fastopt.steps.device_gradients import Reader, is_fixed, reader
from fastopt.steps.group import Group


class DeviceHeader(NamedTuple):
    """An array, how it was, and what reads its address if it still is like that."""

    name: str  # for errors
    array: DeviceArray
    written: bool
    read: Reader

    def is_same(self) -> bool:
        """Whether the array surely has not changed."""
        try:
            return self.read(self.array.owner) == self.array.address
        except (AttributeError, RuntimeError):  # it does not have any more what is asked for
            return False

    def check(self) -> None:
        """Raise ValueError if it has changed."""
        if self.is_same():
            return
        name, known = self.name, self.array
        array = placement.enter_like(name, known.owner, known)
        if not isinstance(array, DeviceArray):
            raise ValueError(f"{name} must keep its memory, but {_MOVED}")
        checks.check_kept(name, array, known, self.written, _MOVED)


_MOVED = "has moved to other memory: assign to it in place, or make a new optimizer of it"


class DeviceHeaders:
    """Those of all groups.

    Attributes
    ----------
    expected : Expected
        Of those that compiled code checks.
    others : list of DeviceHeader
        Those that are left to Python.
    """

    def __init__(self, groups: Sequence[Group], compiled: bool) -> None:
        arrays = [(*pair, True) for group in groups for pair in group.outward()]
        arrays += [(*pair, False) for group in groups for pair in group.inward()]
        self._all = list[DeviceHeader]()
        for name, array, written in list[Any](arrays):
            # Without elements it has no memory; the owner may have more than this part.
            if array.size and not is_fixed(owner := array.owner):
                whole = placement.enter_like(name, owner, array)
                self._all.append(DeviceHeader(name, whole, written, reader(owner)))
        self.expected, self.others = Expected.identities([]), self._all
        if compiled and self._all:
            self._expect()

    def _expect(self) -> None:
        """Leave to compiled code all whose library has the interface that the first has."""
        interfaces = [interface(type(header.array.owner)) for header in self._all]
        first = next((each for each in interfaces if each is not None), None)
        if first is None:
            return
        alike = [each is not None and each[DESCRIBE] == first[DESCRIBE] for each in interfaces]
        pairs = list(zip(alike, self._all, strict=True))
        try:
            expected = Expected([header.array.owner for like, header in pairs if like], first)
        except (RuntimeError, BufferError):  # of the library: it cannot describe one of them
            return
        self.expected, self.others = expected, [header for like, header in pairs if not like]

    def check(self) -> None:
        """Raise ValueError if one of them has changed."""
        if not self._all:
            return
        table = self.expected.table
        changed = launching.first_changed()(self.expected.exchange, table) if len(table) else -1
        for header in self.others if changed < 0 else self._all:
            header.check()

    def others_are_same(self) -> bool:
        """Whether what compiled code does not check surely has not changed."""
        return all(header.is_same() for header in self.others)
