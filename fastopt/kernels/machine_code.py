"""Machine code: an object file that LLVM links into the process, and that Python calls.

Neither needs Numba: a process that finds its code on disk does not import it.
"""

from __future__ import annotations

import builtins
import ctypes
import threading
from collections.abc import Callable
from functools import cache
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from llvmlite import binding

# A function in machine code, as Python calls it.
Compiled: TypeAlias = Callable[..., Any]

_FASTCALL = 0x0080  # METH_FASTCALL: called with a pointer to the arguments and their number


class MachineCode(NamedTuple):
    """A compiled function.

    Attributes
    ----------
    object_file : bytes
    name : str
        Of the function in it.
    imports : tuple of str
        The functions and variables that it takes from the process.
    lasts : bool
        Whether another process may use it: not if addresses of this one are compiled in.
    """

    object_file: bytes
    name: str
    imports: tuple[str, ...]
    lasts: bool


class _Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("documentation", ctypes.c_char_p),
    )


# Held by who compiles and links, and imports what does: a child must not be forked meanwhile, in which
# nobody would release the locks of modules and of LLVM.
linking = threading.RLock()
_numbers = count()
_kept: list[object] = []  # what machine code and CPython have the addresses of


def link(code: MachineCode) -> int:
    """Link machine code into the process, where it stays; return the function's address.

    Raises
    ------
    RuntimeError
        The process lacks something that it imports.
    """
    library = binding.JITLibraryBuilder().add_object_img(code.object_file).add_current_process()
    library.export_symbol(code.name)
    for name in code.imports:
        address = _address(name)
        if address:  # given to LLVM by name; others are the process's
            library.import_symbol(name, address)
    with linking:
        linked = library.link(_linker(), f"fastopt{next(_numbers)}")
    _kept.append(linked)
    return int(linked[code.name])


def _address(name: str) -> int | None:
    # To Numba the name of an exception is that of its class, to C of a variable that points to it.
    if name.startswith("PyExc_"):
        return id(getattr(builtins, name.removeprefix("PyExc_")))
    address: int | None = binding.address_of_symbol(name)
    return address


@cache
def _linker() -> binding.LLJIT:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.create_lljit_compiler(suppress_errors=True)


def python_function(address: int, name: str) -> Compiled:
    """The function of Python's at an address, which `python_entry` emitted."""
    method = _Method(name.encode(), address, _FASTCALL, None)
    _kept.append(method)
    # Its first argument is the class that arrays must be of.
    return _new_function()(ctypes.byref(method), np.ndarray, None)


@cache
def _new_function() -> Callable[..., Compiled]:
    kinds = ctypes.POINTER(_Method), ctypes.py_object, ctypes.py_object
    return ctypes.PYFUNCTYPE(ctypes.py_object, *kinds)(("PyCFunction_NewEx", ctypes.pythonapi))
