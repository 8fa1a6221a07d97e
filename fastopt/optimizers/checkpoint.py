"""Saving and resuming: a run that was saved and resumed gives the same bits as one that was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastopt.layouts import arrays, homes, tree
from fastopt.layouts.archive import read_archive, write_archive
from fastopt.layouts.arrays import Array
from fastopt.optimizers.group import Group
from fastopt.optimizers.saved_settings import merge, plain
from fastopt.optimizers.steps import Steps
from fastopt.optimizers.storage import Formats
from fastopt.optimizers.watch import Watch
from fastopt.validation import Setting

VERSION = 1

# What a run that is resumed must have in common with the one that was saved.
_ALIKE = ("version", "optimizer", "transforms", "clips_norm", "skips_nonfinite", "rounding")


class Checkpoint:
    """The part of an optimizer that saves and loads."""

    __slots__ = ()

    chain: Any
    clip_norm: Setting | None
    last: Any
    _params: Any
    _groups: list[Group]
    _steps: Steps
    _watch: Watch
    _formats: Formats
    _zero_grad: bool
    _executor: str
    _capturable: bool
    _sparse: str | None
    _state: dict[str, Any]

    def catch_up(self) -> None:
        """Bring everything up to date."""
        raise NotImplementedError

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Put settings and counts back where a change of them fails."""
        self._steps.settle()
        names = "_settings", "_overrides"
        before = {name: getattr(self, name) for name in names if hasattr(self, name)}
        chains, lags = [group.chain for group in self._groups], self._steps.hyper.lags
        count, clip_norm = self._steps.count, self.clip_norm
        try:
            yield
        except BaseException:
            for name, value in before.items():
                setattr(self, name, value)
            self._watch.change(clip_norm)
            for group, chain in zip(self._groups, chains, strict=True):
                group.chain = chain
            self._steps.count = count
            self._steps.arrange(lags)
            raise

    def _stored(self, name: str) -> Iterator[Array | None]:
        """One state for each of all parameters."""
        raise NotImplementedError

    def _set_up(self, params: Any, arguments: tuple[Any, ...], means: dict[str, Any]) -> None:
        """``__init__``, for a copy."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, beside parameters and code.

        Returns
        -------
        dict
            ``version``, ``optimizer`` (its name), ``transforms`` (of each group), ``clips_norm`` and
            ``skips_nonfinite``, ``rounding``, ``step_count``, ``lags`` (steps that each array was left
            out of), ``settings`` and ``state``. The arrays in it are the live ones, as in torch:
            ``copy.deepcopy`` keeps them as they are now.
        """
        self.catch_up()
        return {**self._description(), "state": dict(self._state)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same kind of optimizer over arrays of the same shapes.

        Its content is copied. Numbers like ``lr`` are taken over. Where this optimizer has a schedule,
        or the other one had, the setting stays, and so do ``bounds`` and ``copy_to``. An optimizer
        made with a chain keeps all of its hyperparameters but ``clip_norm``.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` gave.

        Raises
        ------
        TypeError, ValueError
            It belongs to another optimizer, other transforms, shapes, dtypes or another version.
            Nothing was changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, not {type(state_dict).__name__}")
        self._check_description(state_dict, "state_dict")
        state = state_dict.get("state")
        if not isinstance(state, Mapping) or state.keys() != self._state.keys():
            found = list(state) if isinstance(state, Mapping) else state
            raise ValueError(f"state must have the entries {list(self._state)}, got {found}")
        given = {
            name: list(tree.leaves_like(self._params, own, f"state[{name!r}]"))
            for name, own in state.items()
        }
        sources = [
            (own, homes.enter_like(f"state[{name!r}]", given[name][index], own), name)
            for name, index, own in self._arrays()
        ]
        for own, array, name in sources:
            arrays.check_kind(f"state[{name!r}]", array)
            arrays.check_like(f"state[{name!r}]", array, own)
        self.catch_up()
        self._resume(state_dict, "state_dict")
        for own, array, _ in sources:
            homes.copy(own, array)

    def save(self, path: Any) -> None:
        """Write the state to a file, which then holds the whole of it, or what it held before.

        The format is NumPy's ``.npz``, without pickles. Arrays are streamed. The parameters are the
        caller's to save.

        Parameters
        ----------
        path : str or path
            Written aside, synchronised with the disk and moved into place, so that a crash never
            leaves half a file. A process killed meanwhile leaves at most a file ``<path>.saving``,
            which the next save to this path writes over.

        Raises
        ------
        ValueError
            There is something else than a file at `path`.
        OSError
            The file cannot be written. What was there before stays.
        """
        self.catch_up()
        named = ((f"{name}/{index}", homes.to_host(own)) for name, index, own in self._arrays())
        write_archive(Path(path), self._description(), named)

    def load(self, path: Any) -> None:
        """Continue from a file written by `save`. The checks are those of `load_state_dict`.

        The file is read twice: checked as a whole, then streamed into place. No second copy of the
        arrays is made in memory.

        Parameters
        ----------
        path : str or path
            The file.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        TypeError, ValueError
            The file is damaged, is not one of `save`, or belongs to another optimizer.
        """
        with read_archive(Path(path)) as archive:
            self._check_description(archive.description, str(path))
            own = {f"{name}/{index}": array for name, index, array in self._arrays()}
            archive.check(own)
            self.catch_up()
            self._resume(archive.description, str(path))
            archive.read_into(own)

    def _arrays(self) -> Iterator[tuple[str, int, Array]]:
        """Every state array, with its name and the number of its parameter."""
        first = 0
        for group in self._groups:
            for name, own in group.states.items():
                for index, array in enumerate(own, first):
                    yield name, index, array
            first += len(group.leaves)

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
            "lags": list(self._steps.hyper.lags),
            "settings": self._plain_settings(),
        }

    def _check_description(self, given: Mapping[str, Any], what: str) -> None:
        own = self._description()
        missing = sorted(own.keys() - given.keys())
        if missing:
            raise ValueError(f"{what} must come from an optimizer's state: it lacks {missing}")
        for key in _ALIKE:
            if given[key] != own[key]:
                raise ValueError(f"{what} has {key} {given[key]!r}, but this one has {own[key]!r}")
        count, lags, settings = given["step_count"], given["lags"], given["settings"]
        if type(count) is not int or count < 0:
            raise ValueError(f"{what} must have a whole number >= 0 as step_count, not {count!r}")
        if not isinstance(lags, list) or len(lags) != len(own["lags"]):
            raise ValueError(
                f"{what} must be for {len(own['lags'])} arrays, with as many lags, but has {lags!r}"
            )
        if not all(type(lag) is int and 0 <= lag <= count for lag in lags):
            raise ValueError(f"{what} must have lags from 0 to step_count {count}, not {lags!r}")
        if not isinstance(settings, Mapping):
            raise TypeError(f"{what} must have a dict of settings, not {settings!r}")

    def _resume(self, given: Mapping[str, Any], what: str) -> None:
        """Take over settings and counts, or raise and leave them."""
        with self._all_or_nothing():
            self._take_settings(given["settings"], what)
            self._steps.count = given["step_count"]
            self._steps.arrange(given["lags"])
            self._steps.refresh()

    def _plain_settings(self) -> dict[str, Any]:
        """Settings to save: those of a chain that was given as code are not known."""
        return plain({"clip_norm": self.clip_norm}, frozenset())

    def _take_settings(self, settings: Mapping[str, Any], what: str) -> None:
        """Assign saved settings."""
        if "clip_norm" not in settings:
            raise ValueError(f"{what} must have 'clip_norm' in its settings")
        saved = {"clip_norm": settings["clip_norm"]}
        self._watch.change(merge({"clip_norm": self.clip_norm}, saved, frozenset())["clip_norm"])

    def _arguments(self) -> tuple[Any, ...]:
        """What `_set_up` makes another one like this from, beside the parameters."""
        return (self.chain,)

    def __getstate__(self) -> dict[str, Any]:
        self.catch_up()
        self._steps.settle()
        means = {
            "clip_norm": self.clip_norm,
            "skip_nonfinite": self._watch.skip_nonfinite,
            "zero_grad": self._zero_grad,
            "state": {name: tree.rebuild(self._params, self._stored(name)) for name in self._state},
            "sparse": self._sparse,
            "stochastic_rounding": self._formats.stochastic_rounding,
            "seed": self._formats.seed,
            "executor": self._executor,
            "capturable": self._capturable,
        }
        return {
            "params": self._params,
            "arguments": self._arguments(),
            "means": means,
            "step_count": self._steps.count,
            "lags": list(self._steps.hyper.lags),
            "last": self.last,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._set_up(saved["params"], saved["arguments"], saved["means"])
        self._steps.count, self._watch.last = saved["step_count"], saved["last"]
        self._steps.arrange(saved["lags"])
