"""What is decided about a step on the device: whether it is skipped, and the clip factor."""

from __future__ import annotations

import math

import numpy as np

from fastopt.executors.cuda import device
from fastopt.executors.cuda.kernel_source import (
    CONTROL_WORDS,
    FACTOR,
    FACTOR32,
    FINITE,
    NORM,
    SKIP,
    SKIPPED,
)


class Control:
    """Words in device memory, which the kernels of a step read and write.

    Attributes
    ----------
    address : int
    """

    def __init__(self) -> None:
        self._words = device.allocate((CONTROL_WORDS,), np.dtype(np.int64))
        self.address = self._words.address
        device.to_device(self.address, np.zeros(CONTROL_WORDS, np.int64))

    def take(self, size: float, factor: float, skipped: bool) -> None:
        """Replace the clip decision by one of the host, which may know of other processes."""
        words = np.zeros(SKIPPED, np.int64)  # all but the count, which is the device's
        words[[NORM, FACTOR]] = np.array([size, factor]).view(np.int64)
        words[FACTOR32 : FACTOR32 + 1].view(np.float32)[0] = factor
        words[[FINITE, SKIP]] = math.isfinite(size), skipped
        device.to_device(self.address, words)

    def read(self) -> tuple[float, bool, int]:
        """The norm, whether the step was skipped, and the number of skipped steps; synchronizes."""
        device.synchronize()
        words = np.zeros(CONTROL_WORDS, np.int64)
        device.to_host(words, self.address)
        assert words[FINITE] in (0, 1)
        return float(words[NORM : NORM + 1].view(np.float64)[0]), bool(words[SKIP]), int(words[SKIPPED])
