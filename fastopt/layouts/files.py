"""New states: in memory, or in the files of a folder, where they may be larger than memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fastopt.layouts import homes
from fastopt.layouts.arrays import Array


class StateFiles:
    """Makes arrays in a folder, or in memory where there is none; takes them back if an error follows.

    Parameters
    ----------
    folder : path or None
        New or empty: what is in a file is never written over.
    """

    def __init__(self, folder: Any) -> None:
        self._folder = None if folder is None else Path(folder)
        self._made: list[Path] = []
        self._made_folder = False
        if self._folder is None or not self._folder.exists():
            return
        if not self._folder.is_dir():
            raise ValueError(f"state_dir must be a folder, but {self._folder} is a file")
        if any(self._folder.iterdir()):
            raise ValueError(f"state_dir must be a new or empty folder, but {self._folder} has files")

    def full(self, name: str, like: Any, value: float) -> Any:
        """An array with the shape and dtype of another one, filled with `value`."""
        if self._folder is None:
            return homes.full(like, value)
        if not isinstance(like, np.ndarray):
            raise ValueError("state_dir is for params in memory: states on a device are not in files")
        if not self._folder.exists():
            self._folder.mkdir(parents=True)
            self._made_folder = True
        readable = "".join(c if c.isalnum() or c in "-_" else "_" for c in name).strip("_")
        # Numbered, because different names may look the same.
        path = self._folder / f"{len(self._made):03}-{readable}.npy"
        self._made.append(path)
        array: Array = np.lib.format.open_memmap(path, "w+", like.dtype, like.shape)
        if value != 0.0:
            array[...] = value
        return array

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        for path in self._made:
            path.unlink(missing_ok=True)
        if self._made_folder and self._folder is not None:
            self._folder.rmdir()
