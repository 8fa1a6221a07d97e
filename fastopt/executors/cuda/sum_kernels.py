"""The compiled kernels for sums on a device, compiled on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastopt.executors import reference
from fastopt.executors.cuda import device, element_access, sum_source
from fastopt.executors.cuda.kernel_source import KernelVariant
from fastopt.executors.cuda.kernels import JobKernels
from fastopt.executors.cuda.programs import Program
from fastopt.executors.cuda.tree_sum import SIZE, SUM_THREADS, define_adding, scope_of_sums
from fastopt.kernels.compiler import check_from_sums, check_terms
from fastopt.kernels.intrinsics import Intrinsic
from fastopt.kernels.job import ArrayFormat, Job
from fastopt.kernels.kernel_identity import identified, identified_by_functions
from fastopt.kernels.specialize import specialize
from fastopt.kernels.terms import terms_before
from fastopt.transforms.base import Part, sums_in
from fastopt.transforms.gradient_clip import summing


class SumKernels(JobKernels):
    """The kernels that sum what the last transform of a job declares.

    Attributes
    ----------
    columns : list of range
        The sums that each of them adds up.
    """

    SUMMING = True

    def __init__(self, job: Job, form: KernelVariant, architecture: tuple[int, int]) -> None:
        super().__init__(job, form, architecture)
        count, most = len(sums_in(job.parts[-1]).summands), sum_source.MOST
        self.columns = [range(i, min(i + most, count)) for i in range(0, count, most)]

    def programs(self, name: str) -> list[Program]:
        """The compiled kernels ``one`` or ``many``, which together add up all sums."""
        return [self._summing(name, columns) for columns in self.columns]

    def _summing(self, name: str, columns: range) -> Program:
        key = f"{name} {columns.start}"
        if key not in self._programs:
            write = {"one": sum_source.one, "many": sum_source.many}[name]
            text = write(self._job, self._form, columns)
            functions = [part.update for part in self._job.parts[:-1]]
            functions += sums_in(self._job.parts[-1]).summands
            identity = identified(self._job, [self.source("element"), text], functions, "sums-")

            def make() -> Any:
                scope = scope_of_sums(len(columns), self._architecture, self._prepare())
                scope["SHARED"] = len(columns) * SIZE
                exec(compile(text, f"<fastopt sums of {name}>", "exec"), scope)
                return scope[name]

            how = self._typed(4, name == "one"), self._architecture, self._fast
            self._programs[key] = Program(identity, make, *how)
        return self._programs[key]

    def source(self, name: str) -> str:
        """The function of an element as Python source."""
        return sum_source.element(self._job, self._form)

    def _functions(self) -> dict[str, Any]:
        """The functions of the chain as far as the sums, and the summands."""
        *earlier, last = self._job.parts
        sums = sums_in(last)
        scope = {**self._transforms(tuple(earlier)), "float64": np.float64}
        summands = self._in_float64(sums.summands)
        if not device.SIMULATED:
            terms = terms_before(last, len(earlier))
            check_terms(terms, self._job.parts, summands, device.result_type)
        return scope | {f"summand{k}": summand for k, summand in enumerate(summands)}


@cache
def sum_kernels(job: Job, form: KernelVariant, architecture: tuple[int, int]) -> SumKernels:
    """The kernels for the sums of the last transform of a job, shared by optimizers with equal jobs."""
    return SumKernels(job, form, architecture)


def gradient_sums(gradient: str, wide: bool, architecture: tuple[int, int]) -> SumKernels:
    """The kernels for the sums of `transforms.gradient_clip`, of gradients in a format.

    They have the sums of `wide` gradients if any that is summed with them is of float64.
    """
    job = Job((summing(wide=wide),), (ArrayFormat(gradient),) * 2, False, False)
    return sum_kernels(job, KernelVariant(), architecture)


@cache
def conclude(
    part: Part, form: KernelVariant, control: bool, dtype: str, architecture: tuple[int, int]
) -> Program:
    """The kernel from the sums of a transform to its hyperparameters, stored in `dtype`.

    Raises
    ------
    TypeError
        `from_sums` cannot be compiled. The message names the transform.
    """
    text, from_sums = sum_source.conclude(part, form, control), sums_in(part).from_sums

    def helper(function: object) -> Intrinsic:
        compiled: Intrinsic = device.helper(function, architecture, False)
        return compiled

    def make() -> Any:
        columns = sum_source.columns_added(part)
        scope = scope_of_sums(columns, architecture)
        define_adding(scope, architecture)
        scope["SUM_SHARED"] = columns * SUM_THREADS
        scope |= {"load_number": scope["load_double"], "store_number": scope["store_double"]}
        scope["store_decided"] = element_access.storer("float64", dtype)
        if device.SIMULATED:
            scope["from_sums"] = helper(reference.in_float64(from_sums))
        else:
            scope["from_sums"] = helper(specialize(from_sums, np.float64, helper))
            check_from_sums(part, scope["from_sums"], device.result_type)
        exec(compile(text, "<fastopt conclude>", "exec"), scope)
        return scope["conclude"]

    names = sum_source.conclude_arguments(part, form, control)
    numbers = 0 if form.capturable else len(sum_source.settings_of(part))
    arguments = [types.int64] * (len(names) - numbers) + [types.float64] * numbers
    identity = identified_by_functions([text], [from_sums], "conclude-", dtype)
    return Program(identity, make, arguments, architecture)
