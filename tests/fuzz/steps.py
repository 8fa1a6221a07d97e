"""Steps with dense and sparse gradients: by every executor, interrupted, cut up, and by the oracle."""

from typing import Any

import numpy as np

import fastopt
from tests.fuzz import numbers, recipes
from tests.fuzz.compare import assert_same_trace
from tests.fuzz.pieces import CutPlayer, can_be_cut
from tests.fuzz.play import Player
from tests.fuzz.predict import ORACLES, Prediction
from tests.fuzz.stories import SHARED, draw
from tests.support import COMPILED

# Plain Python takes microseconds for an element.
SLOW = 3000


def dense(seed: int) -> dict[str, Any]:
    """A case without sparse gradients."""
    return draw(seed)


def sparse(seed: int) -> dict[str, Any]:
    """A case with sparse, dense and no gradients in any order."""
    return draw(seed, sparse=True)


def sums(seed: int) -> dict[str, Any]:
    """A case whose rates depend on sums, or between a point and its average."""
    which = seed // SHARED % 3
    case = draw(seed, optimizers=recipes.AUTOMATIC if which == 1 else recipes.SUMMED)
    settings, rng = case["recipe"]["settings"], numbers.choose(seed // SHARED, "sums")
    if which == 0 and "bounds" not in settings:
        settings["schedule_free"] = 0.9
    if which == 1:
        settings["lr"] = "auto", recipes.number(rng, 0.1, 1.0)
    if rng.random() < 0.5:
        names = ["grad_norm", "update_rms", "param_mean", "grad_nonfinite"]
        case["recipe"]["options"]["stats"] = rng.sample(names, rng.randint(1, 4))
    return case


def sparse_sums(seed: int) -> dict[str, Any]:
    """A case with sparse gradients and statistics, perhaps with a rate that depends on sums."""
    optimizers = recipes.ELEMENTWISE if seed // SHARED % 3 == 0 else ["CalmedRows"]
    case = draw(seed, sparse=True, optimizers=optimizers)
    recipes.add_statistics(case["recipe"], numbers.choose(seed // SHARED, "sparse sums"))
    return case


def work(case: dict[str, Any]) -> int:
    """Elements that all steps of a case go through."""
    return sum(int(np.prod(shape)) for shape in case["shapes"]) * len(case["steps"])


def try_case(case: dict[str, Any]) -> None:
    """Play it in all ways, and compare."""
    exact = case["recipe"]["options"].get("sparse") == "exact"
    # Reading brings rows up to date, and then there is nothing to bring up to date later.
    looks = not exact
    first = Player(case, looks=looks)
    base = first.trace()
    if exact:
        check_against_dense(case, base[-1])
    elif is_predicted(case["recipe"]):
        Prediction(case, first.bounds).check(base)
    for executor, resumes, threads in ways(case):
        with fastopt.threads(threads):
            trace = Player(case, executor, resumes=resumes, looks=looks).trace()
        name = f"{executor}, {threads} threads{', resumed' * resumes}"
        assert_same_trace(trace, base, f"{name} against serial")
    if can_be_cut(case):
        trace = CutPlayer(case).trace()
        assert_same_trace(trace, base, "in pieces against the whole")
    if case["recipe"].get("fast"):
        with fastopt.threads(case["threads"]):
            one = Player(case, "fast", resumes=True, looks=looks).trace()
        with fastopt.threads(1):
            other = Player(case, "fast", looks=looks).trace()
        assert_same_trace(one, other, "fast against itself")


def is_predicted(recipe: dict[str, Any]) -> bool:
    """Whether there is an oracle for it."""
    lr = recipe["settings"].get("lr")
    is_automatic = isinstance(lr, tuple) and lr[0] == "auto"
    return recipe["optimizer"] in ORACLES and not is_automatic


def ways(case: dict[str, Any]) -> list[tuple[str, bool, int]]:
    """Other ways to play a case than straight on one core."""
    runs = [("serial", True, 1)]
    if COMPILED:
        runs += [("parallel", False, case["threads"]), ("auto", True, case["threads"])]
    if COMPILED and work(case) <= SLOW:
        runs.append(("reference", False, 1))
    return runs


def check_against_dense(case: dict[str, Any], last: dict[str, Any]) -> None:
    """Exact sparse steps are dense ones within 4 ULP a step of the largest number on the way."""
    if case["recipe"]["dtype"] not in ("float32", "float64"):
        return  # catching up rounds once where dense steps round each time
    trace = Player(case, dense=True).trace()
    steps = 1 + sum(event[0] == "step" for event in case["steps"])
    for name in ("params", *last["states"]):
        for i, one in enumerate(leaves(last, name)):
            history = [leaves(note, name)[i] for note in trace]
            largest = np.max(np.abs(history), axis=0)
            if name == "params":  # how far it went, too
                largest = largest + np.sum(np.abs(np.diff(history, axis=0)), axis=0)
            budget = 4 * (steps + 1) * np.finfo(one.dtype).eps
            budget = budget * np.maximum(largest, np.finfo(one.dtype).tiny)
            off = np.abs(one - history[-1])
            assert (off <= budget).all(), f"{name}[{i}]: off by {(off / budget).max():.3g} budgets"


def leaves(note: dict[str, Any], name: str) -> list[np.ndarray]:
    return note["params"] if name == "params" else note["states"][name]
