"""One array as many: cut into pieces, it takes the steps of the whole, to the last bit."""

from typing import Any

import numpy as np

from tests.fuzz import numbers
from tests.fuzz.play import Player


def can_be_cut(case: dict[str, Any]) -> bool:
    """Whether nothing depends on where an element is: no norm, no random bits, no blocks, no rows."""
    settings, options = case["recipe"]["settings"], case["recipe"]["options"]
    depends = ("clip_norm", "skip_nonfinite", "stochastic_rounding", "state_dtype", "sparse")
    return case["structure"] == "array" and "bounds" not in settings and not options.keys() & {*depends}


class CutPlayer(Player):
    """A case of one array, whose optimizer gets pieces of it."""

    def arrange(self, leaves: list[Any]) -> Any:
        (whole,) = leaves
        rng = numbers.choose(self.case["seed"], "cuts")
        cuts = sorted(rng.randint(0, whole.size) for _ in range(rng.randint(1, 3)))
        return np.split(whole.reshape(-1), cuts)  # views

    def pick(self, container: Any) -> list[Any]:
        shape = self.case["shapes"][0]
        return [np.concatenate(container).reshape(shape)]

    def note(self, grads: list[Any] | None = None) -> dict[str, Any]:
        self.adopt(self.opt)  # what `pick` gave before is a copy
        return super().note(grads)

    def _resume(self, how: str) -> None:
        """Nothing: a copy would be one of the pieces."""
