"""All kinds of cases: how each is drawn from a seed, and tried."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """Two functions of a module, which is imported when asked for."""

    module: str
    drawn: str = "draw"
    needs: Callable[[], bool] = lambda: True

    def draw(self, seed: int) -> Any:
        """The case of a seed, as plain data."""
        draw: Callable[[int], Any] = getattr(import_module(f"tests.fuzz.{self.module}"), self.drawn)
        return draw(seed)

    def try_case(self, case: Any) -> None:
        """Play a case; any exception is a finding, and so is the death of the process."""
        import_module(f"tests.fuzz.{self.module}").try_case(case)


def _has_torch() -> bool:
    return find_spec("torch") is not None


def _has_device() -> bool:
    from fastopt.executors.cuda import availability

    return availability.missing() is None


KINDS = {
    "dense": Kind("steps", "dense"),
    "sparse": Kind("steps", "sparse"),
    "sums": Kind("steps", "sums"),
    "sparse sums": Kind("steps", "sparse_sums"),
    "containers": Kind("containers"),
    "guard": Kind("guard"),
    "signals": Kind("signals"),
    "lines": Kind("lines"),
    "files": Kind("files"),
    "caches": Kind("caches"),
    "torch": Kind("torch_steps", needs=_has_torch),
    "rates": Kind("torch_rates", needs=_has_torch),
    "cuda": Kind("devices", needs=_has_device),
}
