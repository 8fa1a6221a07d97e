"""How optimizers are saved, loaded, pickled and copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from fastopt.optimizers import checkpoint
from fastopt.optimizers.checkpoint import Match
from fastopt.owned import owned
from fastopt.validation import PathLike


class Saved:
    """The methods of `Optimizer` that save, load, pickle and copy it."""

    __slots__ = ()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, beside parameters and code.

        Returns
        -------
        dict
            ``version``, ``optimizer`` (its name), ``transforms`` (of each group), ``clips_norm`` and
            ``skips_nonfinite``, ``rounding``, ``step_count``, ``paths`` (the keys that lead to each
            array of `params`), ``lags`` (steps that each of them was left out of), ``settings`` and
            ``state``, and ``carried`` and ``sums`` where transforms have such numbers. The arrays in it
            are the live ones, as in torch: ``copy.deepcopy`` keeps them as they are now.

        Raises
        ------
        ValueError
            Rows of the parameters lag behind: call `catch_up`, before they are copied.
        """
        return checkpoint.as_dict(self)  # type: ignore[arg-type]

    def load_state_dict(self, state_dict: Mapping[str, object], *, match: Match = "path") -> None:
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
        checkpoint.from_dict(self, state_dict, match)  # type: ignore[arg-type]

    def save(self, path: PathLike, *, params: bool = False) -> None:
        """Write the state to a file, atomically: a crash leaves the old file or the new one.

        The format is NumPy's ``.npz``, without pickles. Arrays are streamed.

        Parameters
        ----------
        path : str or path
            Written aside, synchronized with the disk and moved into place, so that a crash never
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
        checkpoint.save(self, path, params)  # type: ignore[arg-type]

    def load(self, path: PathLike, *, match: Match = "path") -> None:
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
        checkpoint.load(self, path, match)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, object]:
        return checkpoint.pickled(self)  # type: ignore[arg-type]

    def __setstate__(self, saved: dict[str, object]) -> None:
        copies = {name: owned(saved[name]) for name in ("params", "arguments", "options")}
        checkpoint.restore(self, {**saved, **copies})  # type: ignore[arg-type]

    def __copy__(self) -> Self:
        """Another optimizer over the same arrays."""
        other = type(self).__new__(type(self))
        checkpoint.restore(other, self.__getstate__())  # type: ignore[arg-type]
        return other
