"""What is decided about a step on the device: whether it is skipped, and the factor of gradients."""

from __future__ import annotations

import numpy as np

from fastopt.executors.cuda import device
from fastopt.executors.cuda.kernel_source import CONTROL_WORDS, SKIP, SKIPPED, factor_offset


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

    def factor_at(self, dtype: str) -> int:
        """The address of the factor in a dtype, float32 or float64."""
        return self.address + factor_offset(dtype)

    def read(self) -> tuple[bool, int]:
        """Whether the step was skipped, and the number of skipped steps; synchronizes."""
        device.synchronize()
        words = np.zeros(CONTROL_WORDS, np.int64)
        device.to_host(words, self.address)
        return bool(words[SKIP]), int(words[SKIPPED])
