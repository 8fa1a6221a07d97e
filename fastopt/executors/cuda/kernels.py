"""The compiled kernels of a chain, compiled on first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from numba import types

from fastopt.executors import reference
from fastopt.executors.cuda import (
    block_access,
    device,
    element_access,
    kernel_source,
    split_access,
    tree_sum,
    warp_functions,
    warp_sums,
)
from fastopt.executors.cuda.block_layout import ALIGNED
from fastopt.executors.cuda.kernel_source import KernelVariant, Names, factor_offset
from fastopt.executors.cuda.programs import Program
from fastopt.executors.norm import LANES
from fastopt.kernels.compiler import check_terms, check_types
from fastopt.kernels.intrinsics import Intrinsic, Scope, Type
from fastopt.kernels.job import CORRECTION, ArrayFormat, Job, KernelArray
from fastopt.kernels.kernel_identity import identified
from fastopt.kernels.specialize import specialize
from fastopt.transforms.base import Part


class JobKernels:
    """The kernels of one job and variant, for one architecture.

    Parameters
    ----------
    job : Job
        The chain, the formats of its arrays, and options.
    form : KernelVariant
    architecture : (int, int)
        Compute capability; no such device is needed.
    """

    SUMMING = False  # whether it is the sums of the last transform that are computed

    def __init__(self, job: Job, form: KernelVariant, architecture: tuple[int, int]) -> None:
        self._job, self._form = job, form
        self.capturable = form.capturable
        self._architecture, self._fast = architecture, job.fast
        self.dtype = job.compute
        self.width = element_access.width_of(self.dtype.name)
        self.names = Names(job, form, self.SUMMING)
        # A unit of work: `unit` elements for a `team` of threads.
        self.unit, self.team = warp_sums.unit_of(job)
        self._scope: Scope | None = None
        self._programs: dict[str, Program] = {}

    def alignments(self) -> list[int]:
        """The alignment in bytes of each array for wide accesses."""
        return [
            ALIGNED if array.storage.in_blocks else self.width * array.storage.itemsize
            for array in self._job.arrays
        ]

    def threads(self, size: int, aligned: bool) -> int:
        """The number of threads for one array of `size` elements."""
        if self.team > 1:
            return -(-size // self.unit) * self.team
        if self.names.terms:
            return -(-size // self.width)
        return size // self.width + size % self.width if aligned else size

    def sums_before(self, start: int) -> int:
        """The bytes of the sums of an array's pieces before an element."""
        return 8 * LANES * len(self.names.terms) * (start // warp_sums.piece_of(self._job))

    def program(self, name: str) -> Program:
        """The compiled kernel ``wide``, ``scalar`` or ``many``."""
        if name not in self._programs:
            texts = self.source("element"), self.source(name)
            functions = [part.update for part in self._job.parts]
            functions += [term.function for term in self._job.terms if self.names.terms]
            identity = identified(self._job, texts, functions)
            how = self._arguments(name), self._architecture, self._fast
            threads = tree_sum.THREADS if self.names.terms else None
            self._programs[name] = Program(identity, partial(self._kernel, name), *how, threads)
        return self._programs[name]

    def _kernel(self, name: str) -> Any:
        """A kernel as a Python function."""
        scope = self._prepare()
        exec(compile(self.source(name), f"<fastopt {name} kernel>", "exec"), scope)
        return scope[name]

    def source(self, name: str) -> str:
        """A kernel as Python source."""
        if name == "element":
            return kernel_source.element(self._job, self._form)
        if name == "scalar":
            return kernel_source.scalar(self._job, self._form)
        write = {"wide": kernel_source.wide, "many": kernel_source.many}[name]
        return write(self._job, self._form, self.width)

    def _arguments(self, name: str) -> list[Type]:
        words = {"many": 1, "wide": 2, "scalar": 1}[name]
        return self._typed(words, name != "many")

    def _typed(self, words: int, alone: bool) -> list[Type]:
        """The types of so many integers, those of an array by itself, and the common arguments."""
        words += len(self.names.control) + len(self.names.recall)
        words += len(self.names.words) * alone
        number = numba.from_dtype(self.dtype)
        hyper = [types.int64] if self._form.capturable else [number] * len(self.names.hyper_arguments)
        if self._form.hyper_in_rows and not alone:
            hyper = []
        return [types.int64] * words + hyper

    def _prepare(self) -> Scope:
        """The globals of the kernels' source."""
        if self._scope is not None:
            return self._scope
        name = self.dtype.name
        scope: Scope = {"__name__": __name__, "cuda": device.cuda}
        scope["zero"] = self.dtype.type(0)
        scope["load_word"] = element_access.word_loader()
        scope["load_number"] = load = element_access.loader(name, name)
        scope["store_number"] = element_access.storer(name, name)
        factor_index = factor_offset(name) // self.dtype.itemsize
        scope["load_factor"] = self._helper(lambda control_at: load(control_at, factor_index))
        for array in self._job.arrays:
            functions = self._access(array)
            scope |= {f"{verb}_{array.name}": function for verb, function in functions.items()}
        if self.names.blocked:
            scope["nothing"] = np.int32(0)
            warp_functions.define_warp_functions(scope)
        scope |= self._functions()
        if self.names.terms:
            warp_sums.define_adding(scope, self._job, self._architecture)
        exec(compile(self.source("element"), "<fastopt element>", "exec"), scope)
        scope["element"] = self._helper(scope["element"])
        self._scope = scope
        return scope

    def _access(self, array: KernelArray) -> dict[str, Intrinsic]:
        """The functions that load and store an array."""
        if array.kind == CORRECTION:
            return {}  # together with the parameter
        if array.name == "param" and self._job.correction is not None:
            return split_access.split_access(
                array.storage.codec, self._job.correction.width, self.width
            )
        access = self._blocks if array.storage.in_blocks else self._floats
        return access(array.storage, array.number)

    def _floats(self, storage: ArrayFormat, slot: int) -> dict[str, Intrinsic]:
        """The functions that load and store numbers."""
        formats, access = (self.dtype.name, storage.codec), {}
        converts = self._architecture >= element_access.BFLOAT16_SINCE
        for wide, width in (("", 1), ("_wide", self.width)):
            access[f"load{wide}"] = element_access.loader(*formats, width)
            access[f"store{wide}"] = (
                element_access.dithering_storer(*formats, width, slot)
                if storage.dithered
                else element_access.storer(*formats, width, converts_bfloat16=converts)
            )
        return access

    def _blocks(self, storage: ArrayFormat, slot: int) -> dict[str, Intrinsic]:
        """The functions that load and store codes."""
        access = block_access.block_access(storage.codec, storage.dithered, slot)
        return access._asdict()

    def _helper(self, function: object) -> Intrinsic:
        compiled: Intrinsic = device.helper(function, self._architecture, self._fast)
        return compiled

    def _functions(self) -> dict[str, Intrinsic]:
        """The chain's functions by name, checked one by one so that an error names the transform."""
        scope = self._transforms(self._job.parts)
        if not self.names.terms:
            return scope
        terms = self._job.terms
        observers = self._in_float64([term.function for term in terms])
        if not device.SIMULATED:
            check_terms(terms, self._job.parts, observers, device.result_type)
        return scope | {f"observe{k}": function for k, function in enumerate(observers)}

    def _in_float64(self, functions: Sequence[object]) -> list[Intrinsic]:
        """Functions that give terms of sums, to be called from a kernel."""
        if device.SIMULATED:
            return [self._helper(reference.in_float64(each)) for each in functions]
        return [self._helper(specialize(each, np.float64, self._helper)) for each in functions]

    def _transforms(self, parts: tuple[Part, ...]) -> dict[str, Intrinsic]:
        if device.SIMULATED:  # with NumPy's float32, which plain Python does not have
            functions = list[Any](reference.scalar_functions(parts, self.dtype))
        else:
            functions = [
                self._helper(specialize(part.update, self.dtype.type, self._helper)) for part in parts
            ]
            check_types(parts, functions, numba.from_dtype(self.dtype), device.result_type)
        return {f"transform{index}": function for index, function in enumerate(functions)}


@cache
def kernels(job: Job, form: KernelVariant, architecture: tuple[int, int]) -> JobKernels:
    """The kernels of a job, shared by all optimizers with equal jobs."""
    return JobKernels(job, form, architecture)
