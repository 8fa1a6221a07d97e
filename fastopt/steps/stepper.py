"""The interface of a stepper, which takes the steps of arrays in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from fastopt.arrays.checks import Array, Guarded
from fastopt.arrays.tree import Structure
from fastopt.changes import Change, assign, make
from fastopt.executors import norm
from fastopt.kernels.terms import terms_of
from fastopt.steps.clipping import GradientStats, NormClip
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.pass_sums import PassSums
from fastopt.steps.stats import Statistics, Stats
from fastopt.steps.sums import Decisions, saved_numbers
from fastopt.transforms.base import Chain
from fastopt.validation import finite_positive


class Setup(NamedTuple):
    """The options that a stepper is built with."""

    structure: Structure  # the form of the parameters
    guarded: Guarded  # memory that no gradient may share
    zero_grad: bool  # clear the gradients in the same pass
    sparse: str | None
    executor: str
    capturable: bool  # hyperparameters are in the memory of the device, for graphs
    listed: bool  # gradients come in a list, in the order of the parameters
    statistics: Statistics  # what of the sums in the pass is reported


class Stepper(ABC):
    """Takes steps: `begin`, `decide`, `run` over all elements, at once or in stretches, and `end`.

    All that can fail happens in `begin` and `decide`, before anything is written. Whatever the next
    step relies on changes as a whole (`fastopt.changes`).

    A place implements the abstract methods, and assigns `count`, and `lags` if gradients can be None.

    Parameters
    ----------
    parameters : ParameterSet
        All arrays in a row, and what is to be done with each.
    hyper : Hyperparameters
        The hyperparameters of a step.
    clip : NormClip
        What is asked about the gradients.
    setup : Setup

    Attributes
    ----------
    count : int
        Steps that were taken, as far as is known (`settle`).
    lags : list of int
        For each array, how many of them it was left out of.
    limit : float
        What the norm may be in the step that was begun, infinite where there is no limit.
    grad_scale : float
        Of the last step.
    scales : bool
        Whether a factor for the gradients is compiled in: most steps do not scale them, so that is
        done when it is first asked for.
    varies : bool
        Whether the hyperparameters depend on the step.
    first : int
        The index of the first element, on which stochastic rounding depends.
    reducer : Reducer
        How norm and sums are combined with those of other processes.
    decisions : Decisions
        What follows from the sums of transforms.
    pass_sums : PassSums or None
        What is added up while steps are taken.
    """

    count: int
    lags: list[int]

    def __init__(
        self, parameters: ParameterSet, hyper: Hyperparameters, clip: NormClip, setup: Setup
    ) -> None:
        self.parameters, self.hyper, self.clip, self.setup = parameters, hyper, clip, setup
        self.grad_scale, self.limit = 1.0, float("inf")
        self.scales = False
        self.first = 0
        self.reducer: norm.Reducer = norm.LOCAL
        self.decisions = Decisions(parameters.groups, parameters.group_of)
        self.pass_sums: PassSums | None = None
        make(hyper.filled(0, 1.0))
        self.varies = hyper.vary()

    def step(self, grads: object, grad_scale: object, stream: object) -> None:
        """Take a step, or raise and change nothing."""
        self.begin(grads, grad_scale, stream)
        if self.decide():
            self.run(0, self.parameters.size)
            self.end()

    def step_also(self, grads: object, grad_scale: object, also: list[Change]) -> None:
        """Take a step and make further changes, atomically in memory."""
        self.step(grads, grad_scale, None)
        make(also)

    @property
    def reads_first(self) -> bool:
        """Whether `decide` reads the gradients of all arrays before any is stepped."""
        return self.clip.is_on or self.decisions.reads

    @abstractmethod
    def begin(self, grads: object, grad_scale: object, stream: object = None) -> None:
        """Find and check the gradients, and get the hyperparameters of the step.

        The arrays are kept: their content is read by `decide` and `run` only.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.step`. Nothing was changed.
        """

    @abstractmethod
    def decide(self) -> bool:
        """Where the norm or sums are wanted, read all gradients; False if the step is to be skipped.

        Where only a device knows, True: the device skips it.
        """

    @abstractmethod
    def run(self, start: int, stop: int) -> None:
        """Step the elements from `start` to `stop` of all in a row, whose gradients are there.

        Stretches begin and end where an array does, or at a multiple of `codecs.base.BLOCK` in it; with
        `pass_sums` at a multiple of `executors.norm.SUM_BLOCK`.
        """

    @abstractmethod
    def end(self) -> None:
        """Count the step."""

    @abstractmethod
    def planned(self, hyper: Hyperparameters, scales: bool) -> list[Change]:
        """The changes that let kernels read these hyperparameters, and scale gradients or not."""

    @abstractmethod
    def counted(self, count: int, lags: Sequence[int]) -> list[Change]:
        """The changes that set the step count and the lag of each array."""

    @abstractmethod
    def take_part(self, first: int, reducer: norm.Reducer) -> None:
        """Step a shard of parameters of several processes: set `first` and `reducer`."""

    @property
    @abstractmethod
    def source(self) -> str:
        """The Python source of the kernels in use."""

    def advance(self, stream: object) -> None:
        """Prepare the next replay of a graph that captured a step."""
        raise ValueError("advance is for an optimizer made with capturable=True, on a device")

    @property
    def last(self) -> GradientStats | None:
        """The statistics of the last gradients, if an option needs them."""
        return self.clip.last

    def settle(self) -> None:  # noqa: B027  # in memory that is always known
        """Count only the steps that were taken, where the device knows that first."""

    @property
    def params_behind(self) -> bool:
        """Whether parameters lag behind those of dense steps."""
        return False

    def catch_up(self, rows: Mapping[int, Array] | None = None) -> None:  # noqa: B027
        """Bring lagging rows up to date: some rows of some parameters, or all."""

    def prepare(self, grad_scale: object) -> None:
        """Compute the hyperparameters of the next step, or raise."""
        if type(grad_scale) is not float or grad_scale != self.grad_scale:
            self.set_grad_scale(grad_scale)
        elif self.varies:
            self.hyper.fill(self.count, grad_scale)

    def set_grad_scale(self, grad_scale: object) -> None:
        """Multiply the gradients of the next step by ``1 / grad_scale``."""
        scale = finite_positive("grad_scale", grad_scale)
        changes = self.hyper.filled(self.count, scale)
        if not self.scales:
            changes += [*self.planned(self.hyper, True), assign(self, "scales", True)]
        if self.pass_sums is not None:
            changes.append(assign(self.pass_sums, "scales", self.scales_of_last(self.pass_sums)))
        make([*changes, assign(self, "grad_scale", scale)])
        self.note_scales()

    def note_scales(self) -> None:  # noqa: B027  # in memory statistics are read after their step
        """Note the scales of gradients that have changed, where statistics arrive later."""

    def scales_of_last(self, sums: PassSums) -> list[tuple[int, float]]:
        """For each array the steps that it took, and the scale of its gradient in the last one."""
        counts = [self.count - lag for lag in self.lags]
        return [
            known if known[0] == steps else (steps, self.grad_scale)
            for known, steps in zip(sums.scales, counts, strict=True)
        ]

    def saved_sums(self) -> list[list[float]]:
        """For each array the sums of transforms that the next step needs."""
        counts = [len(terms_of(group.parts, ())) for group in self.parameters.groups]
        if self.pass_sums is None:
            return [[] for _ in self.parameters.group_of]
        pairs = zip(self.pass_sums.totals().T.tolist(), self.parameters.group_of, strict=True)
        return [totals[: counts[group]] for totals, group in pairs]

    def loaded_sums(self, saved: Any, order: Sequence[int], what: str) -> list[Change]:
        """The changes that put saved sums in place; `order` has the index that each array had then.

        Raises
        ------
        ValueError
            They are not those of an optimizer like this.
        """
        if self.pass_sums is None:
            return []
        try:
            sums = [saved_numbers(saved[index]) for index in order]
            fits = len(saved) == len(sums) and [*map(len, sums)] == [*map(len, self.saved_sums())]
        except (TypeError, LookupError):
            fits = False
        if not fits:
            raise ValueError(f"{what} must have other sums than {saved!r:.200}")
        changes = [
            assign(self.pass_sums, "since", self.count),
            assign(self.pass_sums, "scales", self.pass_sums.unscaled()),
        ]
        return [*self.pass_sums.placed(sums), *changes]

    def continue_sums(self, totals: Sequence[Sequence[float]], scales: list[tuple[int, float]]) -> None:
        """Go on from these sums of each array, of statistics too, and these scales of its gradients."""
        assert self.pass_sums is not None
        make([*self.pass_sums.placed(totals), assign(self.pass_sums, "scales", scales)])
        self.note_scales()

    def forget_stats(self) -> None:
        """Have no statistics until the next step."""
        if self.pass_sums is not None:
            self.settle()
            self.pass_sums.since = self.count

    def read_stats(self, *, wait: bool) -> Stats | None:
        """The statistics of the last step that was taken; None where there are none.

        Without `wait` a device may have newer ones that the host does not know of.
        """
        sums, count, statistics = self.pass_sums, self.count, self.setup.statistics
        if sums is None or not statistics.names or count == sums.since:
            return None
        factors = [1.0 / scale for _, scale in self.scales_of_last(sums)]
        where = self.parameters.group_of, self.parameters.sizes
        return statistics.read(sums.totals(), *where, factors, self.setup.structure.build, count)

    def continue_at(self, count: int, lags: Sequence[int]) -> None:
        """Set the step count and the lag of each array, or raise."""
        self.settle()
        hyper = self.hyper.arranged(lags)
        changes = hyper.filled(count, self.grad_scale) + self.planned(hyper, self.scales)
        make([*changes, *self.counted(count, lags), assign(self, "hyper", hyper)])

    def lagging(self, lags: Sequence[int]) -> list[Change]:
        """What gives arrays that were left out of so many steps the hyperparameters of their own step.

        Those that vary are the next step's to fill in.
        """
        hyper = self.hyper.arranged(lags)
        changes = [] if self.varies else hyper.filled(self.count, self.grad_scale)
        return [*changes, *self.planned(hyper, self.scales), assign(self, "hyper", hyper)]

    def go_to(self, step: int) -> None:
        """Set the step count, or raise."""
        self.settle()
        make([*self.hyper.filled(step, self.grad_scale), *self.counted(step, self.lags)])

    def refresh(self, chains: Sequence[Chain] | None = None, also: Sequence[Change] = ()) -> None:
        """Take over the hyperparameters of the chains of now, or of others, or raise.

        `also` is what changes with them.
        """
        self.settle()
        changes = self.hyper.filled(self.count, self.grad_scale, chains)
        make([*changes, *also, assign(self, "varies", self.hyper.vary(chains))])


def stepper_of(optimizer: object) -> Callable[[], Stepper]:
    """Return what gives an optimizer's stepper; while its load is unfinished, one that refuses."""
    return partial(getattr, optimizer, "_steps")
