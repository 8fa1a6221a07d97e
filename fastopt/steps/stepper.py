"""What an optimizer asks of its steps, wherever they are taken: `in_memory` or `on_device`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastopt.arrays.checks import Array
from fastopt.changes import Change, assign, make
from fastopt.steps.clipping import GradientStats, NormClip
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.transforms.base import Chain
from fastopt.validation import finite_positive


class Stepper(ABC):
    """Takes steps, and counts them.

    Whatever the next step relies on changes as a whole (`fastopt.changes`): what can fail, the
    compilation of kernels or a schedule, comes before.

    Parameters
    ----------
    work : ParameterSet
        All arrays in a row, and what is to be done with each.
    hyper : Hyperparameters
        The numbers of a step.
    watch : NormClip
        What is asked about the gradients.

    Attributes
    ----------
    count : int
        Steps that were taken, as far as is known (`settle`).
    lags : list of int
        For each array, how many of them it was left out of.
    grad_scale : float
        Of the last step.
    scales : bool
        Whether a factor for the gradients is compiled in: most steps do not scale them, so that is
        done when it is first asked for.
    varies : bool
        Whether the numbers depend on the step.
    """

    count: int
    lags: list[int]

    def __init__(self, work: ParameterSet, hyper: Hyperparameters, watch: NormClip) -> None:
        self.work, self.hyper, self.watch = work, hyper, watch
        self.grad_scale = 1.0
        self.scales = False
        hyper.fill(0, 1.0)
        self.varies = hyper.vary()

    @abstractmethod
    def step(self, grads: Any, grad_scale: Any, stream: Any) -> None:
        """Take a step, or raise and change nothing."""

    @abstractmethod
    def advance(self, stream: Any) -> None:
        """Get ready for the next replay of a graph that a step was captured in."""

    @abstractmethod
    def planned(self, hyper: Hyperparameters, scales: bool) -> list[Change]:
        """What has steps read the numbers in these places, with kernels that scale gradients or not."""

    @abstractmethod
    def counted(self, count: int, lags: Sequence[int]) -> list[Change]:
        """What lets so many steps have been taken, and arrays left out of so many."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What is compiled, as Python source."""

    @property
    def last(self) -> GradientStats | None:
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
        changes = self.hyper.filled(self.count, scale)
        if not self.scales:
            changes += [*self.planned(self.hyper, True), assign(self, "scales", True)]
        make([*changes, assign(self, "grad_scale", scale)])

    def continue_at(self, count: int, lags: Sequence[int]) -> None:
        """Go on as if so many steps had been taken, with arrays left out of so many, or raise."""
        self.settle()
        hyper = self.hyper.arranged(lags)
        changes = hyper.filled(count, self.grad_scale) + self.planned(hyper, self.scales)
        make([*changes, *self.counted(count, lags), assign(self, "hyper", hyper)])

    def lagging(self, lags: Sequence[int]) -> list[Change]:
        """What gives arrays that were left out of so many steps the numbers of their own step.

        Numbers that vary are the next step's to fill in.
        """
        hyper = self.hyper.arranged(lags)
        numbers = [] if self.varies else hyper.filled(self.count, self.grad_scale)
        return [*numbers, *self.planned(hyper, self.scales), assign(self, "hyper", hyper)]

    def go_to(self, step: int) -> None:
        """Continue as if `step` steps had been taken, or raise."""
        self.settle()
        make([*self.hyper.filled(step, self.grad_scale), *self.counted(step, self.lags)])

    def refresh(self, chains: Sequence[Chain] | None = None, also: Sequence[Change] = ()) -> None:
        """Take over the hyperparameters of the chains of now, or of others, or raise.

        `also` is what changes with them.
        """
        self.settle()
        changes = self.hyper.filled(self.count, self.grad_scale, chains)
        make([*changes, *also, assign(self, "varies", self.hyper.vary(chains))])


def stepper_of(optimizer: Any) -> Callable[[], Any]:
    """What gives the stepper of an optimizer as it is now; one whose load is unfinished refuses."""
    return partial(getattr, optimizer, "_steps")
