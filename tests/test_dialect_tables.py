"""The tables of docs/dialects.md say what the code does: every argument, default and fixed value."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt.optimizers.dialects import DIALECTS

PAGE = (Path(__file__).parent.parent / "docs" / "dialects.md").read_text("utf-8")
COLUMNS = {
    "torch": "torch",
    "Keras": "keras",
    "TensorFlow 1": "tensorflow1",
    "optax": "optax",
    "timm": "timm",
    "Graves": "graves",
    "qhoptim": "qhoptim",
}
EVERY = [(name, dialect) for name, dialects in DIALECTS.items() for dialect in dialects]

each_dialect = pytest.mark.parametrize(("name", "dialect"), EVERY)


def table(name):
    """Columns of an optimizer's table: dialect (or "fastopt") -> setting -> the code in its cell."""
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    settings = [row[0].strip("`") for row in rows]
    columns = {}
    for i, title in enumerate(head[1:], 1):
        cells = [re.findall(r"`([^`]+)`", row[i]) for row in rows]
        columns[COLUMNS.get(title, title)] = dict(zip(settings, cells, strict=True))
    return columns


def arguments(column):
    """The library's arguments in a column: name -> default."""
    defaults = {}
    for cell in column.values():
        for code in cell:
            name, separator, default = code.partition("=")
            if name.isidentifier() and name not in ("None", "True", "False"):
                defaults[name] = ast.literal_eval(default) if separator else inspect.Parameter.empty
            elif "[" in name:
                name, index = name.rstrip("]").split("[")
                defaults.setdefault(name, {})[int(index)] = ast.literal_eval(default)
    return {k: tuple(v.values()) if isinstance(v, dict) else v for k, v in defaults.items()}


def settings_of(name, dialect, arguments):
    """fastopt's settings at step 3 for a library's arguments, its own defaults included."""
    signature = inspect.signature(DIALECTS[name][dialect]).parameters.values()
    needed = {p.name: 0.5 for p in signature if p.default is p.empty}
    settings = {**own_defaults(name), **DIALECTS[name][dialect](**{**needed, **arguments})}
    return {k: v(3) if callable(v) else v for k, v in settings.items()}


def own_defaults(name):
    optimizer = getattr(fastopt, name)(np.zeros(1))
    return {setting: getattr(optimizer, setting, None) for setting in table(name)["fastopt"]}


def test_every_dialect_has_a_column():
    assert [(n, d) for n in DIALECTS for d in table(n) if d != "fastopt"] == EVERY


@pytest.mark.parametrize("name", DIALECTS)
def test_defaults_of_fastopt(name):
    column = table(name)["fastopt"]
    assert {k: ast.literal_eval(code) for k, (code,) in column.items()} == own_defaults(name)


@each_dialect
def test_arguments_and_defaults_of_the_library(name, dialect):
    signature = inspect.signature(DIALECTS[name][dialect]).parameters
    expected = {argument: parameter.default for argument, parameter in signature.items()}
    assert arguments(table(name)[dialect]) == expected


@each_dialect
def test_what_a_library_always_does(name, dialect):
    """A value without a name is the setting, and the row of a name is what that argument sets."""
    settings = settings_of(name, dialect, {})
    for row, codes in table(name)[dialect].items():
        for code in codes:
            argument, _, default = code.partition("=")
            if code[0].islower():
                assert settings[row] != changed(name, dialect, argument, default)[row], code
            else:
                assert settings[row] == ast.literal_eval(code), row


def changed(name, dialect, argument, default):
    """The settings when an argument is another one than its default."""
    if "[" in argument:
        argument, index = argument.rstrip("]").split("[")
        pair = [0.9, 0.999]
        pair[int(index)] = 0.25
        return settings_of(name, dialect, {argument: tuple(pair)})
    value = not ast.literal_eval(default) if default in ("True", "False") else 0.25
    arguments = {argument: value}
    arguments |= {"momentum": 0.5} if "nesterov" in argument else {}
    arguments |= {"eps": 0.0} if argument == "eps_root" else {}
    return settings_of(name, dialect, arguments)


@each_dialect
def test_a_library_has_no_other_settings(name, dialect):
    """Everything that a dialect sets is a row of the table."""
    assert settings_of(name, dialect, {}).keys() == table(name)[dialect].keys()


@each_dialect
def test_like(name, dialect):
    signature = inspect.signature(DIALECTS[name][dialect]).parameters.values()
    needed = {p.name: 0.5 for p in signature if p.default is p.empty}
    w = np.ones(3)
    opt = getattr(fastopt, name).like(dialect, w, **needed)
    opt.step(np.ones(3))
    assert (w < 1.0).all()
