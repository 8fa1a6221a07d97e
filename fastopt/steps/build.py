"""Building an optimizer's groups and stepper from parameters, chains and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fastopt.arrays import checks, placement, tree
from fastopt.arrays.memory_maps import StateFiles
from fastopt.arrays.tree import Structure
from fastopt.executors.dispatch import check_executor
from fastopt.executors.places import check_place
from fastopt.steps.clipping import NormClip
from fastopt.steps.group import Group, make_groups
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.memory_stepper import MemoryStepper
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.sparse.row_stepper import check_mode
from fastopt.steps.state_formats import StateDType, StateFormats
from fastopt.steps.stats import Statistics
from fastopt.steps.stepper import Setup, Stepper
from fastopt.steps.sums import check_sums
from fastopt.transforms.base import Chain
from fastopt.validation import Setting, each_called_once, flag

MakeStepper = Callable[[ParameterSet, Hyperparameters, NormClip, Setup], Stepper]


def _load_cuda() -> MakeStepper:
    from fastopt.steps.cuda_stepper import CudaStepper

    return CudaStepper


_loaders: dict[str | None, Callable[[], MakeStepper]] = {
    None: lambda: MemoryStepper,
    "cuda": _load_cuda,
}


def register(place: str, load: Callable[[], MakeStepper]) -> None:
    """Register the function that loads the stepper of a place on first use."""
    _loaders[place] = load


class Built(NamedTuple):
    """What an optimizer is made of."""

    structure: Structure
    groups: list[Group]
    formats: StateFormats
    clip: NormClip
    stepper: Stepper


def build(
    params: object,
    chain: Chain | list[Chain],
    *,
    clip_norm: Setting | None = None,
    skip_nonfinite: bool = False,
    zero_grad: bool = False,
    stats: Sequence[str] | None = None,
    state: Mapping[str, object] | None = None,
    state_dir: object = None,
    sparse: str | None = None,
    state_dtype: StateDType = None,
    stochastic_rounding: bool | None = None,
    seed: int = 0,
    master_bits: int | None = None,
    executor: str = "auto",
    fast: bool = False,
    capturable: bool = False,
    listed: bool = False,
    indices: Sequence[int] | None = None,
    hyperparameters: Callable[[Sequence[Group], int | None], Hyperparameters] = Hyperparameters,
) -> Built:
    """Check all arrays and options, allocate states, and prepare the first step, or raise.

    Parameters
    ----------
    params, chain, **options
        As of `Optimizer`.
    listed : bool
        Gradients come in a list in the order of the parameters, whatever the structure of `params`.
    indices : sequence of int, optional
        The index of the first element of each array, on which random bits depend, where these arrays
        are some of many.
    hyperparameters : callable
        ``hyperparameters(groups, seed)`` makes the hyperparameters; `seed` is None where nothing is
        rounded stochastically.
    """
    check_executor(executor, fast)
    flag("capturable", capturable)
    clip = NormClip(clip_norm, skip_nonfinite)
    flag("zero_grad", zero_grad)
    check_mode(sparse)
    formats = StateFormats(state_dtype, stochastic_rounding, seed, master_bits)
    structure, leaves = tree.take_apart(params)
    if not leaves and not listed:
        raise ValueError("params must have an array at least, and this structure has none")

    def build_groups() -> Built:
        with StateFiles(state_dir) as files:
            clip.limit_at(0)
            groups = make_groups(structure, leaves, chain, dict(state or {}), files, formats)
            outward = [pair for group in groups for pair in group.outward()]
            inward = [pair for group in groups for pair in group.inward()]
            place = placement.check_one_place([*outward, *inward])
            check_place(executor, place, capturable, sparse)
            statistics = Statistics(stats, groups)
            check_sums(groups, place)
            parameters = ParameterSet(groups, zero_grad, fast, indices)
            written = [checks.memory_range(*pair) for pair in outward]
            checks.check_distinct(written)
            formats.check_names([group.chain for group in groups])
            formats.check_used(each for group in groups for each in group.corrections)
            guarded = checks.Guarded(written)
            for pair in inward:
                guarded.check_apart(*pair)
            # Gradients that are cleared must leave alone what is only read.
            if zero_grad and inward:
                guarded = checks.Guarded(written + [checks.memory_range(*pair) for pair in inward])
            setup = Setup(
                structure, guarded, zero_grad, sparse, executor, capturable, listed, statistics
            )
            dithers = any(group.dithers for group in groups)
            hyper = hyperparameters(groups, formats.seed if dithers else None)
            stepper = _loaders[place]()(parameters, hyper, clip, setup)
            return Built(structure, groups, formats, clip, stepper)

    # Schedules are called here, once with step 0, so that a bad one is known at once.
    built: Built = each_called_once(build_groups)[0]
    return built
