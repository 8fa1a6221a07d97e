"""What an optimizer asks of its steps, wherever they are taken: `in_memory` or `on_device`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastopt.layouts.arrays import Array
from fastopt.optimizers.hyperparameters import Hyperparameters
from fastopt.optimizers.watch import Last, Watch
from fastopt.optimizers.work import Work
from fastopt.validation import finite_positive


class Steps(ABC):
    """Takes steps, and counts them.

    Parameters
    ----------
    work : Work
        All arrays in a row, and what is to be done with each.
    hyper : Hyperparameters
        The numbers of a step.
    watch : Watch
        What is asked about the gradients.

    Attributes
    ----------
    count : int
        Steps that were taken, as far as is known (`settle`).
    grad_scale : float
        Of the last step.
    scales : bool
        Whether a factor for the gradients is compiled in: most steps do not scale them, so that is
        done when it is first asked for.
    varies : bool
        Whether the numbers depend on the step.
    """

    def __init__(self, work: Work, hyper: Hyperparameters, watch: Watch) -> None:
        self.work, self.hyper, self.watch = work, hyper, watch
        self.count = 0
        self.grad_scale = 1.0
        self.scales = False
        hyper.fill(0, 1.0)
        self.varies = hyper.varies

    @abstractmethod
    def step(self, grads: Any, grad_scale: Any, stream: Any) -> None:
        """Take a step, or raise and change nothing."""

    @abstractmethod
    def advance(self, stream: Any) -> None:
        """Get ready for the next replay of a graph that a step was captured in."""

    @abstractmethod
    def use_kernels(self) -> None:
        """Have the kernels for the gradients' formats and scaling of now."""

    @abstractmethod
    def use_numbers(self) -> None:
        """Have the kernels read the numbers of now, which may be in other places than before."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What is compiled, as Python source."""

    @property
    def last(self) -> Last | None:
        """What is known of the last gradients, where something asks for it."""
        return self.watch.last

    @abstractmethod
    def settle(self) -> None:
        """Count only the steps that were taken, if that is not known yet."""

    @property
    def params_behind(self) -> bool:
        """Whether parameters are not what they are with dense gradients."""
        return False

    @abstractmethod
    def catch_up(self, rows: Mapping[int, Array] | None = None) -> None:
        """Bring up to date what had no gradient lately: some rows of some parameters, or all."""

    def set_grad_scale(self, grad_scale: Any) -> None:
        """Multiply the gradients of the next step by ``1 / grad_scale``."""
        scale = finite_positive("grad_scale", grad_scale)
        self.hyper.fill(self.count, scale)
        self.grad_scale = scale
        if not self.scales:
            self.scales = True
            self.use_kernels()

    def arrange(self, lags: Sequence[int]) -> None:
        """Have the arrays lag behind by so many steps."""
        self.hyper.arrange(lags)
        self.use_numbers()
        self.varies = self.hyper.varies
        if not self.varies:  # otherwise the next step does it
            self.refresh()

    def refresh(self) -> None:
        """Take over the hyperparameters of now, or raise."""
        self.hyper.fill(self.count, self.grad_scale)
        self.varies = self.hyper.varies

    def go_to(self, step: int) -> None:
        """Continue as if `step` steps had been taken, or raise."""
        self.settle()
        self.hyper.fill(step, self.grad_scale)
        self.count = step

    def leave_out(self, which: Iterable[bool]) -> None:
        """Have arrays that were left out of a step keep their own count."""
        self.arrange([lag + int(out) for lag, out in zip(self.hyper.lags, which, strict=True)])
