"""An optimizer whose arrays have another content for now refuses to step, to be saved and copied."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from fastopt.steps.stepper import Stepper


class Unfinished:
    """Stands for an optimizer's stepper while a checkpoint is put in place or that failed halfway.

    Loading needs most of it: what is not refused here is passed on.

    Parameters
    ----------
    steps : Stepper
        The real one.
    """

    steps: Stepper
    _why: ClassVar[str] = (
        "loading was interrupted: some arrays of this optimizer have the content of the "
        "checkpoint and others have not. Load a checkpoint again, then step, save or copy"
    )

    def __init__(self, steps: Stepper) -> None:
        object.__setattr__(self, "steps", steps)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.steps, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.steps, name, value)

    def _refuse(self, *_: object) -> NoReturn:
        raise RuntimeError(self._why)

    # Every way to step, also in parts, and what comes first in saving and copying.
    step = begin = advance = catch_up = go_to = _refuse


class Exchanged(Unfinished):
    """The same while the parameters are exchanged for their average; loading refuses too."""

    _why = (
        "inside `with opt.averaged()` the parameters are their average: step, save, load and copy "
        "the optimizer after this block, not in it"
    )


def real(steps: Any) -> Stepper:
    """The steps, whether or not their load is unfinished."""
    stepper: Stepper = steps.steps if type(steps) is Unfinished else steps
    return stepper
