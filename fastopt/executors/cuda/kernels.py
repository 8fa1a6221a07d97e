"""The compiled kernels of a chain, made when they are first asked for."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types

from fastopt.executors import reference
from fastopt.executors.compiled import check_types
from fastopt.executors.cuda import access, device, source
from fastopt.executors.cuda.source import CONTROL_WORDS, FACTOR, FACTOR32, Form, Names
from fastopt.executors.memory import ITEMSIZE
from fastopt.executors.specialize import specialize
from fastopt.transforms.base import Part, Slot


class ChainKernels:
    """The kernels of one chain, dtype and form, for one architecture.

    Parameters
    ----------
    parts : tuple of Part
    dtype : numpy.dtype
        float32 or float64, of parameters, gradients and states.
    form : Form
    architecture : (int, int)
        Compute capability: no such device needs to be there.
    fast : bool
        With approximate roots and quotients.
    """

    def __init__(
        self,
        parts: tuple[Part, ...],
        dtype: np.dtype[Any],
        form: Form,
        architecture: tuple[int, int],
        fast: bool,
    ) -> None:
        self._parts, self.dtype, self._form = parts, dtype, form
        self._architecture, self._fast = architecture, fast
        self.width = access.width_of(dtype.name)
        self.names = Names(parts, form)
        slots = [Slot("param", "param"), Slot("update", "update")]
        slots += [slot for part in parts for slot in part.slots]
        self._stored = [slot.dtype or dtype.name for slot in slots]
        self._scope: dict[str, Any] | None = None
        self._programs: dict[str, device.Program] = {}

    def alignments(self) -> list[int]:
        """By what the address of each array must be divisible for wide accesses."""
        return [self.width * ITEMSIZE[stored] for stored in self._stored]

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
            return source.element(self._parts, self._form)
        if name == "scalar":
            return source.scalar(self._parts, self._form)
        write = {"wide": source.wide, "many": source.many}[name]
        return write(self._parts, self._form, self.width)

    def _arguments(self, name: str) -> list[Any]:
        number = numba.from_dtype(self.dtype)
        words = {"many": 1, "wide": 2, "scalar": 1}[name]
        words += len(self.names.control) + len(self.names.recall)
        words += len(self.names.addresses) if name != "many" else 0
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
        for array, stored in zip(self.names.arrays, self._stored, strict=True):
            for wide, width in (("", 1), ("wide_", self.width)):
                scope[f"load_{wide}{array}"] = access.loader(name, stored, width)
                scope[f"store_{wide}{array}"] = access.storer(name, stored, width)
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
            return list(reference.scalar_functions(self._parts, self.dtype))
        made = [
            self._helper(specialize(part.update, self.dtype.type, self._helper)) for part in self._parts
        ]
        check_types(self._parts, made, numba.from_dtype(self.dtype), device.result_type)
        return made


@cache
def kernels(
    parts: tuple[Part, ...],
    dtype: np.dtype[Any],
    form: Form,
    architecture: tuple[int, int],
    fast: bool = False,
) -> ChainKernels:
    """The kernels of a chain; the same for all optimizers that are made of the same."""
    return ChainKernels(parts, dtype, form, architecture, fast)
