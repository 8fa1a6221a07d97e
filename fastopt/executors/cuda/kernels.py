"""The compiled kernels of a chain, made when they are first asked for."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
from numba import types

from fastopt.executors import reference
from fastopt.executors.compiled import Job, check_types
from fastopt.executors.cuda import access, device, source
from fastopt.executors.cuda.source import CONTROL_WORDS, FACTOR, FACTOR32, Form, Names
from fastopt.executors.encoded import ITEMSIZE
from fastopt.executors.specialize import specialize


class JobKernels:
    """The kernels of one job in one form, for one architecture.

    Parameters
    ----------
    job : Job
        The chain, how its arrays are stored, and what else is compiled in.
    form : Form
    architecture : (int, int)
        Compute capability: no such device needs to be there.
    fast : bool
        With approximate roots and quotients.
    """

    def __init__(self, job: Job, form: Form, architecture: tuple[int, int], fast: bool) -> None:
        self._job, self._form = job, form
        self._architecture, self._fast = architecture, fast
        self.dtype = job.compute
        self.width = access.width_of(self.dtype.name)
        self.names = Names(job, form)
        self._scope: dict[str, Any] | None = None
        self._programs: dict[str, device.Program] = {}

    def alignments(self) -> list[int]:
        """By what the address of each array must be divisible for wide accesses."""
        return [self.width * ITEMSIZE[array.storage.codec] for array in self._job.arrays]

    def program(self, name: str) -> device.Program:
        """``wide``, ``scalar`` or ``many``."""
        if name not in self._programs:
            scope = self._prepare()
            exec(compile(self.source(name), f"<fastopt {name} kernel>", "exec"), scope)
            self._programs[name] = device.Program(
                scope[name], self._arguments(name), self._architecture, self._fast
            )
        return self._programs[name]

    def source(self, name: str) -> str:
        """A kernel as Python source."""
        if name == "element":
            return source.element(self._job, self._form)
        if name == "scalar":
            return source.scalar(self._job, self._form)
        write = {"wide": source.wide, "many": source.many}[name]
        return write(self._job, self._form, self.width)

    def _arguments(self, name: str) -> list[Any]:
        number = numba.from_dtype(self.dtype)
        words = {"many": 1, "wide": 2, "scalar": 1}[name]
        words += len(self.names.control) + len(self.names.recall)
        if name != "many":
            words += len(self.names.addresses) + len(self.names.first)
        given = [types.int64] if self._form.capturable else [number] * len(self.names.given)
        return [types.int64] * words + given

    def _prepare(self) -> dict[str, Any]:
        """What the source refers to."""
        if self._scope is not None:
            return self._scope
        name = self.dtype.name
        scope: dict[str, Any] = {"__name__": __name__, "cuda": device.cuda}
        scope["zero"] = self.dtype.type(0)
        scope["load_word"] = access.word_loader()
        scope["load_number"] = load = access.loader(name, name)
        scope["store_number"] = access.storer(name, name)
        factor_at = FACTOR32 * 2 if name == "float32" else FACTOR
        assert factor_at < 2 * CONTROL_WORDS
        scope["load_factor"] = self._helper(lambda control_at: load(control_at, factor_at))
        for slot, array in enumerate(self._job.arrays):
            how = name, array.storage.codec
            for wide, width in (("", 1), ("wide_", self.width)):
                scope[f"load_{wide}{array.name}"] = access.loader(*how, width)
                scope[f"store_{wide}{array.name}"] = (
                    access.dithering_storer(*how, width, slot)
                    if array.storage.dithered
                    else access.storer(*how, width)
                )
        for index, function in enumerate(self._transforms()):
            scope[f"transform{index}"] = function
        exec(compile(self.source("element"), "<fastopt element>", "exec"), scope)
        scope["element"] = self._helper(scope["element"])
        self._scope = scope
        return scope

    def _helper(self, function: Any) -> Any:
        return device.helper(function, self._architecture, self._fast)

    def _transforms(self) -> list[Any]:
        """The chain's own functions, checked one by one so that an error names the culprit."""
        if device.SIMULATED:  # with NumPy's float32, which plain Python does not have
            return list(reference.scalar_functions(self._job.parts, self.dtype))
        made = [
            self._helper(specialize(part.update, self.dtype.type, self._helper))
            for part in self._job.parts
        ]
        check_types(self._job.parts, made, numba.from_dtype(self.dtype), device.result_type)
        return made


@cache
def kernels(job: Job, form: Form, architecture: tuple[int, int], fast: bool = False) -> JobKernels:
    """The kernels of a job; the same for all optimizers that are made of the same."""
    return JobKernels(job, form, architecture, fast)
