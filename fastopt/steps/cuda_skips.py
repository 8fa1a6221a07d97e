"""The steps that a CUDA device skipped, which the host learns when it reads them."""

from __future__ import annotations

from functools import partial

from fastopt.changes import make, put
from fastopt.executors.cpu.columns import HYPER_LAG, LAG, STEPS
from fastopt.executors.cpu.table import CountedTable
from fastopt.executors.cuda import device
from fastopt.executors.cuda.control import Control


class SkippedSteps:
    """The number of skipped steps that the host knows of, and how many steps it has not read.

    The host counts each step that it launches, and corrects its counts when they are needed.

    Parameters
    ----------
    table : CountedTable
        The counts of all arrays.
    ordinal : int
        The number of the device.
    control : Control or None
        Where the device keeps what it decides about steps, None if it decides nothing.

    Attributes
    ----------
    known : int
        How many steps were skipped, as of the last read.
    unread : int
        The steps launched since then, each of which the device may have skipped.
    is_outdated : bool
        Whether a step that the host does not count before it is decided may have changed `known`.
    """

    def __init__(self, table: CountedTable, ordinal: int, control: Control | None) -> None:
        self._table, self._ordinal, self._control = table, ordinal, control
        self.known = self.unread = 0
        self.is_outdated = False

    def read(self) -> tuple[bool, int]:
        """Whether the last step was skipped, and how many were; synchronizes."""
        if self._control is None:
            raise AssertionError("nothing was to be decided")
        with device.on(self._ordinal):
            return self._control.read()

    def counted(self) -> int:
        """`known`, read again if it is outdated: whatever interrupted the read."""
        if self.is_outdated:
            self.is_last_taken()
        return self.known

    def is_last_taken(self) -> bool:
        """Whether the last step, which is not counted yet, is to be taken; synchronizes."""
        is_skipped, skipped = self.read()
        vars(self).update(known=skipped, is_outdated=False)
        return not is_skipped

    def settle(self) -> None:
        """Count only the steps that were taken; synchronizes."""
        last_skipped, skipped = self.read()
        counts = self._table.counts.copy()
        counts[:, STEPS] -= skipped - self.known
        if last_skipped:  # whoever was left out of that step has counted a lag instead
            moved = counts[:, LAG] != self._table.rows[:, HYPER_LAG]
            counts[moved] += [1, -1]
        new = {"known": skipped, "unread": 0}
        make([put(self._table.counts, counts), partial(vars(self).update, new)])
