"""All kinds of cases: how each is drawn from a seed, and tried."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """Two functions of a module, which is imported when asked for."""

    module: str
    drawn: str
    tried: str = "try_case"

    def draw(self, seed: int) -> Any:
        """The case of a seed, as plain data."""
        draw: Callable[[int], Any] = getattr(import_module(f"tests.fuzz.{self.module}"), self.drawn)
        return draw(seed)

    def try_case(self, case: Any) -> None:
        """Play a case; any exception is a finding, and so is the death of the process."""
        getattr(import_module(f"tests.fuzz.{self.module}"), self.tried)(case)


KINDS = {
    "dense": Kind("steps", "dense"),
    "sparse": Kind("steps", "sparse"),
    "containers": Kind("containers", "draw"),
    "guard": Kind("guard", "draw"),
    "signals": Kind("signals", "draw"),
    "files": Kind("files", "draw"),
    "caches": Kind("caches", "draw"),
}
