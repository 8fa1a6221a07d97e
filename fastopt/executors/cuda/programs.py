"""Kernels for a CUDA device: compiled on first use, kept on disk, and launched.

What is on disk is the machine code for one architecture, and its PTX for a driver that refuses that.
Where it is found, neither Numba's CUDA target nor NVIDIA's compiler is loaded, which takes longer than
to compile a kernel.
"""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType
from typing import Any

import numpy as np
from numba import types

from fastopt.codecs.base import Array
from fastopt.executors.cuda import availability, device
from fastopt.kernels.disk_cache import CacheFile
from fastopt.kernels.intrinsics import Type
from fastopt.kernels.kernel_identity import Identity

# What the machine code depends on beside Numba: packages of the compiler, for CUDA 13 and 12.
COMPILERS = (
    "numba-cuda",
    "nvidia-nvvm",
    "nvidia-nvjitlink",
    "nvidia-cuda-nvcc-cu12",
    "nvidia-nvjitlink-cu12",
)


@cache
def _versions(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the packages that are installed."""
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # for another version of CUDA, or from elsewhere
            continue
    return tuple(versions)


class Program:
    """A compiled kernel.

    Parameters
    ----------
    identity : Identity
        What it is known by on disk.
    make : callable
        Return the kernel as a Python function: called only if it must be compiled.
    arguments : sequence of numba types
        int64, float32 and float64.
    architecture : (int, int)
        Compute capability.
    fast : bool
        Compile without the guarantees of `device.PRECISE`.
    threads : int, optional
        Of a block, where the kernel needs so many.
    """

    def __init__(
        self,
        identity: Identity,
        make: Callable[[], FunctionType],
        arguments: Sequence[Type],
        architecture: tuple[int, int],
        fast: bool = False,
        threads: int | None = None,
    ) -> None:
        self.arguments, self._threads = tuple(arguments), threads
        self._make, self._architecture, self._fast = make, architecture, fast
        self._handles: dict[int, int] = {}
        self._blocks: dict[int, int] = {}
        if device.SIMULATED:
            self._python = make()
            return
        self._file = CacheFile(f"cuda-{identity.name}", identity.content)
        self._target = (
            *_versions(COMPILERS),
            architecture,
            str(device.options(fast)),
            str(self.arguments),
        )
        self._code: device.Code | None = self._file.find(self._target, _read)
        self._library: Any = None
        if self._code is None:
            self._compile()

    def _compile(self) -> Any:
        if self._library is None:
            availability.require_compiler()
            how = self.arguments, self._architecture, self._fast
            self._library = device.compile_kernel(self._make(), *how)
        return self._library

    def ptx(self, architecture: tuple[int, int]) -> str:
        """The code for an architecture as text."""
        return str(self._compile().get_asm_str(cc=(*architecture, "")))

    def load(self) -> None:
        """Put the code on the current device."""
        if not device.SIMULATED:
            ordinal = device.current()
            if ordinal not in self._handles:
                self._handles[ordinal] = self._load_kept() or self._load_compiled()

    def _load_kept(self) -> int | None:
        """Load the code from disk; None if there is none, or the driver takes it no more."""
        if self._code is None:
            return None
        try:
            return device.load(self._code)
        except device.CudaError:
            return None

    def _load_compiled(self) -> int:
        library = self._compile()
        code = device.code_of(library)
        handle = device.load(code)
        self._code = code
        if not library.referenced_objects:  # whose addresses, of this process, are compiled in
            self._file.save(self._target, pickle.dumps(tuple(code)))
        return handle

    def block(self) -> int:
        """The threads of a block: with so many most threads are at work on the current device."""
        if self._threads is not None:
            return self._threads
        if device.SIMULATED:
            return 32  # each one is a thread of Python
        ordinal = device.current()
        if ordinal not in self._blocks:
            self.load()
            self._blocks[ordinal] = device.largest_block(self._handles[ordinal])
        return self._blocks[ordinal]

    def handle(self) -> int:
        """The loaded code on the current device."""
        return self._handles[device.current()]

    def launch(self, blocks: int, threads: int, stream: int, pointers: Array) -> None:
        """Start it; `pointers` is an array of the addresses of the arguments."""
        if device.SIMULATED:
            device.cuda.jit(self._python)[blocks, threads](*self._read_arguments(pointers))
        else:
            device.launch(self.handle(), blocks, threads, stream, pointers)

    def _read_arguments(self, pointers: Array) -> list[float]:
        kinds = {types.int64: np.int64, types.float32: np.float32, types.float64: np.float64}
        values = []
        for kind, pointer in zip(self.arguments, pointers, strict=True):
            dtype = np.dtype(kinds[kind])
            raw = (ctypes.c_char * dtype.itemsize).from_address(int(pointer))
            value = np.ctypeslib.as_array(raw).view(dtype)[0]
            values.append(int(value) if kind == types.int64 else value)
        return values


def _read(parts: tuple[Any, ...]) -> device.Code:
    """The code in a file.

    Raises
    ------
    TypeError
        It is something else.
    """
    code = device.Code(*parts)
    if not isinstance(code.entry, str) or {type(code.machine), type(code.ptx)} != {bytes}:
        raise TypeError("no code")
    return code
