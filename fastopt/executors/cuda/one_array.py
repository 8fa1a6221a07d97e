"""The launches over one array."""

from __future__ import annotations

from typing import Any

from fastopt.arrays.checks import Array, address
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.launches import NOT_PREPARED, Launch, LaunchRow, WordRow


class OneArray(Batch):
    """A single array: its addresses are kernel arguments."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.size = int(self._sizes[0])
        # Asked for by every new gradient, so not by arrays of NumPy.
        self._fixed_aligned = bool(self._aligned()[0])
        self._alignment = int(self._alignments[1])
        self._current: tuple[Launch, int, int] | None = None
        self._gradient, self._is_wide, self._column = 0, False, 0  # 0 is as aligned as can be
        # Compile the kernel for aligned gradients now, so that errors are raised here.
        self._choose(self._fixed_aligned, self.size)

    def _choose(self, wide: bool, size: int, part: bool = False) -> tuple[Launch, int, int]:
        """The launch for `size` elements, its number of threads, and the index of the first address.

        A `part` has launches of its own, so that whatever interrupts it, those of whole steps stay.
        """
        count = self._addresses.shape[1] + self._others.shape[1]
        if not wide:
            launch = self._launch("scalar", 1 + count, part)
            launch.words[0] = size
            return launch, self.kernels.threads(size, aligned=False), 1
        launch = self._launch("wide", 2 + count, part)
        launch.words[:2] = size, size // self.kernels.unit
        return launch, self.kernels.threads(size, aligned=True), 2

    def bind(self, addresses: Array, capturing: bool = False) -> bool:
        """Take the address of the gradient; 0 leaves the array out. Whether `launch` is another."""
        gradient = addresses.item(0)
        if self._current is not None and gradient == self._gradient:
            return False
        wide = self._fixed_aligned and gradient % self._alignment == 0
        if self._current is not None and gradient and self._gradient and wide == self._is_wide:
            self._current[0].words[self._column] = self._gradient = gradient
            return False
        if capturing and (("wide" if wide else "scalar"), False) not in self._launches:
            raise RuntimeError(NOT_PREPARED)  # a graph's capture must not load a kernel
        self._current = None  # until all is written
        launch, threads, first = self._choose(wide, self.size)
        self._addresses[0, 1] = gradient
        words = [*self._addresses[0], *self._others[0]]
        launch.words[first : first + len(words)] = words
        block = launch.program.block()
        self._gradient, self._is_wide, self._column = gradient, wide, first + 1
        self._current = launch, (-(-threads // block) if gradient else 0), block
        return True

    def record(self, stream: int) -> None:
        """Nothing to copy: the addresses are kernel arguments."""

    @property
    def gradient_address(self) -> int:
        """The address of the gradient."""
        return self._gradient

    def row_addresses(self) -> list[int]:
        """The addresses of parameter, gradient and slots."""
        param, _, *slots = self._addresses[0].tolist()
        return [param, self._gradient, *slots]

    def launch(self) -> LaunchRow:
        """What `start` launches, for compiled code."""
        if self._current is None:
            raise AssertionError("bind comes first")
        launch, blocks, block = self._current
        return launch.row(blocks, block)

    def gradient_words(self) -> list[WordRow]:
        """Where compiled code writes the address of the gradient."""
        if self._current is None:
            raise AssertionError("bind comes first")
        word = address(self._current[0].words) + 8 * self._column
        alignment = self._alignment if self._fixed_aligned and self.size else 1
        return [(word, alignment, alignment == 1 or int(self._is_wide))]

    def forget(self) -> None:
        """Forget the gradient that is bound."""
        self._current = None

    def start(self, stream: int) -> None:
        """Step this array."""
        if self._current is None:
            raise AssertionError("bind comes first")
        launch, blocks, block = self._current
        launch.start(blocks, block, stream)

    def start_part(self, start: int, stop: int, stream: int) -> None:
        """Step the elements from `start`, a multiple of `BLOCK`, to `stop`."""
        self._addresses[0, 1] = self._gradient
        addresses = self._addresses[0] + start // self._per_item * self._itemsizes
        wide = bool((addresses % self._alignments == 0).all())
        launch, threads, first = self._choose(wide, stop - start, part=True)
        others = self._others[0].copy()
        others[:1] += start * self._dithers
        if self._adds:
            others[-1] += self.kernels.sums_before(start)
        launch.words[first : first + len(addresses) + len(others)] = [*addresses, *others]
        block = launch.program.block()
        launch.start(-(-threads // block), block, stream)
