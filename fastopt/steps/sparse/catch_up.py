"""Catching up as a kernel: a generated transform whose hyperparameters stand for many steps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastopt.kernels.identity import frozen
from fastopt.steps.sparse.closed_form import PARAM, ClosedForm
from fastopt.transforms.base import ONCE, Part, Slot, Update


@lru_cache(512)
def catch_up_part(parts: tuple[Part, ...], no_gradient: tuple[object, ...], form: ClosedForm) -> Part:
    """The transform that brings an element up to date, with all slots of the chain.

    Its hyperparameters are those of `ClosedForm.entries`, then those of the parts that act once.
    """
    names = {PARAM: "param"}  # of the variables
    slots: list[Slot] = []
    read: list[str] = []
    once: list[tuple[int, str, list[str]]] = []
    hypers = 0
    for index, (part, function) in enumerate(zip(parts, no_gradient, strict=True)):
        reads = []
        for slot in part.slots:
            name = f"x{len(slots)}"
            slots.append(slot)
            if slot.kind != "input":
                names[len(names)] = name
            if slot.kind != "output":
                read.append(name)
                reads.append(name)
        if function == ONCE:
            numbers = [f"n{hypers + i}" for i in range(part.hypers)]
            hypers += part.hypers
            once.append((index, _tuple(reads), numbers))
    numbers = [f"c{i}" for i in range(len(form.entries()))]
    remaining = iter(numbers)

    def new(variable: int) -> str:
        others = form.rows[variable]
        if others is None:
            return names[variable]
        return " + ".join(f"{next(remaining)} * {names[other]}" for other in others) or "0.0"

    values = [new(variable) for variable in names]
    all_numbers = [*numbers, *(number for *_, reads in once for number in reads)]
    lines = ["def catch_up_update(new, param, state, hyper):"]
    lines += [f"    {_tuple(read)} = state"] if read else []
    lines += [f"    {_tuple(all_numbers)} = hyper"] if all_numbers else []
    lines += [f"    param, _ = once{i}(param, param, {reads}, {_tuple(n)})" for i, reads, n in once]
    lines += [f"    return {values[0]}, {_tuple(values[1:])}"]
    scope: dict[str, Any] = {"__name__": __name__}
    scope |= {f"once{i}": parts[i].update for i, *_ in once}
    exec(compile("\n".join(lines), "<fastopt catch up>", "exec"), scope)
    update: Update = scope["catch_up_update"]
    return Part(frozen(update), tuple(slots), len(all_numbers), after=True)


def _tuple(names: list[str]) -> str:
    return "(" + "".join(f"{name}, " for name in names).rstrip() + ")"
