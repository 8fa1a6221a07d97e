"""An optimizer whose load was interrupted refuses to step, to be saved and to be copied."""

from __future__ import annotations

from typing import Any, NoReturn


class Unfinished:
    """Stands for an optimizer's stepper while a checkpoint is put in place or that failed halfway.

    Loading needs most of it: what is not refused here is passed on.

    Parameters
    ----------
    steps : Stepper
        The real one.
    """

    steps: Any

    def __init__(self, steps: Any) -> None:
        object.__setattr__(self, "steps", steps)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.steps, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.steps, name, value)

    def _refuse(self, *_: Any) -> NoReturn:
        raise RuntimeError(
            "loading was interrupted: some arrays of this optimizer have the content of the "
            "checkpoint and others have not. Load a checkpoint again, then step, save or copy"
        )

    # Every way to step, also in parts, and what comes first in saving and copying.
    step = begin = advance = catch_up = go_to = _refuse


def real(steps: Any) -> Any:
    """The steps, whether or not their load is unfinished."""
    return steps.steps if isinstance(steps, Unfinished) else steps
