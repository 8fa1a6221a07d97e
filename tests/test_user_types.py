"""Type checkers accept a user's script, and find its mistakes."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt
from fastopt import schedules, transforms
from fastopt.optimizers.shared_options import SharedOptions
from tests import user_script
from tests.support import compiled_suite_only

SCRIPT = Path(user_script.__file__)
LINES = SCRIPT.read_text("utf-8").splitlines()
WRONG = {number for number, line in enumerate(LINES, 1) if line.endswith("# wrong")}


def test_the_script_runs():
    user_script.main()


@pytest.mark.parametrize(
    ("name", "public"),
    {
        "fastopt": {*fastopt.__all__} - {"schedules", "transforms"},
        "t": {*transforms.__all__} - {"START_FROM_PARAM"},  # a constant
        "schedules": {*schedules.__all__},
        "opt": {name for name in dir(fastopt.Optimizer) if name[0] != "_"} - {*vars(SharedOptions)},
    }.items(),
    ids=["fastopt", "t", "schedules", "opt"],
)
def test_the_script_uses_every_public_name(name, public):
    used = {
        node.attr
        for node in ast.walk(ast.parse("\n".join(LINES)))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == name
    }
    assert public - used == set()


@compiled_suite_only
def test_mypy(tmp_path):
    # In the script's folder, so that it sees fastopt as users do: without the settings of this project.
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    command += ["--config-file", "", "--no-error-summary", "--output", "json"]
    result = subprocess.run([*command, SCRIPT.name], cwd=SCRIPT.parent, capture_output=True, text=True)
    errors = [json.loads(line) for line in result.stdout.splitlines()]
    ours = [e for e in errors if e["file"] == SCRIPT.name and e["severity"] == "error"]
    assert {error["line"] for error in ours} == WRONG, result.stdout + result.stderr


@compiled_suite_only
def test_pyright(tmp_path):
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("pyright is not installed: `make user-types` does it")
    settings = {
        "include": [str(SCRIPT)],
        "typeCheckingMode": "strict",
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
        # What NumPy and fastopt.minimize give is not known in full.
        **dict.fromkeys(["reportUnknownMemberType", "reportUnknownVariableType"], False),
        **dict.fromkeys(["reportUnknownArgumentType", "reportMissingTypeStubs"], False),
    }
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps(settings), "utf-8")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--project", str(config)]
    command += ["--pythonpath", sys.executable]
    result = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent.parent)
    errors = [e for e in json.loads(result.stdout)["generalDiagnostics"] if e["severity"] == "error"]
    lines = {error["range"]["start"]["line"] + 1 for error in errors}
    assert lines == WRONG, result.stdout
