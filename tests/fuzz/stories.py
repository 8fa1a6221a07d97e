"""A case: arrays in a structure, and what happens to them, as plain data drawn from a seed."""

from collections.abc import Sequence
from random import Random
from typing import Any

from tests.fuzz import numbers, recipes

# Around the widths of vectors, blocks of codes, pages and the threads' shares; and primes.
SIZES = (0, 1, 2, 3, 7, 13, 15, 16, 17, 31, 32, 33, 61, 63, 64, 65, 127, 251, 255, 256, 257)
LARGE = (1021, 4095, 4096, 4097, 16383, 16384, 16385)

STRUCTURES = ("array", "array", "list", "tuple", "dict", "nested", "groups")
RESUMES = ("save", "state_dict", "pickle", "deepcopy")
FORMATS = ("pair", "pair", "csr", "coo", "csc")

# Neighbouring seeds that share what is compiled.
SHARED = 32


def draw(
    seed: int, sparse: bool = False, optimizers: Sequence[str] = recipes.ELEMENTWISE
) -> dict[str, Any]:
    """The case of a seed."""
    recipe = recipes.draw(numbers.choose(seed // SHARED, "recipe", sparse), sparse, optimizers)
    rng = numbers.choose(seed, "story", sparse)
    structure = rng.choice(STRUCTURES)
    several = structure != "array"
    count = rng.randint(2, 4) if several else 1
    case: dict[str, Any] = {
        "recipe": recipe,
        "structure": structure,
        "shapes": [_shape(rng, sparse, recipe) for _ in range(count)],
        "groups": _groups(rng, recipe) if structure == "groups" else [],
        "seed": seed,
        "mood": rng.choice(["plain", "plain", "plain", "special"]) if _is_free(recipe) else "plain",
        "reuse": rng.random() < 0.5,  # gradients in the same arrays in every step
        "offset": rng.choice([0, 0, 1, 3]),  # elements before an array, in one buffer
        "strict": rng.random() < 0.3,  # NumPy raises where it would warn
        "threads": rng.choice([2, 3, 5, 8]),
    }
    case["steps"] = [_event(rng, case, sparse) for _ in range(rng.randint(2, 7))]
    return case


def _is_free(recipe: dict[str, Any]) -> bool:
    """Whether infinities may come in: products of matrices make NaN of them where steps would not."""
    return recipe["options"].get("sparse") != "exact"


def _shape(rng: Random, sparse: bool, recipe: dict[str, Any]) -> tuple[int, ...]:
    if sparse:
        rows = rng.choice([1, 2, 7, 16, 33, 64, 257])
        return rng.choice([(rows,), (rows, 3), (rows, 16), (rows, 5), (rows, 2, 3)])
    blocks = recipe["options"].get("state_dtype") == "8bit"
    size = rng.choice(LARGE if rng.random() < (0.6 if blocks else 0.15) else SIZES)
    if size == 1 and rng.random() < 0.5:
        return ()
    for rows in (3, 2):
        if size and size % rows == 0 and rng.random() < 0.5:
            return rows, size // rows
    return (size,)


def _groups(rng: Random, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Two groups with settings of their own, of those that all have: the parts are the same."""
    low, high = recipes.NUMBERS[recipe["optimizer"]]["lr"]
    free = "lr" not in recipes.FIXED.get(recipe["optimizer"], ())
    settings = {"lr": recipes.number(rng, low, high, schedules=free)}
    return [{}, settings if rng.random() < 0.8 else {}]


def _event(rng: Random, case: dict[str, Any], sparse: bool) -> tuple[Any, ...]:
    recipe = case["recipe"]
    chance = rng.random()
    if chance < 0.15:
        return "resume", rng.choice(RESUMES)
    if chance < 0.3 and (names := _assignable(recipe)):
        name = rng.choice(names)
        low, high = recipes.NUMBERS[recipe["optimizer"]].get(name, (0.05, 0.5))
        group = rng.choice([None, 0, 1]) if case["groups"] and name != "clip_norm" else None
        return "assign", group, name, recipes.number(rng, low, high, schedules=False)
    if sparse and chance < 0.4:
        return "look", rng.choice(["state", "params", "rows", "rows"]), rng.randrange(10**6)
    scale = rng.choice([1.0, 1024.0, 0.3, 2.0**-10]) if recipe["scaled"] else 1.0
    grads = [_gradient(rng, case, shape, sparse) for shape in case["shapes"]]
    return "step", grads, scale


def _assignable(recipe: dict[str, Any]) -> list[str]:
    """Settings that are numbers: a saved run brings those along, and schedules not."""
    settings = recipe["settings"] | {k: v for k, v in recipe["options"].items() if k == "clip_norm"}
    fixed = ["initial_accumulator", "lr_decay", "momentum_decay", "beta1", "seed"]
    fixed += recipes.FIXED.get(recipe["optimizer"], ())
    names = [k for k, v in settings.items() if type(v) is float and k not in fixed]
    if settings.get("centered"):
        names = [name for name in names if name != "eps"]
    return sorted(name for name in names if settings[name])


def _gradient(rng: Random, case: Any, shape: tuple[int, ...], sparse: bool) -> tuple[Any, ...]:
    recipe = case["recipe"]
    if len(case["shapes"]) > 1 and rng.random() < 0.15:
        return ("none",)
    dtype = rng.choice(recipe["grad_dtypes"])
    mood = rng.choice(numbers.MOODS if _is_free(recipe) else ["plain", "zeros"])
    if not sparse or rng.random() < 0.25:
        return "dense", dtype, mood
    kind = "pair" if len(shape) != 2 else rng.choice(FORMATS)
    if kind != "pair":
        dtype = "float64" if recipe["dtype"] == "float64" else "float32"
    return kind, dtype, mood, rng.randint(0, 2 * shape[0])


def arrange(structure: str, leaves: list[Any]) -> Any:
    """These arrays, or whatever stands for them, as the caller holds them."""
    if structure == "array":
        return leaves[0]
    if structure in ("list", "tuple"):
        return leaves if structure == "list" else tuple(leaves)
    if structure == "dict":
        return {f"p{i}": leaf for i, leaf in enumerate(leaves)}
    if structure == "nested":
        return {"inner": [leaves[0], (leaves[1],)], 7: dict(enumerate(leaves[2:]))}
    return [leaves[:-1], leaves[-1]]  # groups


def pick(structure: str, count: int, container: Any) -> list[Any]:
    """The leaves of a container in the order of `arrange`, whatever the order of its keys."""
    leaves: list[Any] = [None] * count

    def walk(places: Any, node: Any) -> None:
        if isinstance(places, int):
            leaves[places] = node
        elif node is not None:
            for key in places if isinstance(places, dict) else range(len(places)):
                walk(places[key], node[key])

    walk(arrange(structure, list(range(count))), container)
    return leaves
