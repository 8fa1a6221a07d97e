"""Parameters and states as floating-point numbers, whatever the formats that they are stored in."""

from __future__ import annotations

from collections.abc import Sequence

from fastopt.arrays import checks, placement
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import AnyArray
from fastopt.arrays.tree import Structure
from fastopt.steps.group import Group
from fastopt.steps.stepper import Stepper


def decoded_params(stepper: Stepper, groups: Sequence[Group]) -> list[Array]:
    """The parameters, with what `master_bits` keeps beside them."""
    stepper.catch_up()
    stepper.settle()
    return [group.decoded_param(i) for group in groups for i in range(len(group.leaves))]


def set_params(stepper: Stepper, structure: Structure, groups: Sequence[Group], params: object) -> None:
    """Give the parameters other values, or raise and change nothing."""
    stepper.catch_up()
    stepper.settle()
    values = []
    names, leaves = structure.names("params"), stepper.parameters.leaves
    matched = structure.match(params, "params")
    for name, leaf, array in zip(names, leaves, matched, strict=True):
        entered = placement.enter(name, array)
        checks.check_readable(name, entered)
        checks.check_shape(name, entered, leaf)
        checks.check_is_written(name, leaf)
        values.append(placement.to_host(apart(entered, stepper.setup.guarded)))
    for row in range(len(leaves)):
        stepper.parameters.check_headers(row)
    remaining = iter(values)
    for group in groups:
        for index in range(len(group.leaves)):
            group.set_param(index, next(remaining))
            if stepper.count == 0:
                group.restart(index)


def apart(values: AnyArray, guarded: checks.Guarded) -> AnyArray:
    """The values, copied to memory if one of the arrays that are written to is among them."""
    start, stop, _ = checks.memory_range("", values)
    # The memory of what is not contiguous is not known.
    if values.flags.c_contiguous and values.dtype.isnative and not guarded.meets(start, stop):
        return values
    return placement.to_host(values).astype(values.dtype.newbyteorder("="))
