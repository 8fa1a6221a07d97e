"""`from_sums` for the CPU: compiled, and called for all arrays of a pass in one go."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fastopt.codecs.base import Array
from fastopt.executors.cpu.columns import COUNT, LENGTH
from fastopt.kernels.chain_source import tuple_of
from fastopt.kernels.disk_cache import obtain
from fastopt.kernels.kernel_identity import identified_by_functions
from fastopt.kernels.machine_code import MachineCode, python_function
from fastopt.transforms.base import Part, sums_in

# A line says what `from_sums` is called with, and where its results go:
(
    COLUMN,  # of the sums,
    HOLDER,  # row of the carried numbers,
    SETTINGS,  # row of the hyperparameters from the host,
    ROW,  # row of the array that must have a gradient, -1 if it is for all arrays,
    DECIDED,  # address of the hyperparameters that it returns,
    DOUBLE,  # and whether they are float64 there, not float32
) = range(6)
LINE_WORDS = 6

Conclude = Callable[[Array, Array, Array, Array, Array, Array], bool]

_ITEMSIZES = 4, 8


def source(part: Part) -> str:
    """The loop over the lines of a table, as Python source."""
    sums = sums_in(part)
    carried = range(len(sums.carried))
    settings = tuple_of(f"settings[row, {i}]" for i in range(sums.from_host))
    totals = tuple_of(f"sums[{k}, column]" for k in range(len(sums.names)))
    previous = tuple_of(f"carried[holder, {c}]" for c in carried)
    lines = ["def conclude(lines, rows, settings, sums, carried, following):"]
    lines += ["    skipped = False"]
    lines += ["    for i in range(lines.shape[0]):"]
    lines += [f"        column, holder, row = lines[i, {COLUMN}], lines[i, {HOLDER}], lines[i, {ROW}]"]
    lines += [f"        if row >= 0 and rows[row, {COUNT}] != rows[row, {LENGTH}]:"]
    lines += [f"            following[holder, {c}] = carried[holder, {c}]" for c in carried]
    lines += ["            continue"]
    lines += [f"        row, at = lines[i, {SETTINGS}], lines[i, {DECIDED}]"]
    lines += [f"        result = from_sums({settings}, {totals}, {previous})"]
    lines += [f"        following[holder, {c}] = float64(result[1][{c}])" for c in carried]
    for word, is_double in (("float64", True), ("float32", False)):
        test = f"if lines[i, {DOUBLE}] != 0" if is_double else "else"
        lines += [f"        {test}:", "            pass"]
        for k in range(part.hypers):
            value, offset = f"float64(result[0][{k}])", _ITEMSIZES[is_double] * k
            value = value if is_double else f"float32({value})"
            lines += [f"            write_{word}(at + {offset}, {value})"]
    lines += ["        skipped = skipped or bool(result[2])"] if sums.skips else []
    lines += ["    return skipped"]
    return "\n".join(lines) + "\n"


@cache
def conclude(part: Part) -> Conclude:
    """``conclude(part)(lines, rows, settings, sums, carried, following)``: whether to skip the step.

    For each line of a table it calls `from_sums` of a transform, writes hyperparameters to where the
    line says, and the numbers that are carried on to `following`. Where an array has no gradient,
    according to its row of the table of arrays, these are `carried`.

    Raises
    ------
    TypeError
        `from_sums` cannot be compiled. The message names the transform.
    """
    text, from_sums = source(part), sums_in(part).from_sums
    identity = identified_by_functions([text], [from_sums], "from-sums-")

    def compiled() -> MachineCode:
        from fastopt.executors.cpu.conclusion_code import conclusion_library

        return conclusion_library(part, text, identity).machine_code

    return python_function(obtain(identity.name, identity.content, compiled), "conclude")
