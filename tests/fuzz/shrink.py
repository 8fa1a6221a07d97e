"""A simpler case that fails in the same way, found by leaving out what is not needed."""

import time
from collections.abc import Callable, Iterator
from typing import Any


def shrink(case: Any, fails: Callable[[Any], bool], seconds: float) -> Any:
    """The simplest case found in that time; `case` itself if none is."""
    stop = time.monotonic() + seconds
    candidates = simpler(case)
    while (candidate := next(candidates, None)) is not None and time.monotonic() < stop:
        if fails(candidate):
            case = candidate
            candidates = simpler(case)
    return case


def simpler(case: Any) -> Iterator[Any]:
    """Cases with something left out: steps, arrays, settings, options; then smaller ones."""
    if not isinstance(case, dict) or "recipe" not in case:
        return
    steps, shapes, recipe = case["steps"], case["shapes"], case["recipe"]
    for i in range(len(steps)):
        yield case | {"steps": steps[:i] + steps[i + 1 :]}
    for part in ("options", "settings"):
        for name in recipe[part]:
            if name != "sparse":
                rest = {k: v for k, v in recipe[part].items() if k != name}
                yield case | {"recipe": recipe | {part: rest}}
    if "copy_dtype" in recipe:
        yield case | {"recipe": {k: v for k, v in recipe.items() if k != "copy_dtype"}}
    for name, plain in (("offset", 0), ("reuse", False), ("mood", "plain"), ("strict", False)):
        if case[name] != plain:
            yield case | {name: plain}
    if len(shapes) > 1 and case["structure"] in ("list", "tuple", "dict"):
        for i in range(len(shapes)):
            yield _without(case, i)
    if case["structure"] not in ("array", "list"):
        yield case | {"structure": "list", "groups": []}
    for i, shape in enumerate(shapes):
        for smaller in ((), (1,), (2,), (17,)):
            if len(shape) == 1 and smaller and smaller[0] < shape[0]:
                yield case | {"shapes": [*shapes[:i], smaller, *shapes[i + 1 :]]}


def _without(case: dict[str, Any], i: int) -> dict[str, Any]:
    """The case without an array."""
    steps = [
        ("step", grads[0][:i] + grads[0][i + 1 :], *grads[1:]) if kind == "step" else (kind, *grads)
        for kind, *grads in case["steps"]
    ]
    return case | {"shapes": case["shapes"][:i] + case["shapes"][i + 1 :], "steps": steps}
