"""A function is known by its whole content: each kind of value that it can use, and changes of it."""

from __future__ import annotations

import dis
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastopt.kernels.closure import facts
from fastopt.kernels.identity import content, frozen, of_compiled

# What a module defines, once and changed; the function uses VALUE.
CHANGES = {
    "float": ("VALUE = 1.0", "VALUE = 3.0"),
    "sign of zero": ("VALUE = 0.0", "VALUE = -0.0"),
    "kind of number": ("VALUE = 1", "VALUE = True"),
    "complex": ("VALUE = 1j", "VALUE = 1 + 1j"),
    "tuple": ("VALUE = (1.0, (2.0, 3))", "VALUE = (1.0, (2.0, 4))"),
    "text": ("VALUE = 'a'", "VALUE = b'a'"),
    "slice": ("VALUE = slice(1, 2)", "VALUE = slice(1, 3)"),
    "set": ("VALUE = frozenset('ab')", "VALUE = frozenset('ac')"),
    "scalar": ("VALUE = np.float32(1)", "VALUE = np.float64(1)"),
    "dtype": ("VALUE = np.dtype('f4')", "VALUE = np.dtype('>f4')"),
    "type": ("VALUE = np.float32", "VALUE = np.float64"),
    "numba's type": ("VALUE = numba.float32", "VALUE = numba.float64"),
    "small digit": ("VALUE = np.array([1 / 3])", "VALUE = np.array([1 / 3 + 1e-16])"),
    "long array": ("VALUE = np.zeros(2000)", "VALUE = np.zeros(2000); VALUE[1000] = 1"),
    "shape": ("VALUE = np.zeros((2, 3))", "VALUE = np.zeros((3, 2))"),
    "order": ("VALUE = np.zeros((2, 3))", "VALUE = np.zeros((2, 3), order='F')"),
    "record": ("VALUE = np.zeros(1, 'f4, i4')", "VALUE = np.zeros(1, 'i4, f4')"),
    "enumeration": ("class VALUE(enum.Enum): A = 1.0", "class VALUE(enum.Enum): A = 3.0"),
    "member": (
        "class E(enum.IntEnum): A = 1; B = 2\nVALUE = E.A",
        "class E(enum.IntEnum): A = 2; B = 1\nVALUE = E.A",
    ),
    "named tuple": (
        "P = collections.namedtuple('P', 'a b'); VALUE = P(1.0, 2.0)",
        "P = collections.namedtuple('P', 'a b'); VALUE = P(1.0, 3.0)",
    ),
    "names in a tuple": (
        "VALUE = collections.namedtuple('P', 'a b')(1, 2)",
        "VALUE = collections.namedtuple('P', 'b a')(1, 2)",
    ),
    "library's function": ("VALUE = math.sin", "VALUE = math.cos"),
    "ufunc": ("VALUE = np.sin", "VALUE = np.cos"),
    "constant of math": ("from math import pi as VALUE", "from math import e as VALUE"),
    "helper": ("def VALUE(x): return x + 1.0", "def VALUE(x): return x + 3.0"),
    "global of a helper": (
        "K = 1.0\ndef VALUE(x): return K * x",
        "K = 3.0\ndef VALUE(x): return K * x",
    ),
    "default": ("def VALUE(x, k=1.0): return x", "def VALUE(x, k=3.0): return x"),
    "keyword default": ("def VALUE(x, *, k=1.0): return x", "def VALUE(x, *, k=3.0): return x"),
    "helper in a default": (
        "def h(x): return x\ndef VALUE(x, h=h): return h(x)",
        "def h(x): return -x\ndef VALUE(x, h=h): return h(x)",
    ),
    "inner function": (
        "def VALUE(x):\n def own(y): return y + 1.0\n return own(x)",
        "def VALUE(x):\n def own(y): return y + 3.0\n return own(x)",
    ),
    "global of an inner function": (
        "K = 1.0\ndef VALUE(x): return (lambda y: y + K)(x)",
        "K = 3.0\ndef VALUE(x): return (lambda y: y + K)(x)",
    ),
    "recursion": (
        "def VALUE(x): return x if x < 1.0 else VALUE(x - 1.0)",
        "def VALUE(x): return x if x < 1.0 else VALUE(x - 3.0)",
    ),
    "closure": ("VALUE = (lambda k: lambda x: x * k)(1.0)", "VALUE = (lambda k: lambda x: x * k)(3.0)"),
    "njit": ("@numba.njit\ndef VALUE(x): return x + 1.0", "@numba.njit\ndef VALUE(x): return x + 3.0"),
    "vectorize": (
        "@numba.vectorize\ndef VALUE(x): return x + 1.0",
        "@numba.vectorize\ndef VALUE(x): return x + 3.0",
    ),
    "cfunc": (
        "@numba.cfunc('f8(f8)')\ndef VALUE(x): return x + 1.0",
        "@numba.cfunc('f8(f8)')\ndef VALUE(x): return x + 3.0",
    ),
    "guvectorize": (
        "@numba.guvectorize('f8[:], f8[:]', '(n)->(n)')\ndef VALUE(x, y): y[0] = x[0] + 1.0",
        "@numba.guvectorize('f8[:], f8[:]', '(n)->(n)')\ndef VALUE(x, y): y[0] = x[0] + 3.0",
    ),
    "operator": ("import operator; VALUE = operator.add", "import operator; VALUE = operator.sub"),
    "claims to be NumPy's": (
        "def VALUE(x): return x + 1.0\nVALUE.__module__ = 'numpy'",
        "def VALUE(x): return x + 3.0\nVALUE.__module__ = 'numpy'",
    ),
}  # fmt: skip

