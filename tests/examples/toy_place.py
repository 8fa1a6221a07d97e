"""A place for arrays beside memory and CUDA, complete: what CONTRIBUTING asks of a new device.

The device is made up: its memory is a buffer that nobody else reads, and its kernels are the reference
over views of that buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.arrays import placement, places
from fastopt.arrays.device_array import DeviceArray
from fastopt.changes import Change, assign, make
from fastopt.executors import norm
from fastopt.steps import build
from fastopt.steps.clipping import NormClip
from fastopt.steps.gradients import check_gradients
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.stepper import Setup, Stepper

NAME = "toy"
BASE, LINE = 1 << 56, 64  # no address of the host's
MEMORY = np.zeros(1 << 24, np.uint8)


class ToyArray:
    """An array of the device, as its users know it."""

    used = 0

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize
        self.address = BASE + ToyArray.used
        ToyArray.used += -(-max(self.nbytes, 1) // LINE) * LINE

    def __reduce__(self) -> Any:
        return upload, (download(self),)


def upload(array: Any) -> ToyArray:
    """Copy an array to the device."""
    uploaded = ToyArray(array.shape, array.dtype)
    numbers(uploaded)[:] = array.reshape(-1)
    return uploaded


def download(array: ToyArray) -> np.ndarray[Any, Any]:
    """Copy an array from the device."""
    return numbers(array).reshape(array.shape).copy()


def numbers(array: ToyArray | DeviceArray) -> np.ndarray[Any, Any]:
    """What a kernel sees: the elements in a row."""
    first = array.address - BASE
    return MEMORY[first : first + array.nbytes].view(array.dtype)


def enter(label: str, array: Any) -> DeviceArray | None:
    """An array of the device as fastopt sees it; None for any other."""
    if not isinstance(array, ToyArray):
        return None
    return DeviceArray(array, array.shape, array.dtype, array.address, place=NAME)


class ToyPlace:
    """How arrays there are made, filled and copied (`fastopt.arrays.places.Place`)."""

    EXECUTORS = ("auto",)

    def where(self, array: DeviceArray) -> str:
        return "on the toy device"

    def empty(self, like: DeviceArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return enter("new", ToyArray(shape, dtype))

    def repeat(self, target: DeviceArray, item: Any) -> None:
        numbers(target)[:] = item[0]

    def copy(self, target: DeviceArray, source: Any) -> None:
        content = numbers(source) if isinstance(source, DeviceArray) else source.reshape(-1)
        numbers(target)[:] = content

    def read(self, host: Any, source: DeviceArray) -> None:
        host[...] = numbers(source).reshape(host.shape)

    def clear(self, array: DeviceArray) -> None:
        MEMORY[array.address - BASE :][: array.nbytes] = 0

    def synchronize(self, array: DeviceArray) -> None:
        pass


class ToyStepper(Stepper):
    """Steps on the device."""

    def __init__(
        self, parameters: ParameterSet, hyper: Hyperparameters, clip: NormClip, setup: Setup
    ) -> None:
        super().__init__(parameters, hyper, clip, setup)
        self.count, self.lags = 0, [0] * len(parameters.leaves)
        self._grads: list[Any] = []

    def begin(self, grads: Any, grad_scale: Any, stream: Any = None) -> None:
        if stream is not None:
            raise ValueError(f"stream must be None, got {stream!r}: this device has none")
        self.prepare(grad_scale)
        names = self.setup.structure.names("grads")
        leaves = self.setup.structure.find(grads, "grads")
        entered = [placement.enter(name, leaf) for name, leaf in zip(names, leaves, strict=True)]
        check_gradients(self.setup, names, entered, self.parameters.leaves)
        present = [pair for pair in zip(names, entered, strict=True) if pair[1] is not None]
        placement.check_one_place([("params", self.parameters.leaves[0]), *present])
        self.limit = self.clip.limit_at(self.count)
        self._grads = entered

    def decide(self) -> bool:
        if not self.clip.is_on:
            return True
        seen = [numbers(grad) for grad in self._grads if grad is not None]
        sums = norm.clip_sums(norm.reference(seen), seen, self.reducer)
        factor = self.clip.conclude(sums, self.grad_scale, self.limit)
        if factor is None:
            return False
        self.hyper.scale_gradients(factor)
        return True

    def run(self, start: int, stop: int) -> None:
        grads, hyper = self._grads, self.hyper
        make(self.parameters.interpret(grads, hyper, self.first, start, stop, view=numbers))

    def end(self) -> None:
        skipped = [int(grad is None) for grad in self._grads]
        make(self.counted(self.count + 1, [a + b for a, b in zip(self.lags, skipped, strict=True)]))
        self._grads = []  # they are their owner's again
        if any(skipped):
            make(self.lagging(self.lags))

    def planned(self, hyper: Hyperparameters, scales: bool) -> list[Change]:
        return []  # the reference reads the hyperparameters of now

    def counted(self, count: int, lags: Sequence[int]) -> list[Change]:
        return [assign(self, "count", count), assign(self, "lags", list(lags))]

    def take_part(self, first: int, reducer: norm.Reducer) -> None:
        self.first, self.reducer = first, reducer

    @property
    def source(self) -> str:
        return "interpreted"


places.register(NAME, ToyPlace, enter)
build.register(NAME, lambda: ToyStepper)
