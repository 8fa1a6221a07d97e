"""How an optimizer steps on a device: its gradients are found and checked, its launches started."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from fastopt.arrays import checks, placement
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import DeviceArray, enter
from fastopt.arrays.tree import Structure
from fastopt.changes import Change, make
from fastopt.codecs.formats import name_of
from fastopt.executors.cpu.header_check import identities
from fastopt.executors.cuda import device, streams
from fastopt.executors.cuda.batches import Batch, LaunchHyper, ManyArrays, OneArray
from fastopt.executors.cuda.clip_decision import ClipDecision
from fastopt.executors.cuda.kernel_source import KernelVariant
from fastopt.executors.cuda.kernels import kernels
from fastopt.executors.norm import blocks
from fastopt.steps import device_gradients

NONE = b"none"  # the identities of no objects


class DeviceSteps:
    """The work of an optimizer whose arrays are on a device.

    Parameters
    ----------
    structure : Structure
        The form of the parameters.
    work : Work
        All arrays in a row, and what is to be done with each.
    guarded : sequence of range
        Memory that no gradient may share.
    watched : bool
        The norm of the gradients is wanted.
    skips : bool
        Steps with a NaN or infinity are left out.
    zero_grad, capturable : bool
    """

    def __init__(
        self,
        structure: Structure,
        work: Any,
        guarded: Sequence[checks.Range],
        *,
        watched: bool,
        skips: bool,
        zero_grad: bool,
        capturable: bool,
    ) -> None:
        self._structure, self._jobs, self._guarded = structure, work, guarded
        self._zero_grad, self._capturable = zero_grad, capturable
        self._skips = skips
        self._leaves: list[DeviceArray] = work.leaves
        self._arrays = [[leaf, *own] for leaf, own in zip(work.leaves, work.slots, strict=True)]
        self._firsts = [0, *accumulate(leaf.size for leaf in self._leaves)]
        self._formats = [str(name_of(leaf.dtype)) for leaf in self._leaves]  # of the gradients
        self._single, self._flat = structure.is_leaf, structure.is_flat_list
        self._names = structure.names("grads")
        spans = sorted((start, stop) for start, stop, _ in guarded if start < stop)
        self._starts = [start for start, _ in spans]
        # What is only read may overlap: let ends rise too, so that they can be bisected.
        self._stops = list(accumulate((stop for _, stop in spans), max))
        self.ordinal = device.ordinal(self._leaves[0]) if self._leaves else 0
        self._decision: ClipDecision | None = None
        with device.on(self.ordinal):
            if watched:
                count = blocks([leaf.size for leaf in self._leaves])
                self._decision = ClipDecision(count, skips, capturable)
        self._batches: list[Any] = []
        self._made: dict[Any, Any] = {}
        self._of_graphs: list[Any] = []  # what they read must stay
        self._objects: list[Any] = []
        self._readers: list[device_gradients.Reader] = []
        self._addresses: list[int] = []
        self._is_fixed = False
        self._numbers_of: Callable[[int], Any]
        self._scales: bool
        self.has_started = False
        self._current_stream = streams.default(None)
        self._ids = NONE
        self.left_out: list[bool] = []
        self.leaves_out = False

    def take_in_order(self) -> None:
        """Find gradients in lists with one for each array, whatever the structure of `params`."""
        self._flat, self._single = True, False

    def arranged(
        self, numbers_of: Callable[[int], Any], scales: bool, formats: list[str] | None = None
    ) -> list[Change]:
        """What sorts the arrays into batches that share their numbers, which `numbers_of` tells by row.

        `formats` are those of the gradients, where they are others than before.
        """
        formats = formats or self._formats
        places: dict[Any, list[int]] = {}
        for row in range(len(self._leaves)):
            job = self._jobs.job(row, formats[row], scales)
            places.setdefault((id(numbers_of(row)), job), []).append(row)
        watched = self._decision is not None
        form = KernelVariant(watched, self._capturable, self._skips and not self._capturable)
        made: dict[Any, Any] = {}
        with device.on(self.ordinal):
            for (host, job), rows in places.items():
                key, gradient = (*rows, host, job), formats[rows[0]]
                made[key] = self._made.get(key) or self._make_batch(
                    rows, gradient, job, numbers_of(rows[0]), form
                )
        new: dict[str, Any] = {"_made": made, "_batches": list(made.values()), "_formats": formats}
        new |= {"_numbers_of": numbers_of, "_scales": scales}
        new |= {"_ids": NONE, "_readers": []}  # to be bound again
        return [partial(vars(self).update, new)]

    @property
    def source(self) -> str:
        """The kernel of the first arrays and the function that it calls for each element."""
        return str(self._batches[0].source)

    def _make_batch(
        self, rows: list[int], gradient: str, job: Any, host: Any, form: KernelVariant
    ) -> Batch:
        made = kernels(job, form, device.architecture())
        kind = OneArray if len(rows) == 1 else ManyArrays
        control = self._decision.address if self._decision is not None else 0
        own = [self._arrays[row] for row in rows]
        firsts = [self._firsts[row] for row in rows]
        return kind(rows, own, firsts, gradient, made, self._numbers(host), control)

    def _numbers(self, host: Any) -> LaunchHyper:
        """The hyperparameters of a launch, from what is known of them on the host."""
        return LaunchHyper(host, self._capturable)

    def bind(self, grads: Any) -> None:
        """Find the gradients, check those that are new, and take their addresses.

        Raises
        ------
        TypeError, ValueError
            One of them is not acceptable. Nothing was changed.
        """
        found = self._find(grads)
        ids = identities(found) if self._is_fixed else NONE
        if self._is_fixed and ids == self._ids:
            return
        self._ids = NONE  # until all is bound: whatever interrupts this, the next step binds anew
        if not self._bind_alike(found):
            entered = self._check(found)
            self._expect(entered)
            self._bind([0 if array is None else array.address for array in entered], entered)
            given = [array for array in found if array is not None]
            self._is_fixed = all(map(device_gradients.is_fixed, given))
            self._readers = [
                device_gradients.absent if g is None else device_gradients.reader(g) for g in found
            ]
            ids = identities(found) if self._is_fixed else NONE
        # What the caller frees is not to be kept from others, and an object's number is good only
        # while it is there: of arrays that can have other memory neither is held.
        self._objects, self._ids = (found, ids) if self._is_fixed else ([], NONE)

    def _bind_alike(self, found: list[Any]) -> bool:
        """Take gradients that are like the last ones, in other places; False to check them anew."""
        if not self._readers or self._zero_grad:
            return False
        try:
            addresses = [read(g) for read, g in zip(self._readers, found, strict=True)]
        except (AttributeError, RuntimeError):  # they do not have what is asked for
            return False
        if addresses == self._addresses:
            return True
        for row, address in enumerate(addresses):
            if address == self._addresses[row]:
                continue
            if not self._is_free(row, address):
                return False
        self._bind(addresses, None)
        return True

    def _is_free(self, row: int, address: int) -> bool:
        """Whether a gradient can be there: aligned, on this device, and apart from what is written."""
        leaf = self._leaves[row]
        return (
            address > 0
            and address % self._itemsizes[row] == 0
            and not self._meets_guarded(address, leaf.size * self._itemsizes[row])
            and device.ordinal_at(address) == self.ordinal
        )

    def _bind(self, addresses: list[int], entered: list[DeviceArray | None] | None) -> None:
        """Have the launches take the gradients from there; `entered` are those that were checked."""
        known, self._readers = self._readers, []
        with device.on(self.ordinal):
            for batch in self._batches:
                batch.bind([addresses[row] for row in batch.rows])
            if entered is not None:
                self._given = [array is not None for array in entered]
            if self._decision is not None:
                sizes = [leaf.size for leaf in self._leaves]
                self._decision.arrange(self._batches, sizes, self._given)
        self._addresses = addresses
        if entered is None:
            self._readers = known
            return
        sample = next((array for array in entered if array is not None), None)
        self._current_stream = streams.default(sample)
        self._itemsizes = [1 if array is None else array.itemsize for array in entered]
        self.left_out = [
            not own and leaf.size > 0 for own, leaf in zip(self._given, self._leaves, strict=True)
        ]
        self.leaves_out = any(self.left_out)

    def _find(self, grads: Any) -> list[Any]:
        if self._single:
            return [grads]
        if self._flat and type(grads) is list:
            found = grads.copy()
            if len(found) == len(self._leaves):  # of the copy: that list stays as it is
                return found
        return self._structure.match(grads, "grads")

    def _check(self, found: list[Any]) -> list[DeviceArray | None]:
        names, leaves = self._names, list[Any](self._leaves)
        entered: list[Any] = [
            None if g is None else enter(n, g) for n, g in zip(names, found, strict=True)
        ]
        for name, array, param in zip(names, entered, leaves, strict=True):
            if array is None and not self._single:
                continue
            if not isinstance(array, (np.ndarray, DeviceArray)):
                kind = type(array).__name__
                raise TypeError(f"{name} must be an array on the device of its parameter, not {kind}")
            checks.check_gradient(name, array, param)
            if not isinstance(array, DeviceArray) or device.ordinal(array) != self.ordinal:
                place = f"on CUDA device {self.ordinal}, where its parameter is"
                raise ValueError(f"{name} must be {place}: it is {placement.where(array)}")
            if self._zero_grad:
                checks.check_writeable(name, array)
        given = [(n, a) for n, a in zip(names, entered, strict=True) if a is not None]
        for name, array in given:
            if self._meets_guarded(array.address, array.nbytes):
                checks.check_apart(name, array, self._guarded)  # raises the error
        if self._zero_grad:
            checks.check_distinct(checks.memory_range(name, array) for name, array in given)
        return entered

    def _expect(self, entered: list[DeviceArray | None]) -> None:
        """Gradients in another format than before need other kernels."""
        names = [
            before if array is None else str(name_of(array.dtype))
            for before, array in zip(self._formats, entered, strict=True)
        ]
        if names != self._formats:
            make(self.arranged(self._numbers_of, self._scales, names))

    def _meets_guarded(self, address: int, size: int) -> bool:
        """Whether a gradient shares memory with what a step writes, by bisection."""
        low = bisect_right(self._stops, address)
        return size > 0 and low < len(self._stops) and self._starts[low] < address + size

    def expect(self, step: int, skipped: int) -> None:
        """The number of the next step if so many were skipped, where it is not known better."""
        if self._skips:
            for work in self._work():
                work.expect(step, skipped)

    def start(self, stream: Any, factor: float, limit: float) -> bool:
        """Launch a step with the gradients that were bound; False if it was recorded, not run."""
        where = self.stream(stream)
        if device.current() == self.ordinal:
            return self._start(where, factor, limit)
        with device.on(self.ordinal):
            return self._start(where, factor, limit)

    def _start(self, where: int, factor: float, limit: float) -> bool:
        if self._decision is not None:
            self._decision.set_numbers(factor, limit)
        capturing = self._capturable and device.is_capturing(where)
        if not capturing:
            self._prepare(where)
        elif not all(work.is_ready() for work in self._work()):
            raise RuntimeError(
                "a step can be captured only with the gradients of the step before: take one step "
                "with the same arrays, then capture the next"
            )
        else:
            self._of_graphs.append(self._batches)
        for work in self._work():
            work.start(where, capturing)
        self.has_started = True
        return not capturing

    def advance(self, stream: Any, factor: float, limit: float) -> None:
        """Have the device know the numbers of the next step, for a graph that was captured."""
        with device.on(self.ordinal):
            if self._decision is not None:
                self._decision.set_numbers(factor, limit)
            self._prepare(self.stream(stream))

    def start_at(self, first: int) -> None:
        """Count the elements from another number than 0: what is rounded at random depends on it."""
        self._firsts = [first + own for own in self._firsts]
        self._made.clear()
        make(self.arranged(self._numbers_of, self._scales))

    def measure(self, stream: int) -> Array:
        """Sums over the gradients, see `Decision.add`."""
        with device.on(self.ordinal):
            return self._decides().add(stream)

    def decide(self, size: float, factor: float, skipped: bool) -> None:
        """Have the next parts take this decision of the host."""
        with device.on(self.ordinal):
            self._decides().take(size, factor, skipped)
        self.has_started = True

    def run(self, start: int, stop: int, stream: int) -> None:
        """Step a part of the only array, and wait until that is done."""
        known, self._ids, self._readers = (self._ids, self._readers), NONE, []
        with device.on(self.ordinal):
            for batch in self._batches:
                batch.prepare(stream)
                batch.start_part(start, stop, stream)
            device.synchronize(stream)
        self._ids, self._readers = known

    def _decides(self) -> ClipDecision:
        if self._decision is None:
            raise AssertionError("nothing was to be decided")
        return self._decision

    def stream(self, stream: Any) -> int:
        """The handle of the stream to work on with the gradients that were bound."""
        return self._current_stream() if stream is None else streams.handle(stream)

    def _work(self) -> list[Any]:
        return self._batches if self._decision is None else [self._decision, *self._batches]

    def _prepare(self, where: int) -> None:
        for work in self._work():
            work.prepare(where)

    def decided(self) -> tuple[float, bool, int]:
        """Norm, whether the last step was skipped, and how many ever were: waits for the device."""
        with device.on(self.ordinal):
            return self._decides().read()
