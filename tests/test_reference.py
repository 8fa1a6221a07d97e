"""Every page of the reference has an example. `make doctests` runs those that stand in the code."""

import doctest
import inspect

import pytest

import fastopt
import fastopt.interop.scipy
from fastopt.optimizers.registry import NAMES, ONE_SHOT
from tests.support import compiled_suite_only

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (fastopt, fastopt.schedules, fastopt.transforms, fastopt.interop.scipy)
    for name in module.__all__
}
TYPES = "fastopt.Flag", "fastopt.Number"
GENERATED = [f"fastopt.{name}_step" for name in ONE_SHOT]
GENERATED += [f"fastopt.interop.scipy.{name}" for name in NAMES]


@pytest.mark.parametrize("name", [n for n in PUBLIC if callable(PUBLIC[n]) and n not in TYPES])
def test_has_an_example(name):
    assert ">>> " in inspect.getdoc(PUBLIC[name])


@compiled_suite_only
@pytest.mark.parametrize("name", GENERATED)
def test_generated_example_runs(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, module=False, globs={})
    assert doctest.DocTestRunner().run(example).attempted > 3
    assert doctest.DocTestRunner().run(example).failed == 0
