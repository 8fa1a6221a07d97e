"""torch's optimizers with automatic rates and statistics: the bits of the core in torch's dialect."""

import copy
from random import Random
from typing import Any

import numpy as np

import fastopt
from tests.fuzz import numbers
from tests.fuzz.compare import assert_same
from tests.fuzz.recipes import number
from tests.fuzz.stories import SHARED
from tests.fuzz.torch_steps import CORE, draw_shapes, recipe
from tests.interop.torch_pairs import fast, through_file, torch

STATS = "grad_norm", "update_rms", "param_mean", "trend_norm"
# ASGD and Rprop have no rate to multiply, and of NAdam torch keeps a product in float32.
NAMES = "SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "Adadelta", "Adamax", "RAdam"


def draw(seed: int) -> dict[str, Any]:
    """An optimizer with torch's arguments, tensors, and what happens."""
    name, kwargs, dtype = recipe(numbers.choose(seed // SHARED, "rates"), NAMES)
    rng = numbers.choose(seed, "rates")
    shapes = draw_shapes(rng)
    return {
        "torch": name,
        "kwargs": {**kwargs, "lr": "auto"},
        "dtype": dtype,
        "shapes": shapes,
        "seed": seed,
        "events": [_event(rng, len(shapes)) for _ in range(rng.randint(3, 12))],
    }


def _event(rng: Random, count: int) -> tuple[Any, ...]:
    kind = rng.choice(["step"] * 7 + ["factor", "load", "copy", "replace"])
    if kind == "step":
        kept = rng.randrange(count)
        return kind, [i for i in range(count) if rng.random() < 0.2 and i != kept]
    return (kind, number(rng, 0.2, 2.0, schedules=False)) if kind == "factor" else (kind,)


class Twins:
    """fastopt's optimizer for torch, and the core over NumPy arrays."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.count = case, 0
        start = [
            numbers.array((case["seed"], i), shape, case["dtype"])
            for i, shape in enumerate(case["shapes"])
        ]
        self.params = [torch.nn.Parameter(torch.tensor(w)) for w in start]
        self.arrays = start
        self.torch, self.core = self.make_torch(), self.make_core()

    def make_torch(self) -> Any:
        return getattr(fast, self.case["torch"])(self.params, stats=STATS, **self.case["kwargs"])

    def make_core(self) -> Any:
        kind = getattr(fastopt, CORE[self.case["torch"]])
        return kind.like("torch", self.arrays, stats=STATS, **self.case["kwargs"])

    def step(self, without: list[int]) -> None:
        self.count += 1
        grads: list[Any] = []
        for i, (p, w) in enumerate(zip(self.params, self.arrays, strict=True)):
            noise = numbers.array((self.case["seed"], self.count, i), w.shape, self.case["dtype"])
            grads.append(None if i in without else w - w.dtype.type(0.5) + noise / 4)
            p.grad = None if i in without else torch.tensor(grads[-1])
        self.torch.step()
        self.core.step(grads)

    def factor(self, value: float) -> None:
        self.torch.param_groups[0]["lr"] = value
        self.core.lr = fastopt.auto(value)

    def load(self) -> None:
        """Go on with new optimizers that were loaded."""
        saved = through_file(self.torch.state_dict())
        self.torch = self.make_torch()
        self.torch.load_state_dict(saved)
        factor, state = self.core.lr, self.core.state_dict()
        self.core = self.make_core()
        self.core.lr = factor
        self.core.load_state_dict(state)

    def copy(self) -> None:
        """Go on with a copy."""
        self.torch = copy.deepcopy(self.torch)
        self.params = [p for group in self.torch.param_groups for p in group["params"]]

    def replace(self) -> None:
        """Put other tensors in the place of states, for which a plan is made anew."""
        for state in self.torch.state.values():
            state["trend"] = state["trend"].clone()

    def compare(self, what: str) -> None:
        params = [p.detach().numpy() for p in self.params]
        assert_same(params, self.arrays, f"parameters after {what}")
        rates = self.torch.get_last_lr()[0], self.core.current("lr")
        assert repr(rates[0]) == repr(rates[1]), f"rates after {what}: {rates}"
        stats, expected = self.torch.stats, self.core.stats
        if stats is None or expected is None:  # copies have none before their first step
            return
        for name, each in expected.per_array.items():
            for i, p in enumerate(self.params):
                if p in stats.per_array[name]:  # not one that never had a gradient
                    np.testing.assert_array_equal(
                        stats.per_array[name][p], each[i], f"{name} of parameter {i} after {what}"
                    )


def try_case(case: dict[str, Any]) -> None:
    """Play the events on both."""
    twins = Twins(case)
    for kind, *how in case["events"]:
        getattr(twins, kind)(*how)
        twins.compare(kind)
