"""New states: in memory, or in the files of a folder, where they may be larger than memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fastopt.layouts import allocate
from fastopt.layouts.archive import in_files
from fastopt.layouts.arrays import Array


class StateFiles:
    """Makes arrays in a folder, or in memory where there is none; takes them back if an error follows.

    Parameters
    ----------
    folder : path or None
        New or empty: what is in a file is never written over.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = None if folder is None else Path(folder)
        self._made: list[Path] = []
        self._made_folder = False
        if self.folder is None or not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise ValueError(f"state_dir must be a folder, but {self.folder} is a file")
        if any(self.folder.iterdir()):
            raise ValueError(f"state_dir must be a new or empty folder, but {self.folder} has files")

    def zeros(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array of zeros."""
        if self.folder is None:
            return allocate.zeros(shape, dtype)
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            self._made_folder = True
        readable = "".join(c if c.isalnum() or c in "-_" else "_" for c in name).strip("_")
        # Numbered, because different names may look the same.
        path = self.folder / f"{len(self._made):03}-{readable}.npy"
        self._made.append(path)
        array: Array = np.lib.format.open_memmap(path, "w+", in_files(dtype), shape)
        return array.view(dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        for path in self._made:
            path.unlink(missing_ok=True)
        if self._made_folder and self.folder is not None:
            self.folder.rmdir()
