"""The caller's own lists, dicts and arrays change between steps: what is stepped does not.

A second optimizer, whose containers nobody touches, says what must come out.
"""

import copy
import pickle
from random import Random
from typing import Any

import numpy as np

import fastopt
from tests.fuzz import numbers
from tests.fuzz.compare import assert_same
from tests.fuzz.numbers import array
from tests.fuzz.stories import SHARED, arrange, pick

OPTIMIZERS = {
    "SGD": {"momentum": 0.9},
    "RMSProp": {"beta": 0.8, "momentum": 0.5},
    "Adam": {"amsgrad": True},
}
TAMPERS = ("pop", "append", "replace", "reorder", "clear", "state")
REFUSED = ("short", "long", "other keys", "none")
HEADERS = ("grow", "shrink", "read-only")


def draw(seed: int) -> dict[str, Any]:
    """Arrays in a structure, and events: steps, tampering, refusals."""
    optimizer = numbers.choose(seed // SHARED, "container recipe").choice(list(OPTIMIZERS))
    rng = numbers.choose(seed, "containers")
    size = rng.choice([3, 16, 200])
    return {
        "optimizer": optimizer,
        "structure": rng.choice(["list", "dict", "nested"]),
        "shapes": [(size,) if rng.random() < 0.7 else (rng.randint(1, 40),) for _ in range(4)],
        "executor": rng.choice(["auto", "serial", "parallel", "reference"]),
        "clip_norm": rng.choice([None, 1.0]),
        "zero_grad": rng.random() < 0.3,
        "seed": seed,
        "events": [_event(rng) for _ in range(rng.randint(2, 6))],
        "last": rng.choice([*HEADERS, "pickle", "deepcopy", "state_dict"]),
    }


def _event(rng: Random) -> tuple[Any, ...]:
    kind = rng.choice(["step", "step", "step", "tamper", "tamper", "refuse"])
    if kind == "step":
        return kind, rng.choice(["same", "reordered"]), rng.random() < 0.3
    return kind, rng.choice(TAMPERS if kind == "tamper" else REFUSED), rng.randrange(10**6)


class Twins:
    """The optimizer whose caller tampers, and the other one."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, seed = case, case["seed"]
        self.count = 0
        start = [array((seed, i), s, "float64") for i, s in enumerate(case["shapes"])]
        self.arrays = [w.copy() for w in start]
        self.container = arrange(case["structure"], list(self.arrays))
        self.tampered = self.make(self.container)
        self.twin = self.make(arrange(case["structure"], start))

    def make(self, params: Any) -> Any:
        case = self.case
        kind, settings = getattr(fastopt, case["optimizer"]), OPTIMIZERS[case["optimizer"]]
        shared = {name: case[name] for name in ("executor", "clip_norm", "zero_grad")}
        return kind(params, lr=0.1, **settings, **shared)

    def pick(self, container: Any) -> list[Any]:
        return pick(self.case["structure"], len(self.arrays), container)

    def gradients(self) -> Any:
        """New gradients in new containers."""
        pairs = enumerate(self.case["shapes"])
        seed, self.count = (self.case["seed"], "grad", self.count), self.count + 1
        leaves = [array((seed, i), shape, "float64") for i, shape in pairs]
        return arrange(self.case["structure"], leaves)

    def step(self, order: str, one_is_none: bool) -> None:
        grads = self.gradients()
        if one_is_none:
            branch, key = branches(grads)[0]
            branch[key] = None
        copied = copy.deepcopy(grads)
        if order == "reordered":
            grads = reordered(grads)
        self.tampered.step(grads)
        self.twin.step(copied)
        self.compare("a step")

    def compare(self, what: str) -> None:
        assert_same(self.arrays, self.pick(self.twin.params), f"params after {what}")
        shown = self.pick(self.tampered.params)
        assert all(map(lambda a, b: a is b, shown, self.arrays)), f"opt.params after {what}"
        assert self.tampered.step_count == self.twin.step_count
        for name, expected in self.twin.state.items():
            states = self.pick(self.tampered.state[name])
            assert_same(states, self.pick(expected), f"{name} after {what}")

    def tamper(self, how: str, seed: int) -> None:
        container = self.container
        if how == "state":
            container = next(iter(self.tampered.state.values()))
        places = branches(container)
        if not places:
            return
        branch, key = places[seed % len(places)]
        other = np.full(branch[key].shape if hasattr(branch[key], "shape") else 3, 7.0)
        try:
            change(branch, key, how, other)
        except (TypeError, AttributeError):
            assert how == "state", how  # what fastopt hands out may be read-only
        self.compare(f"{how} in a container")

    def refuse(self, how: str, seed: int) -> None:
        """Gradients in another structure raise, and change nothing."""
        grads = self.gradients()
        if how == "none":
            grads = [grads]
        else:
            places = branches(grads)
            branch, key = places[seed % len(places)]
            if how == "other keys" and isinstance(branch, dict):
                branch["another"] = branch.pop(key)
            else:
                change(branch, key, "pop" if how == "short" else "append", np.zeros(3))
        must_raise(self.tampered, grads)
        self.compare(f"refused gradients ({how})")

    def end(self, how: str) -> None:
        if how in HEADERS:
            self.spoil(how)
        elif how == "state_dict":
            saved = copy.deepcopy(self.tampered.state_dict())
            resumed = self.make(arrange(self.case["structure"], [w.copy() for w in self.arrays]))
            resumed.load_state_dict(saved)
            self.go_on(resumed)
        else:
            again = pickle.loads(pickle.dumps(self.tampered))
            self.go_on(copy.deepcopy(self.tampered) if how == "deepcopy" else again)

    def go_on(self, other: Any) -> None:
        grads = self.gradients()
        other.step(grads if not self.case["zero_grad"] else copy.deepcopy(grads))
        self.twin.step(grads)
        assert_same(self.pick(other.params), self.pick(self.twin.params), "params of a copy")
        for name, expected in self.twin.state.items():
            assert_same(self.pick(other.state[name]), self.pick(expected), f"{name} of a copy")

    def spoil(self, how: str) -> None:
        """A parameter that is no longer what it was is an error, and nothing is written."""
        spoilt = self.arrays[self.case["seed"] % len(self.arrays)]
        if how == "read-only":
            spoilt.setflags(write=False)
        else:
            spoilt.resize(spoilt.size * 1000 if how == "grow" else 1, refcheck=False)
            if spoilt.shape == self.case["shapes"][self.case["seed"] % len(self.arrays)]:
                return
        previous = [w.copy() for w in self.arrays]
        must_raise(self.tampered, self.gradients())
        assert_same(self.arrays, previous, f"params after one was made {how}")


def must_raise(opt: Any, grads: Any) -> None:
    count = opt.step_count
    try:
        opt.step(grads)
    except (TypeError, ValueError):
        assert opt.step_count == count
    else:
        raise AssertionError("a step that must be refused was taken")


def branches(container: Any) -> list[tuple[Any, Any]]:
    """Every list or dict in a container with each of its keys that is not another one's."""
    if not isinstance(container, (dict, list)):
        return []
    keys = list(container) if isinstance(container, dict) else range(len(container))
    places = [(container, key) for key in keys if not isinstance(container[key], (dict, list, tuple))]
    for key in keys:
        places += branches(container[key])
    return places


def change(branch: Any, key: Any, how: str, other: np.ndarray) -> None:
    """Tamper with a list or dict."""
    if how == "pop":
        branch.pop(key)
    elif how == "append":
        branch.update(another=other) if isinstance(branch, dict) else branch.append(other)
    elif how in ("replace", "state"):
        branch[key] = other
    elif how == "clear":
        branch.clear()
    elif isinstance(branch, dict):
        items = list(branch.items())[::-1]
        branch.clear()
        branch.update(items)
    else:
        branch.reverse()


def reordered(container: Any) -> Any:
    """The same with all keys of dicts in the opposite order."""
    if isinstance(container, dict):
        return {key: reordered(item) for key, item in list(container.items())[::-1]}
    return [reordered(item) for item in container] if isinstance(container, list) else container


def try_case(case: dict[str, Any]) -> None:
    """Play the events on both, and compare after each."""
    twins = Twins(case)
    for kind, *how in case["events"]:
        getattr(twins, kind)(*how)
    twins.end(case["last"])
