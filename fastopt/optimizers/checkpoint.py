"""Saving and resuming: a run that was saved and resumed gives the same bits as one that was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self, TypeAlias

from fastopt.arrays import checks, placement, tree
from fastopt.arrays.archive import read_archive, write_archive
from fastopt.arrays.checks import Array
from fastopt.arrays.tree import Structure
from fastopt.optimizers import saved_paths
from fastopt.optimizers.group_settings import SettingValues
from fastopt.optimizers.saved_description import VERSION, check_description
from fastopt.optimizers.saved_settings import merge, plain
from fastopt.optimizers.unfinished import Unfinished, real
from fastopt.owned import owned
from fastopt.steps.clipping import NormClip
from fastopt.steps.group import Group
from fastopt.steps.state_formats import StateFormats
from fastopt.steps.stepper import Stepper
from fastopt.validation import Setting, flag

Match: TypeAlias = Literal["path", "position"]  # how arrays are found
PARAMS = "params"  # the name of the parameters in a file, beside those of the states


class Checkpoint:
    """The part of an optimizer that saves and loads."""

    __slots__ = ("_settings", "_steps")

    chain: Any
    clip_norm: Setting | None
    last: Any
    _params: Any
    _structure: Structure
    _groups: list[Group]
    _steps: Stepper
    _watch: NormClip
    _formats: StateFormats
    _options: dict[str, Any]
    _settings: SettingValues
    _chains_given: Any
    _assignable: ClassVar[frozenset[str]]
    _state: dict[str, Any]

    def catch_up(self) -> None:
        """Bring everything up to date."""
        raise NotImplementedError

    @contextmanager
    def _all_or_nothing(self) -> Iterator[SimpleNamespace]:
        """Put settings and counts back where a change of them fails; ``undone`` says so."""
        self._steps.settle()
        attempt = SimpleNamespace(undone=False)
        settings = self._settings
        chains, lags = [group.chain for group in self._groups], self._steps.lags
        count, clip_norm = self._steps.count, self.clip_norm
        try:
            yield attempt
        except BaseException:
            self._settings = settings
            self._watch.change(clip_norm)
            for group, chain in zip(self._groups, chains, strict=True):
                group.chain = chain
            self._steps.continue_at(count, lags)
            attempt.undone = True
            raise

    def _stored(self, name: str) -> Iterator[Array | None]:
        """One state for each of all parameters, None where a chain does not have it."""
        for group in self._groups:
            yield from group.states.get(name, [None] * len(group.leaves))

    def _set_up(self, params: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """``__init__``, for a copy."""
        raise NotImplementedError

    def _use_settings(self, settings: SettingValues, what: str) -> None:
        """Take over settings as a whole, or raise."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, beside parameters and code.

        Returns
        -------
        dict
            ``version``, ``optimizer`` (its name), ``transforms`` (of each group), ``clips_norm`` and
            ``skips_nonfinite``, ``rounding``, ``step_count``, ``paths`` (the keys that lead to each
            array of `params`), ``lags`` (steps that each of them was left out of), ``settings`` and
            ``state``. The arrays in it are the live ones, as in torch: ``copy.deepcopy`` keeps them
            as they are now.

        Raises
        ------
        ValueError
            Rows of the parameters lag behind: call `catch_up`, before they are copied.
        """
        self._refuse_lagging_params()
        self.catch_up()
        return {**self._description(), "state": self._plain_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *, match: Match = "path") -> None:
        """Continue from a `state_dict` of the same kind of optimizer over arrays of the same shapes.

        Its content is copied. Numbers like ``lr`` are taken over. Where this optimizer has a schedule,
        or the other one had, the setting stays, and so do ``bounds`` and ``copy_to``. An optimizer
        made with a chain keeps all of its hyperparameters but ``clip_norm``.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` gave.
        match : {"path", "position"}
            Which array belongs to which: the one with the same keys, in whatever order they come; or
            the one in the same position, whatever its keys.

        Raises
        ------
        TypeError, ValueError
            It belongs to another optimizer, other transforms, paths, shapes, dtypes or another
            version. Nothing was changed.
        """
        saved_paths.check_match(match)
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, not {type(state_dict).__name__}")
        check_description(state_dict, self._description(), "state_dict")
        state = state_dict.get("state")
        if not isinstance(state, Mapping) or state.keys() != self._state.keys():
            found = list(state) if isinstance(state, Mapping) else state
            raise ValueError(f"state must have the entries {list(self._state)}, got {found}")
        by_path = {name: _leaves_by_path(own) for name, own in state.items()}
        paths = self._paths_in(state_dict, next(map(list, by_path.values()), None), "state_dict")
        order = self._order(state_dict, paths, match, "state_dict")
        sources = []
        for name, index, own in self._arrays():
            path = (paths or ())[order[index]]  # a state of the first version has paths too
            label = tree.describe(f"state[{name!r}]", path)
            if path not in by_path[name]:
                raise ValueError(f"state_dict must have an array {label}")
            array = placement.enter_like(label, by_path[name][path], own)
            checks.check_kind(label, array)
            checks.check_like(label, array, own)
            checks.check_is_written(label, own)
            sources.append((own, array))
        self._start_loading(state_dict, order, "state_dict")
        for own, array in sources:
            placement.copy(own, array)
        self._finish_loading()

    def save(self, path: Any, *, params: bool = False) -> None:
        """Write the state to a file, which then holds the whole of it, or what it held before.

        The format is NumPy's ``.npz``, without pickles. Arrays are streamed.

        Parameters
        ----------
        path : str or path
            Written aside, synchronised with the disk and moved into place, so that a crash never
            leaves half a file. A process killed meanwhile leaves at most a file ``<path>.saving``,
            which the next save to this path writes over. A file that is there hands on its
            permissions.
        params : bool, default False
            Write the parameters to the same file: `load` puts them back. Otherwise they are the
            caller's to save.

        Raises
        ------
        ValueError
            There is something else than a file at `path`; or rows of the parameters lag behind and
            are not saved here: call `catch_up`, before they are saved elsewhere.
        OSError
            The file cannot be written. What was there before stays.
        """
        if not flag("params", params):
            self._refuse_lagging_params()
        elif PARAMS in self._state:
            raise ValueError(f"params=True cannot save to one file with a state of the name {PARAMS!r}")
        self.catch_up()
        description = {**self._description(), "holds_params": params}
        named = (
            (f"{name}/{index}", placement.to_host(own)) for name, index, own in self._saved(params)
        )
        write_archive(Path(path), description, named)

    def load(self, path: Any, *, match: Match = "path") -> None:
        """Continue from a file written by `save`. The checks are those of `load_state_dict`.

        The file is read twice: checked as a whole, then streamed into place. No second copy of the
        arrays is made in memory, so if the second reading is interrupted, the optimizer refuses to
        step, to be saved and to be copied until a load succeeds.

        Parameters
        ----------
        path : str or path
            The file.
        match : {"path", "position"}
            As for `load_state_dict`.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        TypeError, ValueError
            The file is damaged, is not one of `save`, or belongs to another optimizer. Nothing was
            changed.
        """
        saved_paths.check_match(match)
        what = str(path)
        with read_archive(Path(path)) as archive:
            given = archive.description
            check_description(given, self._description(), what)
            order = self._order(given, self._paths_in(given, None, what), match, what)
            named = self._saved(bool(given.get("holds_params")))
            own = {f"{name}/{order[index]}": array for name, index, array in named}
            for name, array in own.items():
                checks.check_is_written(repr(name), array)
            archive.check(own)
            self._start_loading(given, order, what)
            archive.read_into(own)
            self._finish_loading()

    def _saved(self, params: bool) -> Iterator[tuple[str, int, Array]]:
        """The arrays of a file: states, and parameters if they are in it too."""
        yield from self._arrays()
        if params:
            leaves = [leaf for group in self._groups for leaf in group.leaves]
            yield from ((PARAMS, index, leaf) for index, leaf in enumerate(leaves))

    def _copied(self, name: str) -> Iterator[Any]:
        """A state of each parameter as copies take it: bfloat16 on a device shows as its bits."""
        shown = (leaf for _, leaf in tree.leaves(self._state[name]))
        for leaf, own in zip(shown, self._stored(name), strict=True):
            yield own if placement.is_on_device(own) else leaf

    def _plain_state(self) -> dict[str, Any]:
        """The states as the user knows them, in containers of their own."""
        return {name: tree.plain(own) for name, own in self._state.items()}

    def _arrays(self) -> Iterator[tuple[str, int, Array]]:
        """Every state array, with its name and the number of its parameter."""
        first = 0
        for group in self._groups:
            for name, own in group.states.items():
                for index, array in enumerate(own, first):
                    yield name, index, array
            first += len(group.leaves)

    def _refuse_lagging_params(self) -> None:
        """Parameters that were saved before would not be those that belong to the state."""
        if self._steps.params_behind:
            raise ValueError(
                'rows of the parameters lag behind (sparse="exact"), and saving the state brings them '
                "up to date: call catch_up() before the parameters are saved or copied, and then "
                "save; or save both with save(path, params=True)"
            )

    def _description(self) -> dict[str, Any]:
        self._steps.settle()
        return {
            "version": VERSION,
            "optimizer": type(self).__name__,
            "transforms": [[part.name for part in group.parts] for group in self._groups],
            "clips_norm": self.clip_norm is not None,
            "skips_nonfinite": self._watch.skip_nonfinite,
            "rounding": self._formats.described,
            "step_count": self._steps.count,
            "paths": saved_paths.as_saved(saved_paths.paths_of(self._params)),
            "lags": list(self._steps.lags),
            "settings": self._plain_settings(),
        }

    def _paths_in(
        self, given: Mapping[str, Any], structure: Sequence[saved_paths.Path] | None, what: str
    ) -> Sequence[saved_paths.Path] | None:
        """The saved paths; in the first version only the structure of the states has them, if any."""
        if given["version"] == 1:
            return structure
        return saved_paths.read_paths(given["paths"], len(given["lags"]), what)

    def _order(
        self,
        given: Mapping[str, Any],
        paths: Sequence[saved_paths.Path] | None,
        match: str,
        what: str,
    ) -> list[int]:
        """For each of the own arrays the number of the saved one."""
        own = saved_paths.paths_of(self._params)
        if paths is not None:
            return saved_paths.order_of(own, paths, match, what)
        if match == saved_paths.PATH:
            formats: list[Any] = [() for _ in own]
            for name, index, array in self._arrays():
                formats[index] += ((name, array.shape, str(array.dtype)),)
            saved_paths.check_positions_tell(self._params, formats, given["lags"], what)
        return list(range(len(own)))

    def _start_loading(self, given: Mapping[str, Any], order: Sequence[int], what: str) -> None:
        """Take over settings and counts, or raise and leave them; no step until `_finish_loading`."""
        before, attempt = self._steps, SimpleNamespace(undone=False)
        steps = real(before)
        steps.catch_up()
        self._steps = Unfinished(steps)  # type: ignore[assignment]  # it passes on what is needed
        try:
            with self._all_or_nothing() as attempt:
                self._take_settings(given["settings"], what)
                lags = [given["lags"][index] for index in order]
                self._steps.continue_at(given["step_count"], lags)
        except BaseException:
            if attempt.undone:
                self._steps = before
            raise

    def _finish_loading(self) -> None:
        """All arrays are in place."""
        self._steps = real(self._steps)

    def _plain_settings(self) -> dict[str, Any]:
        """Settings to save: those that can be assigned."""
        clip_norm = plain({"clip_norm": self.clip_norm}, {"clip_norm"})
        return {**clip_norm, **self._settings.saved(self._assignable)}

    def _take_settings(self, settings: Mapping[str, Any], what: str) -> None:
        """Assign saved settings."""
        if "clip_norm" not in settings:
            raise ValueError(f"{what} must have 'clip_norm' in its settings")
        saved = {"clip_norm": settings["clip_norm"]}
        self._watch.change(merge({"clip_norm": self.clip_norm}, saved, {"clip_norm"})["clip_norm"])
        if "common" in settings or self._chains_given is None:  # chains had no settings once
            self._use_settings(
                self._settings.loaded(settings, self._assignable, what), f"the settings of {what}"
            )

    def _arguments(self) -> tuple[Any, ...]:
        """What `_set_up` makes another one like this from, beside the parameters."""
        return (self.chain,)

    def __getstate__(self) -> dict[str, Any]:
        self.catch_up()
        self._steps.settle()
        state = {name: self._structure.build(self._copied(name)) for name in self._state}
        own = {"clip_norm": self.clip_norm, "state": state, "state_dir": None}
        return {
            "params": tree.plain(self._params),
            "arguments": self._arguments(),
            "options": {**self._options, **own},
            "step_count": self._steps.count,
            "lags": list(self._steps.lags),
            "last": self.last,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._restore(
            {**saved, **{name: owned(saved[name]) for name in ("params", "arguments", "options")}}
        )

    def __copy__(self) -> Self:
        """Another optimizer over the same arrays."""
        other = type(self).__new__(type(self))
        other._restore(self.__getstate__())
        return other

    def _restore(self, saved: dict[str, Any]) -> None:
        self._set_up(saved["params"], saved["arguments"], saved["options"])
        self._watch.last = saved["last"]
        self._steps.continue_at(saved["step_count"], saved["lags"])


def _leaves_by_path(structure: Any) -> dict[saved_paths.Path, Any]:
    """The arrays of one state, as a state dict has them."""
    paths = saved_paths.paths_of(structure)
    return dict(zip(paths, (leaf for _, leaf in tree.leaves(structure)), strict=True))
