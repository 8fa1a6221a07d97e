"""The closure of a function, all that it uses: described by a text, and copied.

Two functions compile to the same code if their texts are equal. A text holds the whole content of the
kinds of values handled here, and the name of objects of Python, NumPy or Numba. Any other object is
described by its identity, and a text with one is valid in this process only.
"""

from __future__ import annotations

import builtins
import dis
import enum
import hashlib
import math
import struct
import sys
from collections.abc import Set
from functools import cached_property, lru_cache
from types import BuiltinFunctionType, CellType, CodeType, EllipsisType, FunctionType, ModuleType
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from fastopt.arrays.checks import loaded
from fastopt.codecs.base import Array, DType

# Modules of C functions, which are known by name.
C_MODULES = {"builtins", "cmath", "math", "_operator"}
LIBRARIES = {"numpy", "numba"}
Described: TypeAlias = tuple[str, Any]  # the text of a value and its copy, which has its type

PLAIN = type(None), bool, str, bytes, EllipsisType

_LOAD_GLOBAL, _EXTENDED_ARG = dis.opmap["LOAD_GLOBAL"], dis.opmap["EXTENDED_ARG"]
# In the bodies of classes, the second since Python 3.12.
_LOAD_NAME = {dis.opmap.get(name) for name in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")}


def python_of(value: object) -> Any:
    """The Python function of a helper that Numba compiled, by njit, vectorize or cfunc."""
    if not type(value).__module__.startswith("numba."):
        return value
    value = getattr(value, "_dispatcher", value)  # inside of vectorize's
    python = getattr(value, "py_func", None) or getattr(value, "_pyfunc", None)
    return python if isinstance(python, FunctionType) else value


def library_name(value: object) -> str | None:
    """The full name of an object of Python, NumPy or Numba that can be imported by it, else None."""
    types = loaded("numba", "types")
    if types is not None and isinstance(value, types.Type):
        return f"numba.types.{value}" if getattr(types, str(value), None) is value else None
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    module = getattr(value, "__module__", None) or ("numpy" if isinstance(value, np.ufunc) else None)
    if not isinstance(name, str) or not isinstance(module, str):
        return None
    in_c = module in C_MODULES and isinstance(value, (BuiltinFunctionType, type))
    if not in_c and module.partition(".")[0] not in LIBRARIES:
        return None
    imported: object = sys.modules.get(module)
    for attribute in name.split("."):
        imported = getattr(imported, attribute, None)
    return f"{module}.{name}" if imported is value else None


def is_plain(value: object) -> TypeGuard[FunctionType]:
    """Whether this is a Python function described by its code; those of libraries are by name."""
    return isinstance(value, FunctionType) and library_name(value) is None


class CodeFacts(NamedTuple):
    """The description of a code object, inner functions included."""

    text: str  # equal for equal code
    global_names: frozenset[str]  # loaded by its instructions
    attribute_names: frozenset[str]  # all of its names: what it may load of a module


@lru_cache(4096)
def facts(code: CodeType) -> CodeFacts:
    """Describe a code object, which is immutable."""
    constants, inner = [], []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner.append(facts(constant))
            constants.append(inner[-1].text)
        else:
            constants.append(Closure().describe(constant)[0])
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    raw = code.co_code.hex(), code.co_exceptiontable.hex()
    return CodeFacts(
        f"{raw} {counts} {names} [{', '.join(constants)}]",
        _loaded_names(code).union(*(one.global_names for one in inner)),
        frozenset(code.co_names).union(*(one.attribute_names for one in inner)),
    )


def _loaded_names(code: CodeType) -> frozenset[str]:
    """The globals that the instructions load, without attributes of the same name."""
    names, raw, extended = set(), code.co_code, 0
    for i in range(0, len(raw), 2):
        operation, argument = raw[i], raw[i + 1] | extended
        extended = argument << 8 if operation == _EXTENDED_ARG else 0
        if operation == _LOAD_GLOBAL:  # its lowest bit is for calls
            names.add(code.co_names[argument >> 1])
        elif operation in _LOAD_NAME:
            names.add(code.co_names[argument])
    return frozenset(names)


def outer_values(function: FunctionType) -> tuple[dict[str, object], dict[str, object]]:
    """The globals and closed-over variables that a function uses, but for undefined ones."""
    scope = function.__globals__
    used = {name: scope[name] for name in sorted(facts(function.__code__).global_names & scope.keys())}
    closed = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            closed[name] = cell.cell_contents
        except ValueError:  # empty
            continue
    return used, closed


def used_attributes(module: ModuleType, names: Set[str]) -> dict[str, object]:
    """The attributes of a module that a function with these names may read."""
    used = {name: vars(module)[name] for name in sorted(names & vars(module).keys())}
    if "__getattr__" in vars(module) and module.__name__.partition(".")[0] not in LIBRARIES:
        for name in sorted(names - used.keys()):  # created on access
            try:
                used[name] = getattr(module, name)
            except AttributeError:
                continue
    return used


def rebuilt(
    original: FunctionType,
    code: CodeType,
    defaults: tuple[object, ...] | None,
    keywords: dict[str, object] | None,
) -> FunctionType:
    """A copy of a function with empty globals and cells, to be filled by `fill`."""
    scope = {
        "__builtins__": original.__globals__.get("__builtins__", builtins),
        "__name__": original.__globals__.get("__name__"),
    }
    cells = tuple(CellType() for _ in code.co_freevars)
    result = FunctionType(code, scope, original.__name__, defaults, cells)
    result.__kwdefaults__ = keywords
    result.__qualname__, result.__module__ = original.__qualname__, original.__module__
    return result


def fill(function: FunctionType, scope: dict[str, object], closed: dict[str, object]) -> None:
    """Give a rebuilt function its globals and closed-over values."""
    function.__globals__.update(scope)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name in closed:
            cell.cell_contents = closed[name]


class Closure:
    """Describes and copies a function, or several values together.

    Parameters
    ----------
    own : bool, optional
        For fastopt's own code: objects that a text cannot describe are defined by its files.

    Attributes
    ----------
    lasts : bool
        Whether the texts mean the same in another process.
    """

    def __init__(self, trusts_types: bool = False) -> None:
        self.lasts = True
        self._trusts_types = trusts_types
        self._met: dict[int, Described] = {}
        self._alive: list[object] = []  # the objects with these ids

    def describe(self, value: object, names: Set[str] = frozenset()) -> Described:
        """The text of a value, and a copy that later changes do not affect.

        Of a module, only the attributes with these names are described and copied.
        """
        kind = type(value)
        if kind is float:
            return f"float {struct.pack('>d', value).hex()}", value
        if kind in PLAIN:
            return repr(value), value
        value = python_of(value)
        if id(value) in self._met:
            return self._met[id(value)]
        if isinstance(value, ModuleType):
            return self._module(value, names)
        name = library_name(value)
        if name is not None:
            return name, value
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, enum.Enum):
            return f"{self.describe(type(value))[0]}.{value.name}", value
        return self._data(value)

    def _again(self, value: object, copy: object) -> None:
        """Refer to a value by number when it is met again, as in a recursive function."""
        self._met[id(value)] = f"again {len(self._alive)}", copy
        self._alive.append(value)

    def _unknown(self, value: object) -> Described:
        if self._trusts_types:
            return f"{type(value).__module__}.{type(value).__qualname__}", value
        self.lasts = False  # the copy keeps it alive, so no other object has its id meanwhile
        return f"object {id(value)}", value

    def _all(self, values: dict[str, object], names: Set[str]) -> tuple[str, dict[str, object]]:
        described = {name: self.describe(value, names) for name, value in values.items()}
        text = "; ".join(f"{name} = {text}" for name, (text, _) in described.items())
        return f"{{{text}}}", {name: copy for name, (_, copy) in described.items()}

    def _function(self, original: FunctionType) -> Described:
        code = original.__code__
        text, _, names = facts(code)
        copy = rebuilt(original, code, None, None)
        self._again(original, copy)
        defaults, copy.__defaults__ = self.describe(original.__defaults__)
        keywords, more = self._all(original.__kwdefaults__ or {}, names)
        copy.__kwdefaults__ = more or None
        (outer, scope), (inner, closed) = (
            self._all(outside, names) for outside in outer_values(original)
        )
        fill(copy, scope, closed)
        head = f"def {original.__name__} {text} {defaults} {keywords}"
        return f"{head} where {outer} and {inner}", copy

    def _module(self, module: ModuleType, names: Set[str]) -> Described:
        name = module.__name__
        if name.partition(".")[0] in LIBRARIES and sys.modules.get(name) is module:
            return f"module {name}", module
        window = ModuleType(name)
        self._again(module, window)
        text, copies = self._all(used_attributes(module, names), names)
        vars(window).update(copies)
        del self._met[id(module)]  # another function uses other names
        # The reference executor replaces this very module by one of its own.
        return f"module {name} {text}", module if module is math else window

    def _class(self, value: type) -> Described:
        """An enumeration or named tuple whose functions are all Python's; others are not known."""
        name = f"{value.__module__}.{value.__qualname__}"
        if _has_code(value):
            return self._unknown(value)
        if issubclass(value, enum.Enum):
            members = {key: member.value for key, member in value.__members__.items()}
            self._again(value, value)
            bases = [base.__name__ for base in value.__mro__[1:]]
            return f"enumeration {name} {bases} {self._all(members, set())[0]}", value
        if issubclass(value, tuple) and hasattr(value, "_fields"):
            self._again(value, value)
            defaults = self._all(value._field_defaults, set())[0]  # type: ignore[attr-defined]
            return f"named tuple {name} {value._fields} {defaults}", value
        return self._unknown(value)

    def _data(self, value: Any) -> Described:
        kind = type(value)
        if kind is int:
            return hex(value), value
        if kind is complex:
            return f"complex {struct.pack('>dd', value.real, value.imag).hex()}", value
        if kind is slice:
            return f"slice {self.describe((value.start, value.stop, value.step))[0]}", value
        if kind is frozenset:
            return f"set {sorted(self.describe(item)[0] for item in value)}", value
        if isinstance(value, tuple):
            return self._tuple(value)
        if isinstance(value, np.dtype) and _is_known(value):
            return f"dtype {_layout(value)}", value
        if isinstance(value, np.generic) and _is_known(value.dtype):
            return f"{kind.__name__} {_layout(value.dtype)} {value.tobytes().hex()}", value.copy()
        if kind is np.ndarray and _is_known(value.dtype):
            return _array(value)
        return self._unknown(value)

    def _tuple(self, value: tuple[object, ...]) -> Described:
        kind = type(value)
        what = "" if kind is tuple else self.describe(kind)[0]
        if kind is not tuple and not hasattr(kind, "_fields"):
            return self._unknown(value)
        pairs = [self.describe(item) for item in value]
        copies = tuple(copy for _, copy in pairs)
        text = f"{what}({', '.join(text for text, _ in pairs)})"
        return text, copies if kind is tuple else tuple.__new__(kind, copies)


