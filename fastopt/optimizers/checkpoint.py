"""Saving and resuming: a run that was saved and resumed gives the same bits as one that was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastopt.layouts import arrays, tree
from fastopt.layouts.archive import read_archive, write_archive
from fastopt.layouts.arrays import Array
from fastopt.optimizers.group import Group
from fastopt.optimizers.hyperparameters import Hyperparameters

VERSION = 1


class Checkpoint:
    """The part of an optimizer that saves and loads."""

    state: dict[str, Any]
    chain: Any
    _params: Any
    _groups: list[Group]
    _hyper: Hyperparameters
    _step_count: int
    _clip_norm: Any
    _skip_nonfinite: bool
    _zero_grad: bool
    _executor: str

    def _arrange(self, lags: Sequence[int]) -> None:
        """Have the arrays lag behind by so many steps."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, beside parameters and code.

        Returns
        -------
        dict
            ``version``, ``optimizer`` (its name), ``transforms`` (of each group), ``step_count``,
            ``lags`` (steps that each array was left out of), ``settings`` and ``state``. The arrays in
            it are the live ones, as in torch: ``copy.deepcopy`` keeps them as they are now.
        """
        return {**self._description(), "state": dict(self.state)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same kind of optimizer over arrays of the same shapes.

        Its content is copied. Numbers like ``lr`` are taken over; schedules, which are code, stay.

        Raises
        ------
        TypeError, ValueError
            It belongs to another optimizer, other transforms, shapes, dtypes or another version.
            Nothing was changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, not {type(state_dict).__name__}")
        self._check_description(state_dict)
        state = state_dict.get("state")
        if not isinstance(state, Mapping) or state.keys() != self.state.keys():
            found = sorted(state) if isinstance(state, Mapping) else state
            raise ValueError(f"state must have the entries {sorted(self.state)}, got {found}")
        sources = []
        for name, own in _named_states(self):
            label, index = name
            given = list(tree.leaves_like(self._params, state[label], f"state[{label!r}]"))[index]
            _check_alike(f"state[{label!r}]", given, own)
            sources.append((own, given))
        self._resume(state_dict)
        for own, given in sources:
            own[...] = given

    def save(self, path: Any) -> None:
        """Write the state to a file, which then holds the whole of it, or what it held before.

        The format is NumPy's ``.npz``, without pickles. Arrays are streamed.

        Parameters
        ----------
        path : str or path
            Written aside and moved into place, so that a crash never leaves half a file.
        """
        named = ((f"{name}/{index}", array) for (name, index), array in _named_states(self))
        write_archive(Path(path), self._description(), named)

    def load(self, path: Any) -> None:
        """Continue from a file written by `save`. The checks are those of `load_state_dict`.

        Arrays are streamed into place: no second copy of them is made in memory.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        TypeError, ValueError
            The file is damaged, is not one of `save`, or belongs to another optimizer.
        """
        with read_archive(Path(path)) as archive:
            self._check_description(archive.description)
            own = {f"{name}/{index}": array for (name, index), array in _named_states(self)}
            archive.check(own)
            self._resume(archive.description)
            archive.read_into(own)

    def _description(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "optimizer": type(self).__name__,
            "transforms": [[part.name for part in group.parts] for group in self._groups],
            "step_count": self._step_count,
            "lags": list(self._hyper.lags),
            "settings": self._plain_settings(),
        }

    def _check_description(self, given: Mapping[str, Any]) -> None:
        own = self._description()
        missing = sorted(own.keys() - given.keys())
        if missing:
            raise ValueError(
                f"state_dict must come from an optimizer's state_dict(): it lacks {missing}"
            )
        for key in ("version", "optimizer", "transforms"):
            if given[key] != own[key]:
                raise ValueError(f"state_dict has {key} {given[key]!r}, but this one has {own[key]!r}")
        if len(given["lags"]) != len(own["lags"]):
            raise ValueError(
                f"state_dict must be for {len(own['lags'])} arrays, but is for {len(given['lags'])}"
            )
        count = given["step_count"]
        if type(count) is not int or count < 0:
            raise ValueError(f"step_count must be a whole number >= 0, got {count!r}")

    def _resume(self, given: Mapping[str, Any]) -> None:
        """Take over settings and counts, or raise and leave them."""
        self._take_settings(given["settings"])
        self._step_count = given["step_count"]
        self._arrange([int(lag) for lag in given["lags"]])

    def _plain_settings(self) -> Any:
        """Settings to save: none where the chain was given as code."""
        return None

    def _take_settings(self, settings: Any) -> None:
        """Assign saved settings."""

    def _arguments(self) -> tuple[Any, ...]:
        """Positional arguments, beside the parameters, that make another one like this."""
        return (self.chain,)

    def __reduce__(self) -> tuple[Any, ...]:
        counts = self._step_count, list(self._hyper.lags)
        means = {
            "clip_norm": self._clip_norm,
            "skip_nonfinite": self._skip_nonfinite,
            "zero_grad": self._zero_grad,
            "executor": self._executor,
        }
        return _restore, (type(self), self._params, self._arguments(), means, self.state, counts)


def _restore(
    kind: Any, params: Any, arguments: tuple[Any, ...], means: dict[str, Any], state: Any, counts: Any
) -> Any:
    optimizer = kind._from_parts(params, arguments, {**means, "state": state})
    optimizer._step_count, lags = counts
    optimizer._arrange(lags)
    return optimizer


def _named_states(optimizer: Checkpoint) -> Iterator[tuple[tuple[str, int], Array]]:
    first = 0
    for group in optimizer._groups:
        for name, own in group.states.items():
            for index, array in enumerate(own):
                yield (name, first + index), array
        first += len(group.leaves)


def _check_alike(name: str, given: Any, own: Array) -> None:
    arrays.check_kind(name, given)
    arrays.check_like(name, given, own)
