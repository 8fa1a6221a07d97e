"""Saving and resuming: a run that was saved and resumed gives the same bits as one that was not.

Functions of an optimizer, behind its methods and those of sharded optimizers. Loading is in three
parts: the checks, `start_loading`, and `finish_loading` when all arrays are in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fastopt.arrays import checks, placement, tree
from fastopt.arrays.archive import read_archive, write_archive
from fastopt.arrays.device_array import AnyArray
from fastopt.changes import assign, make
from fastopt.kernels.job import CORRECTION
from fastopt.optimizers import saved_paths
from fastopt.optimizers.chains import use_settings
from fastopt.optimizers.decoded import apart
from fastopt.optimizers.saved_description import MASTER_BITS, VERSION, Description, check_description
from fastopt.optimizers.saved_settings import merge, plain
from fastopt.optimizers.unfinished import Unfinished, real
from fastopt.validation import PathLike, as_path, flag

if TYPE_CHECKING:
    from fastopt.optimizers.optimizer import Optimizer

Match: TypeAlias = Literal["path", "position"]  # how arrays are found
PARAMS = "params"  # the name of the parameters in a file, beside those of the states


def as_dict(optimizer: Optimizer) -> dict[str, Any]:
    """`Optimizer.state_dict`."""
    _refuse_lagging_params(optimizer)
    optimizer.catch_up()
    state = {name: tree.plain(structure) for name, structure in optimizer._state.items()}
    return {**description(optimizer), "state": state}


def from_dict(optimizer: Optimizer, saved: Mapping[str, object], match: Match) -> None:
    """`Optimizer.load_state_dict`."""
    saved_paths.check_match(match)
    if not isinstance(saved, Mapping):
        raise TypeError(f"state_dict must be a dict, not {type(saved).__name__}")
    saved, is_exact = _with_corrections(optimizer, saved)
    check_description(saved, description(optimizer), "state_dict")
    state, targets = saved.get("state"), optimizer._state
    if is_exact:
        targets = {name: structure for name, structure in targets.items() if name != CORRECTION}
    if not isinstance(state, Mapping) or state.keys() != targets.keys():
        entries = list(state) if isinstance(state, Mapping) else state
        raise ValueError(f"state must have the entries {list(targets)}, got {entries}")
    by_path = {name: _leaves_by_path(structure) for name, structure in state.items()}
    paths = _paths_in(saved, next(map(list, by_path.values()), None), "state_dict")
    order = _order(optimizer, saved, paths, match, "state_dict")
    copies, guarded = [], optimizer._steps.setup.guarded
    for name, index, target in arrays(optimizer):
        if is_exact and name == CORRECTION:
            continue
        path = (paths or ())[order[index]]  # a state of the first version has paths too
        label = tree.describe(f"state[{name!r}]", path)
        if path not in by_path[name]:
            raise ValueError(f"state_dict must have an array {label}")
        source = placement.enter_like(label, by_path[name][path], target)
        checks.check_kind(label, source)
        checks.check_like(label, source, target)
        checks.check_is_written(label, target)
        if placement.is_on_device(source):
            checks.check_memory(label, source)
        copies.append((target, source if _is_same(source, target) else apart(source, guarded)))
    start_loading(optimizer, saved, order, "state_dict")
    for target, source in copies:
        placement.copy(target, source)
    if is_exact:
        _clear_corrections(optimizer)
    finish_loading(optimizer)


def _is_same(source: AnyArray, target: AnyArray) -> bool:
    """Whether an array is the one that it is loaded into, which may be larger than memory."""
    same = source.dtype == target.dtype and source.flags.c_contiguous
    return same and checks.memory_range("", source) == checks.memory_range("", target)


def save(optimizer: Optimizer, path: PathLike, params: bool) -> None:
    """`Optimizer.save`."""
    if not flag("params", params):
        _refuse_lagging_params(optimizer)
    elif PARAMS in optimizer._state:
        raise ValueError(f"params=True cannot save to one file with a state of the name {PARAMS!r}")
    optimizer.catch_up()
    named = (
        (f"{name}/{index}", placement.to_host(array))
        for name, index, array in _in_file(optimizer, params)
    )
    write_archive(as_path("path", path), {**description(optimizer), "holds_params": params}, named)


def load(optimizer: Optimizer, path: PathLike, match: Match) -> None:
    """`Optimizer.load`."""
    saved_paths.check_match(match)
    file = as_path("path", path)
    what = str(file)
    with read_archive(file) as archive:
        saved, is_exact = _with_corrections(optimizer, archive.description)
        check_description(saved, description(optimizer), what)
        order = _order(optimizer, saved, _paths_in(saved, None, what), match, what)
        named = _in_file(optimizer, bool(saved.get("holds_params")))
        targets = {
            f"{name}/{order[index]}": array
            for name, index, array in named
            if not (is_exact and name == CORRECTION)
        }
        for name, array in targets.items():
            checks.check_is_written(repr(name), array)
        archive.check(targets)
        start_loading(optimizer, saved, order, what)
        archive.read_into(targets)
        if is_exact:
            _clear_corrections(optimizer)
        finish_loading(optimizer)


def _with_corrections(optimizer: Optimizer, saved: Mapping[str, object]) -> tuple[Description, bool]:
    """The description of a run without `master_bits` as that of one with them, and if that was so.

    What it stored is what it had, so its corrections are zero.
    """
    if not optimizer._formats.have_corrections or saved.get(MASTER_BITS) is not None:
        return saved, False
    return {**saved, MASTER_BITS: int(optimizer.master_bits or 0)}, True


def _clear_corrections(optimizer: Optimizer) -> None:
    for name, _, array in arrays(optimizer):
        if name == CORRECTION:
            placement.clear(array)


def description(optimizer: Optimizer) -> dict[str, object]:
    """What is saved beside the arrays."""
    steps = optimizer._steps
    steps.settle()
    carried = {"carried": steps.decisions.saved()} if steps.decisions.carries else {}
    has_corrections = optimizer._formats.have_corrections
    master_bits = {MASTER_BITS: int(optimizer.master_bits or 0)} if has_corrections else {}
    sums = {"sums": steps.saved_sums()} if steps.decisions.waits else {}
    return {
        **carried,
        **master_bits,
        **sums,
        "version": VERSION,
        "optimizer": type(optimizer).__name__,
        "transforms": [[part.name for part in group.parts] for group in optimizer._groups],
        "clips_norm": optimizer.clip_norm is not None,
        "skips_nonfinite": optimizer._watch.skip_nonfinite,
        "rounding": optimizer._formats.described,
        "step_count": steps.count,
        "paths": saved_paths.as_saved(saved_paths.paths_of(optimizer._params)),
        "lags": list(steps.lags),
        "settings": settings(optimizer),
    }


def settings(optimizer: Optimizer) -> dict[str, object]:
    """The settings that are saved: those that can be assigned."""
    clip_norm = plain({"clip_norm": optimizer.clip_norm}, {"clip_norm"})
    return {**clip_norm, **optimizer._settings.saved(optimizer._assignable)}


def arrays(optimizer: Optimizer) -> Iterator[tuple[str, int, AnyArray]]:
    """Every state array, with its name and the number of its parameter."""
    first = 0
    for group in optimizer._groups:
        for name, states in group.states.items():
            for index, array in enumerate(states, first):
                if array is not None:  # as the correction of a parameter that needs none
                    yield name, index, array
        first += len(group.leaves)


def start_loading(optimizer: Optimizer, saved: Description, order: Sequence[int], what: str) -> None:
    """Take over settings and counts, or raise and leave them; no step until `finish_loading`.

    `order` has for each parameter the number of the saved one.
    """
    stepper, clip_norm = optimizer._steps, optimizer.clip_norm
    steps = real(stepper)
    steps.catch_up()
    steps.settle()
    count, lags = steps.count, steps.lags
    old_settings, chains = optimizer._settings, [group.chain for group in optimizer._groups]
    optimizer._steps = Unfinished(steps)  # type: ignore[assignment]  # it passes on what is needed
    try:
        _take_settings(optimizer, saved["settings"], what)
        steps.continue_at(saved["step_count"], [saved["lags"][index] for index in order])
        carried = steps.decisions.carried
        if steps.decisions.carries:
            carried = steps.decisions.loaded(saved["carried"], order, what)
        sums = saved["sums"] if steps.decisions.waits else [[]] * len(order)
        make([*steps.loaded_sums(sums, order, what), assign(steps.decisions, "carried", carried)])
    except BaseException:
        optimizer._settings = old_settings
        optimizer._watch.change(clip_norm)
        for group, chain in zip(optimizer._groups, chains, strict=True):
            group.chain = chain
        steps.continue_at(count, lags)
        optimizer._steps = stepper  # last: it stays unfinished if this is interrupted too
        raise


def finish_loading(optimizer: Optimizer) -> None:
    """Let the optimizer step again: all arrays are in place."""
    optimizer._steps = real(optimizer._steps)


def pickled(optimizer: Optimizer) -> dict[str, object]:
    """What another one like this is made from."""
    steps = optimizer._steps
    optimizer.catch_up()
    steps.settle()
    state = {name: optimizer._structure.build(_copied(optimizer, name)) for name in optimizer._state}
    replaced = {"clip_norm": optimizer.clip_norm, "state": state, "state_dir": None}
    return {
        "params": tree.plain(optimizer._params),
        "arguments": (*optimizer._settings.arguments, optimizer._chains_given),
        "options": {**optimizer._options, **replaced},
        "given_states": [group.given_states for group in optimizer._groups],
        "step_count": steps.count,
        "lags": list(steps.lags),
        "carried": steps.decisions.saved(),
        "sums": steps.saved_sums(),
        "last": optimizer.last,
    }


def restore(optimizer: Optimizer, saved: Description) -> None:
    """Make an optimizer that has nothing yet one like that of `pickled`."""
    optimizer._set_up(saved["params"], saved["arguments"], saved["options"])
    for group, names in zip(optimizer._groups, saved["given_states"], strict=True):
        group.given_states = names
    optimizer._watch.last = saved["last"]
    steps, order = optimizer._steps, range(len(saved["lags"]))
    steps.continue_at(saved["step_count"], saved["lags"])
    make(steps.loaded_sums(saved["sums"], order, "a copy"))
    if steps.decisions.carries:  # other numbers by now, perhaps, than when it was pickled
        steps.decisions.carried = steps.decisions.loaded(saved["carried"], order, "a copy")


def _in_file(optimizer: Optimizer, params: bool) -> Iterator[tuple[str, int, AnyArray]]:
    """The arrays of a file: states, and parameters if they are in it too."""
    yield from arrays(optimizer)
    if params:
        yield from ((PARAMS, index, leaf) for index, leaf in enumerate(optimizer._leaves))


def _copied(optimizer: Optimizer, name: str) -> Iterator[object]:
    """A state of each parameter as copies take it: bfloat16 on a device shows as its bits."""
    shown = [leaf for _, leaf in tree.leaves(optimizer._state[name])]
    stored = (
        array
        for group in optimizer._groups
        for array in group.states.get(name, [None] * len(group.leaves))
    )
    for leaf, array in zip(shown, stored, strict=True):
        yield array if placement.is_on_device(array) else leaf


def _refuse_lagging_params(optimizer: Optimizer) -> None:
    """Parameters that were saved before would not be those that belong to the state."""
    if optimizer._steps.params_behind:
        raise ValueError(
            'rows of the parameters lag behind (sparse="exact"), and saving the state brings them '
            "up to date: call catch_up() before the parameters are saved or copied, and then "
            "save; or save both with save(path, params=True)"
        )


def _paths_in(
    saved: Description, structure: Sequence[saved_paths.Path] | None, what: str
) -> Sequence[saved_paths.Path] | None:
    """The saved paths; in the first version only the structure of the states has them, if any."""
    if saved["version"] == 1:
        return structure
    return saved_paths.read_paths(saved["paths"], len(saved["lags"]), what)


def _order(
    optimizer: Optimizer,
    saved: Description,
    paths: Sequence[saved_paths.Path] | None,
    match: str,
    what: str,
) -> list[int]:
    """For each parameter the number of the saved one."""
    current_paths = saved_paths.paths_of(optimizer._params)
    if paths is not None:
        return saved_paths.order_of(current_paths, paths, match, what)
    if match == saved_paths.PATH:
        formats: list[tuple[object, ...]] = [() for _ in current_paths]
        for name, index, array in arrays(optimizer):
            formats[index] += ((name, array.shape, str(array.dtype)),)
        saved_paths.check_positions_tell(optimizer._params, formats, saved["lags"], what)
    return list(range(len(current_paths)))


def _take_settings(optimizer: Optimizer, saved: Mapping[str, object], what: str) -> None:
    """Assign saved settings."""
    if "clip_norm" not in saved:
        raise ValueError(f"{what} must have 'clip_norm' in its settings")
    clip_norm = {"clip_norm": optimizer.clip_norm}
    merged = merge(clip_norm, {"clip_norm": saved["clip_norm"]}, clip_norm.keys())
    optimizer._watch.change(merged["clip_norm"])
    if "common" in saved or optimizer._chains_given is None:  # chains had no settings once
        values = optimizer._settings.loaded(saved, optimizer._assignable, what)
        use_settings(optimizer, values, f"the settings of {what}")


def _leaves_by_path(structure: object) -> dict[saved_paths.Path, object]:
    """The arrays of one state, as a state dict has them."""
    paths = saved_paths.paths_of(structure)
    return dict(zip(paths, (leaf for _, leaf in tree.leaves(structure)), strict=True))
