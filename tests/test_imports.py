"""Imports run one way, there is no cycle, and private names stay in their package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

import fastopt
from tests.support import compiled_suite_only

pytestmark = compiled_suite_only

ROOT = Path(fastopt.__file__).parent

# A module imports only from its own layer and from those before it.
LAYERS = (
    ("changes", "owned", "text", "validation", "codecs"),
    ("transforms", "schedules", "arrays"),
    ("kernels",),
    ("executors",),
    ("steps",),
    ("optimizers",),
    ("minimization",),
    ("__init__",),
    ("interop", "system"),
    ("demo", "cli"),
    ("__main__",),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
# Within a layer, and between the two kinds of executors, in this order only.
APART = (("executors.cpu", "executors.cuda"), ("executors.cuda", "executors.cpu"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path, *, anywhere: bool) -> Iterator[tuple[str, str]]:
    """Modules of the package that a file imports, with the name that it takes from each, if any."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree) if anywhere else top_level(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run at import; what only type checkers read does not.

    In a file of tests that needs what may be missing, those before it is skipped.
    """
    waiting = list(takewhile(lambda node: not skips(node), tree.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def skips(node: ast.stmt) -> bool:
    """Whether this statement of a module leaves it where an optional package is missing."""
    runs = isinstance(node, (ast.Expr, ast.Assign, ast.AnnAssign))
    return runs and re.search("importorskip|skip_without_device", ast.unparse(node)) is not None


def targets(path: Path, *, anywhere: bool) -> Iterator[tuple[str, str]]:
    """The same as modules of this package: ``from a import b`` may name a module or a value."""
    for module, name in imports(path, anywhere=anywhere):
        if module != "fastopt" and not module.startswith("fastopt."):
            continue
        inner = module.removeprefix("fastopt").removeprefix(".")
        whole = f"{inner}.{name}".strip(".")
        if whole in MODULES:
            yield whole, ""
        else:
            yield inner or "__init__", name


def layer(module: str) -> int:
    return LAYER[module.split(".")[0]]


def test_every_module_has_a_layer() -> None:
    assert {module.split(".")[0] for module in MODULES} == LAYER.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    wrong = [
        target
        for target, _ in targets(MODULES[module], anywhere=True)
        if layer(target) > layer(module)
        or any(module.startswith(package) and target.startswith(other) for package, other in APART)
    ]
    assert wrong == []


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_in_their_package(module: str) -> None:
    package = module.rpartition(".")[0]
    wrong = [
        (target, name)
        for target, name in targets(MODULES[module], anywhere=True)
        if name.startswith("_") and not name.startswith("__") and target.rpartition(".")[0] != package
    ]
    assert wrong == []


# Names of other libraries' that the package defines too.
OTHERS = {
    ("kernels.closure", "_fields"),  # of named tuples
}
# What tests look at behind the public names, and why. Those of numba and of torch are not ours.
TESTS = {
    ("fuzz/interruption.py", "_running"): "whether a lock was given back",
    ("interop/cuda_tensors.py", "_parameters"): "of torch",
    ("interop/test_torch_cuda_scan.py", "_grads"): "gradients unlike what is expected",
    ("interop/test_torch_cuda_scan.py", "_snapshot"): "whether a step found what it knew",
    ("interop/test_torch_scan.py", "_grads"): "gradients unlike what is expected",
    ("interop/test_torch_scan.py", "_snapshot"): "whether a step found what it knew",
    ("interop/torch_pairs.py", "_planner"): "whether a step found what it knew",
    ("test_calls.py", "_HOMES"): "the table of public names is complete",
    ("test_copies.py", "_repr_html_"): "of notebooks",
    ("test_cuda_code.py", "_job"): "the formats of a kernel whose instructions are counted",
    ("test_half_imported.py", "_after_fork_in_child"): "a fork in the middle of an import",
    ("test_half_imported.py", "_before_fork"): "the same",
    ("test_half_imported.py", "_forked"): "the same",
    ("test_half_imported.py", "_running"): "the same",
    ("test_identity.py", "_bind"): "the identities of functions that are compiled",
    ("test_identity.py", "_serial"): "the same",
    ("test_identity.py", "_touch"): "the same",
}


PRIVATE = r"_[A-Za-z]\w*"


def private_attributes(path: Path) -> Iterator[str]:
    """Underscored attributes of other objects than a method's own."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and re.fullmatch(PRIVATE, node.attr):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            yield from () if is_own else (node.attr,)


def private_names() -> dict[str, set[str]]:
    """The underscored functions and attributes that packages define."""
    defined: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = next((getattr(node, k) for k in ("name", "attr", "id") if hasattr(node, k)), None)
            stored = isinstance(getattr(node, "ctx", ast.Store()), ast.Store)
            if isinstance(name, str) and re.fullmatch(PRIVATE, name) and stored:
                defined.setdefault(name, set()).add(module.rpartition(".")[0])
    return defined


def test_private_attributes_stay_in_their_package() -> None:
    defined = private_names()
    wrong = [
        (module, name)
        for module, path in MODULES.items()
        for name in private_attributes(path)
        if name in defined and module.rpartition(".")[0] not in defined[name]
    ]
    assert [each for each in wrong if each not in OTHERS] == []


def test_tests_use_the_public_interface() -> None:
    defined, folder = private_names(), Path(__file__).parent
    wrong = {
        (path.relative_to(folder).as_posix(), name)
        for path in folder.rglob("*.py")
        for name in private_attributes(path)
        if name in defined
    }
    assert wrong == TESTS.keys()


OPTIONAL = "cuda", "numba_cuda", "torch", "mpi4py"


def optional_modules() -> set[str]:
    """Modules that cannot be imported without a package that users need not have."""
    optional: set[str] = set()
    while (
        new := {
            module
            for module, path in MODULES.items()
            if any(name.split(".")[0] in OPTIONAL for name, _ in imports(path, anywhere=False))
            or any(target in optional for target, _ in targets(path, anywhere=False))
        }
        - optional
    ):
        optional |= new
    return optional


def test_the_suite_is_collected_without_optional_packages() -> None:
    optional, folder = optional_modules(), Path(__file__).parent
    assert "executors.cuda.device" in optional
    wrong = {
        (path.name, target)
        for path in [*folder.glob("*.py"), *folder.glob("examples/*.py"), *folder.glob("fuzz/*.py")]
        for target, _ in targets(path, anywhere=False)
        if target in optional
    }
    assert wrong == set()


def test_there_is_no_cycle() -> None:
    graph = {
        module: {target for target, _ in targets(path, anywhere=False)} - {module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())