# Other objects have no content that is known to be whole.
UNKNOWN = {
    "object": "VALUE = object()",
    "list": "VALUE = [1.0]",
    "array of objects": "VALUE = np.array([object()])",
    "class": "class VALUE: K = 1.0",
    "enumeration with functions": "class VALUE(enum.Enum):\n A = 1\n def f(self): return 1",
    "named tuple with functions": (
        "class P(collections.namedtuple('P', 'a')):\n def f(self): return 1\nVALUE = P(1)"
    ),
    "partial": "VALUE = functools.partial(max, 1.0)",
    "method of an object": "VALUE = [].append",
    "subclass of an array": "VALUE = np.ma.array([1.0])",
    "subclass of float": "class F(float): pass\nVALUE = F(1)",
    "made by frompyfunc": "VALUE = np.frompyfunc(lambda x: x, 1, 1)",
    "C function": "VALUE = ctypes.CFUNCTYPE(ctypes.c_double)(lambda: 1.0)",
}


def defined(text: str, use: str = "VALUE") -> Any:
    """A function that uses what some code defines."""
    scope: dict[str, Any] = {}
    exec(f"import collections, ctypes, enum, functools, math, numba\nimport numpy as np\n{text}", scope)
    exec(f"def update(update, param, state, hyper):\n return {use}, state", scope)
    return scope["update"]


@pytest.mark.parametrize("kind", CHANGES)
def test_content_tells_values_apart(kind: str) -> None:
    once, again, changed = (content(defined(CHANGES[kind][which])) for which in (0, 0, 1))
    assert once == again
    assert once.digest != changed.digest
    assert once.lasts
    assert changed.lasts


@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_objects_are_known_by_identity(kind: str) -> None:
    first, second = defined(UNKNOWN[kind]), defined(UNKNOWN[kind])
    assert content(first) == content(first)
    assert content(first).digest != content(second).digest
    assert not content(first).lasts


def test_equal_content_is_one_copy() -> None:
    first, second = defined("VALUE = (1.0, 2)"), defined("VALUE = (1.0, 2)")
    assert frozen(first) is frozen(second)
    assert frozen(frozen(first)) is frozen(first)
    assert frozen(first) is not frozen(defined("VALUE = (1.0, 3)"))


def test_modules_are_known_by_what_is_used_of_them() -> None:
    """By chains of attributes too, and without what only has the name of an attribute."""

    def module(name: str, **content: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        vars(module).update(content)
        return module

    a = module("numpy_moves", b=module("b", c=module("c", k=1.0)), unused=object())
    a.b.back = a  # as packages and their modules do
    used = defined("", "a.b.c.k + math.log(a.b.back.b.c.k)")
    used.__globals__.update({"a": a, "log": object(), "k": object()})
    previous = content(used)
    assert previous.lasts
    a.unused = object()
    assert content(used) == previous
    a.b.c.k = 3.0
    assert content(used) != previous
    assert frozen(used)(0, 0, (), ())[0] == 3.0 + np.log(3.0)


def test_copies_keep_what_they_were_made_of() -> None:
    table = np.arange(3.0)
    original = defined("K, TABLE = 1.0, None\ndef helper(x): return x * K", "helper(TABLE[2]) + K")
    original.__globals__["TABLE"] = table
    copy = frozen(original)
    original.__globals__["K"] = 3.0
    table[2] = 7.0
    original.__globals__["helper"] = None
    assert copy(0, 0, (), ()) == (3.0, ())
    assert not copy.__globals__["TABLE"].flags.writeable


def test_shared_helpers_are_described_once() -> None:
    """A ladder of helpers with two ways down each has 2**60 paths."""
    steps = [f"def h{i}(x): return h{i - 1}(x) + h{i - 2}(x)" for i in range(2, 60)]
    text = "\n".join(["def h0(x): return x", "def h1(x): return x", *steps])
    changed = text.replace("def h0(x): return x", "def h0(x): return -x")
    assert content(defined(text, "h59(update)")) != content(defined(changed, "h59(update)"))


def test_a_name_that_is_missing_is_left_to_the_check_of_transforms() -> None:
    def outer() -> Any:
        def update(update, param, state, hyper):
            return later, state

        if False:
            later = 1.0
        return update

    assert content(outer()).lasts


def test_globals_are_those_that_the_bytecode_loads() -> None:
    many = "\n".join(f"x{i}.a{i}" for i in range(300))  # indices of more than 8 bits
    for function in (defined("", many.replace("\n", ", ")), np.testing.assert_allclose, dis.dis):
        loads = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
        names = {i.argval for i in dis.get_instructions(function) if i.opname in loads}
        assert names <= facts(function.__code__).global_names
        assert len(names) > 1
    assert not facts(defined("", many.replace("\n", ", ")).__code__).global_names & {"a7", "a299"}


def test_compiled_functions_count_the_file_of_their_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may stand apart from the compiler, as that of torch's functions does, and has intrinsics."""
    file = tmp_path / "apart_from_it.py"
    file.write_text("def loop(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("apart_from_it")
    previous = of_compiled(module.loop)
    assert previous is not None
    file.write_text("def loop(x):\n    return x\n\n_INTRINSIC = 1\n")
    assert of_compiled(module.loop) not in (None, previous)
    file.unlink()
    assert of_compiled(module.loop) is None  # nothing is kept of what is not known
    del sys.modules["apart_from_it"]


def test_compiled_functions_of_fastopt_are_known_by_value() -> None:
    from fastopt.executors.cpu import driver_code

    def changed(rows, items, ranges):
        return -1

    changed.__module__ = driver_code.__name__
    keys = {
        of_compiled(f) for f in (driver_code._serial, driver_code._bind, driver_code._touch, changed)
    }
    assert len(keys) == 4
    assert of_compiled(driver_code._serial) in keys
    assert None not in keys
