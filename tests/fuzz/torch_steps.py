"""The optimizers for torch: beside torch's own, and with the bits of the core in torch's dialect."""

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

import fastopt
from fastopt.optimizers.registry import NAMES as CLASSES
from tests.fuzz import numbers
from tests.fuzz.compare import assert_same
from tests.fuzz.recipes import number
from tests.fuzz.stories import SHARED
from tests.interop.torch_pairs import NAMES, Pair, through_file, torch

DRAWN = (
    "SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "NAdam", "Adadelta", "Adamax", "RAdam", "Rprop",
)  # fmt: skip
CORE = {name: CLASSES[name.lower()] for name in NAMES}


def draw(seed: int) -> dict[str, Any]:
    """An optimizer with torch's arguments, tensors, and what happens."""
    name, kwargs, dtype = recipe(numbers.choose(seed // SHARED, "torch"), DRAWN)
    rng = numbers.choose(seed, "torch")
    shapes = draw_shapes(rng)
    return {
        "torch": name,
        "kwargs": kwargs,
        "dtype": dtype,
        "shapes": shapes,
        "turned": [rng.random() < 0.3 for _ in shapes],  # stored by columns
        "seed": seed,
        "events": [_event(rng, len(shapes)) for _ in range(rng.randint(2, 8))],
    }


def draw_shapes(rng: Random) -> list[tuple[int, ...]]:
    """Of one to four tensors, some of them without elements."""
    sizes = [rng.choice([0, 1, 3, 16, 17, 64, 257, 4096]) for _ in range(rng.randint(1, 4))]
    return [rng.choice([(n,), (n, 3), (2, n)]) for n in sizes]


def recipe(rng: Random, names: Sequence[str]) -> tuple[str, dict[str, Any], str]:
    """The name of an optimizer, its arguments, and the dtype of its parameters."""
    name = rng.choice(names)
    kwargs: dict[str, Any] = {"lr": number(rng, 1e-3, 0.05, schedules=False)}
    if name != "Rprop" and rng.random() < 0.5:
        kwargs["weight_decay"] = number(rng, 0.01, 0.2, schedules=False)
    if name in ("SGD", "RMSprop") and rng.random() < 0.6:
        kwargs["momentum"] = number(rng, 0.3, 0.9, schedules=False)
    if name == "SGD" and "momentum" in kwargs and rng.random() < 0.5:
        kwargs["nesterov"] = True
    if name == "RMSprop":
        kwargs |= {"alpha": number(rng, 0.5, 0.99, schedules=False), "centered": rng.random() < 0.3}
        kwargs["eps"] = 1e-3
    if name == "Adagrad":
        kwargs |= {"lr_decay": rng.choice([0, 0.1]), "initial_accumulator_value": rng.choice([0, 0.1])}
    if name in ("Adam", "AdamW", "NAdam", "Adamax", "RAdam"):
        kwargs["betas"] = (0.5 + rng.random() * 0.45, 0.5 + rng.random() * 0.49)
    if name in ("Adam", "AdamW") and rng.random() < 0.4:
        kwargs["amsgrad"] = True
    if rng.random() < 0.3:
        kwargs["maximize"] = True
    # Centered, two averages cancel: in float32 the last bits of either library grow to whole digits.
    return name, kwargs, "float64" if kwargs.get("centered") else rng.choice(["float32", "float64"])


def _event(rng: Random, count: int) -> tuple[Any, ...]:
    kind = rng.choice(["step"] * 5 + ["lr", "load"])
    if kind == "step":
        return kind, sorted(i for i in range(count) if rng.random() < 0.15)
    return (kind, number(rng, 1e-3, 0.05, schedules=False)) if kind == "lr" else (kind,)


class Trio:
    """torch's optimizer, fastopt's for torch, and the core over NumPy arrays."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.name = case, case["torch"]
        dtype = getattr(torch, case["dtype"])
        start = [
            numbers.array((case["seed"], i), shape, case["dtype"])
            for i, shape in enumerate(case["shapes"])
        ]
        tensors = [torch.empty(w.shape, dtype=dtype).copy_(torch.tensor(w)) for w in start]
        tensors = [
            t.t().contiguous().t() if turned and t.dim() == 2 else t
            for t, turned in zip(tensors, case["turned"], strict=True)
        ]
        kwargs = dict(case["kwargs"])
        self.pair = Pair(self.name, kwargs, dtype=dtype, params=tensors, seed=case["seed"] % 2**31)
        self.params = start
        self.core = self.make_core()

    def make_core(self) -> Any:
        kind = getattr(fastopt, CORE[self.name])
        return kind.like("torch", self.params, **self.case["kwargs"])

    def step(self, without: list[int]) -> None:
        self.pair.step(without=without)
        grads = [p.grad for p in self.pair.params["fastopt"]]
        self.core.step([None if g is None else np.ascontiguousarray(g.numpy()) for g in grads])

    def lr(self, value: float) -> None:
        for optimizer in self.pair.both:
            optimizer.param_groups[0]["lr"] = value
        if not type(self.core).lr.fixed:
            self.core.lr = value
            return
        # Where Rprop's step sizes start: torch makes them with the first gradient, the core at once.
        for param, sizes in zip(self.pair.params["torch"], self.core.state["step_size"], strict=True):
            if param not in self.pair.torch.state:
                sizes.fill(value)

    def load(self) -> None:
        """Go on with new optimizers that were loaded."""
        reference, ours = (through_file(optimizer.state_dict()) for optimizer in self.pair.both)
        self.pair.torch = self.pair.make("torch", self.name)
        self.pair.torch.load_state_dict(reference)
        self.pair.fast = self.pair.make("fastopt", self.name)
        self.pair.fast.load_state_dict(ours)
        saved, self.core = self.core.state_dict(), self.make_core()
        self.core.load_state_dict(saved)

    def compare(self, what: str) -> None:
        self.pair.assert_same()
        actual = [p.detach().numpy() for p in self.pair.params["fastopt"]]
        if self.name == "NAdam":  # whose product of momenta torch keeps in float32
            for one, other in zip(actual, self.params, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        else:
            assert_same(actual, self.params, f"torch's parameters against the core's after {what}")


def try_case(case: dict[str, Any]) -> None:
    """Play the events on all three."""
    trio = Trio(case)
    for kind, *how in case["events"]:
        getattr(trio, kind)(*how)
        trio.compare(kind)
