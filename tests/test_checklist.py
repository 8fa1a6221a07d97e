"""What CONTRIBUTING's checklist asks of a new optimizer, every one in the registry has."""

import inspect
import re
from pathlib import Path

import pytest

import fastopt
from fastopt.optimizers.registry import MODULES, ONE_SHOT
from tests import cases, oracles, test_one_shot
from tests.fuzz import recipes

REFERENCE = (Path(__file__).parents[1] / "docs" / "api.md").read_text("utf-8")
SUMMED = recipes.SUMMED  # their oracles are beside their tests, `test_layerwise` and `test_tuning_free`


def declared(kind):
    """The settings that the class itself declares."""
    return {name for name in inspect.signature(kind).parameters if name in vars(kind)}


@pytest.mark.parametrize("name", MODULES)
def test_it_is_on_the_page_of_the_reference(name):
    lower = name.lower()
    wanted = {name, lower} | ({f"{lower}_step"} if lower in ONE_SHOT else set())
    assert wanted <= set(re.findall(r"^   (\w+)$", REFERENCE, re.MULTILINE))


@pytest.mark.parametrize("name", MODULES)
def test_its_docstring_has_all_sections(name):
    kind = getattr(fastopt, name)
    text = inspect.getdoc(kind)
    sections = ["Parameters", "References", "Examples"]
    if kind.__base__ is fastopt.NamedOptimizer:  # else it has those of another one
        sections += ["Attributes", "Notes"]
    for section in sections:
        assert f"\n{section}\n---" in text, section
    assert re.search(r"::\n\n    \w|``w``", text), "the equation"
    described = re.findall(r"\w+", " ".join(re.findall(r"^(\w[\w, ]*) : ", text, re.MULTILINE)))
    assert declared(kind) <= set(described)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in SUMMED])
def test_it_has_an_oracle_and_cases(name):
    kind = getattr(fastopt, name)
    rows = [case for case in cases.CASES if case.optimizer is kind]
    assert all(case.oracle is getattr(oracles, name.lower()) for case in rows)
    tried = {setting for case in rows for setting in case.settings}
    assert declared(kind) <= tried


@pytest.mark.parametrize("name", MODULES)
def test_random_cases_are_drawn_of_it(name):
    assert name in recipes.NUMBERS


@pytest.mark.parametrize("name", [name for name in MODULES if name.lower() in ONE_SHOT])
def test_its_one_shot_form_is_compared(name):
    assert name in SUMMED or getattr(fastopt, name) in test_one_shot.FUNCTIONS.values()