def _has_code(kind: type) -> bool:
    """Whether a class or one of its bases has functions that are not the standard library's."""
    for base in kind.__mro__:
        for value in vars(base).values():
            value = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            scope = getattr(value, "__globals__", None)
            if scope is not None:
                name = scope.get("__name__")
                if name not in ("enum", "collections", "typing", f"namedtuple_{base.__name__}"):
                    return True
            elif isinstance(value, cached_property):
                return True
    return False


def _is_known(dtype: DType) -> bool:
    """Whether a dtype is one of NumPy's own, whose elements are described by their bytes."""
    return not dtype.hasobject and dtype.isbuiltin != 2


def _layout(dtype: DType) -> str:
    """The whole of a dtype; that of a record by its fields."""
    if dtype.subdtype is not None:
        return f"{_layout(dtype.subdtype[0])} {dtype.shape}"
    fields = sorted((dtype.fields or {}).items())
    inside = (f"{name!r}: {_layout(field[0])} at {field[1]}" for name, field in fields)
    return f"{dtype.str} {dtype.isalignedstruct} [{', '.join(inside)}]"


def _array(array: Array) -> Described:
    copy = array.copy(order="K")
    copy.flags.writeable = False  # to Numba a global array is a constant
    shape = copy.shape, copy.strides, copy.flags.aligned
    return f"array {_layout(copy.dtype)} {shape} {hashlib.sha256(copy.tobytes('A')).hexdigest()}", copy
