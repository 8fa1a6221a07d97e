"""Names that users see are those that they use: of methods in errors, and of the package."""

import importlib
import inspect
import typing

import numpy as np
import pytest

import fastopt
from tests.refusals import refusal


def public_methods(kind, home):
    """The functions behind the public methods of a class, decorated ones too, that fastopt defines."""
    for each in kind.__mro__:
        for name, method in vars(each).items() if each.__module__.startswith(home) else ():
            function = getattr(method, "__func__", method)
            while inspect.isfunction(function) and not name.startswith("_"):
                yield name, function
                function = getattr(function, "__wrapped__", None)


def check_names_of_methods(kinds, home, names):
    checked = [pair for kind in kinds for pair in public_methods(kind, home)]
    assert len(checked) > 10 * len(kinds)
    assert {f.__qualname__ for name, f in checked if f.__qualname__ not in names(name)} == set()


def test_methods_are_called_those_of_classes_that_users_know():
    kinds = [getattr(fastopt, name) for name in fastopt.__all__]
    kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, fastopt.Optimizer)]
    public = {kind.__name__ for kind in kinds}
    check_names_of_methods(kinds, "fastopt.", lambda name: {f"{kind}.{name}" for kind in public})
    with refusal(TypeError, ["Optimizer.save() missing"]):
        fastopt.SGD(np.ones(3)).save()
    with refusal(TypeError, ["Optimizer.averaged() takes"]):
        fastopt.SGD(np.ones(3)).averaged(1)


def test_methods_for_torch_are_called_those_of_classes_that_users_know():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    home = pytest.importorskip("fastopt.interop.torch")
    kinds = [getattr(home, name) for name in home.__all__]
    kinds = [kind for kind in kinds if isinstance(kind, type)]
    public = {"Optimizer", *(kind.__name__ for kind in kinds)}
    check_names_of_methods(kinds, "fastopt.", lambda name: {f"{kind}.{name}" for kind in public})
    optimizer = home.AdamW([torch.nn.Parameter(torch.ones(3))])
    for call in optimizer.step, optimizer.read_stats, optimizer.averaged, optimizer.state_dict:
        with refusal(TypeError, [f"Optimizer.{call.__name__}() takes"]):
            call(1, 2)


HOMES = (
    "fastopt",
    "fastopt.transforms",
    "fastopt.schedules",
    "fastopt.interop.mpi",
    "fastopt.interop.torch",
)


@pytest.mark.parametrize("home", HOMES)
def test_hints_are_read_at_run_time(home):
    """As command lines and checks of arguments that are made from hints do."""
    if home.endswith("torch"):
        pytest.importorskip("torch", reason="torch is not installed")
    package = importlib.import_module(home)
    names = getattr(package, "__all__", [name for name in vars(package) if not name.startswith("_")])
    for each in (getattr(package, name) for name in names):
        functions = [each] if inspect.isfunction(each) else []
        if isinstance(each, type) and each.__module__.startswith("fastopt."):
            functions = [each.__init__, *(function for _, function in public_methods(each, "fastopt."))]
        for function in functions:
            typing.get_type_hints(function)
    if home.endswith("torch"):
        typing.get_type_hints(importlib.import_module(f"{home}.options").Added)


def test_the_options_of_optimizers_have_hints_at_run_time():
    assert {"lr", "beta", "state_dtype", "clip_norm"} <= typing.get_type_hints(fastopt.RMSProp).keys()


def test_hints_of_rates_for_torch_have_all_that_is_accepted():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    home = pytest.importorskip("fastopt.interop.torch")
    names = [name for name in home.__all__ if hasattr(torch.optim, name)]
    assert len(names) > 10
    for kind in (getattr(home, name) for name in names):
        accepted = typing.get_args(typing.get_type_hints(kind.__init__)["lr"])
        assert {float, torch.Tensor, typing.Literal["auto"], fastopt.auto} == {*accepted}


def test_names_of_the_package_are_listed_once():
    _ = fastopt.SGD
    assert len(dir(fastopt)) == len(set(dir(fastopt)))
