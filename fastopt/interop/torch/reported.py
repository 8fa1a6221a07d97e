"""What a step reports: the norm of the gradients, and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastopt.steps.clipping import GradientStats
from fastopt.steps.stats import Stats
from fastopt.validation import flag

if TYPE_CHECKING:
    from fastopt.interop.torch.planner import Planner


class Reported:
    """What optimizers tell of their last step."""

    _planner: Planner

    @property
    def last(self) -> GradientStats | None:
        """With `clip_norm`: the norm of the last gradients, before clipping."""
        return None if self._planner.plan is None else self._planner.plan.last

    @property
    def stats(self) -> Stats | None:
        """The statistics that were asked for, of the last step; those of each array by parameter.

        On CUDA the newest that have arrived from there: their `step` tells of which step they are.
        """
        return self.read_stats(wait=False)

    def read_stats(self, *, wait: bool = True) -> Stats | None:
        """The statistics that were asked for, of the last step.

        Parameters
        ----------
        wait : bool, default True
            Wait for a device to take the step. False gives the newest statistics that have arrived from
            there, as ``stats`` does. On the CPU there is no difference.

        Returns
        -------
        Stats or None
            Those of each array by parameter. None where there are none: before the first step.

        Examples
        --------
        >>> import torch
        >>> from fastopt.interop.torch import SGD
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = SGD([w], stats=("grad_norm",))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> optimizer.read_stats()["grad_norm"]
        5.0
        """
        plan, wait = self._planner.plan, flag("wait", wait)
        return None if plan is None else plan.read_stats(wait=wait)
