"""The first step of a process whose machine code is on disk: what it imports, and what it does not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import float64, int64, types
from numba.core.registry import cpu_target

from fastopt.kernels import machine_code, numba_settings, processor
from fastopt.kernels.compiler import Definition, compile_function, function_library
from fastopt.kernels.disk_cache import CHECKSUM
from tests.subprocesses import needs_jit, run, script

pytestmark = needs_jit

LARGE = 100_000

# Steps of every kind whose machine code allocates nothing.
STEPS = {
    "one core": "fastopt.RMSProp(w[:9].copy()).step(g[:9].copy())",
    "all cores": "fastopt.RMSProp(w).step(g)",
    "many arrays": "fastopt.Adam([w, w[:9].copy()]).step([g, None])",
    "clipping": "fastopt.SGD(w, clip_norm=1.0).step(g)",
    "sums": "fastopt.LARS(w).step(g)",
    "sums in the pass": "fastopt.SGD(w, stats=('grad_norm',)).step(g)",
    "rows": "fastopt.SGD(w.reshape(-1, 4), sparse='lazy').step((np.arange(9), np.ones((9, 4), 'f4')))",
    "8-bit states": "fastopt.Adam(w, state_dtype='8bit').step(g)",
    "norm": "fastopt.global_norm([w, g])",
    "new memory": "fastopt.empty(10**7)",
}
HEAD = f"""
import sys, numpy as np, fastopt
w, g = np.ones({LARGE}, np.float32), np.ones({LARGE}, np.float32)
"""
TAIL = """
print("numba" in sys.modules)
"""


@pytest.mark.parametrize("kind", STEPS)
def test_numba_is_imported_to_compile_only(kind: str, tmp_path: Path) -> None:
    code = script(HEAD, STEPS[kind], TAIL)
    assert run(code, tmp_path) == "True"
    assert run(code, tmp_path) == "False"


def test_numba_is_asked_where_it_is_configured(tmp_path: Path) -> None:
    """Code for another number of threads is the same, for another processor it is not."""
    code = script(HEAD, STEPS["one core"], TAIL)
    assert run(code, tmp_path) == "True"
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.bin")}
    assert run(code, tmp_path, NUMBA_NUM_THREADS="1") == "True"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.bin")} == files
    assert run(code, tmp_path, NUMBA_CPU_NAME="generic") == "True"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.bin")} != files
    assert run(code, tmp_path) == "False"


def test_code_is_kept_for_the_target_that_it_was_compiled_for(tmp_path: Path) -> None:
    """Numba reads its environment at every compilation, and has its target from the first on."""
    code = """
    import os
    fastopt.RMSProp(w[:9]).step(g[:9])
    os.environ |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    fastopt.SGD(w[:9]).step(g[:9])
    fastopt.Adam(w[:9]).step(g[:9])
    """
    run(script(HEAD, code), tmp_path)
    files = [path.read_bytes() for path in tmp_path.rglob("*.bin")]
    entries = [pickle.loads(content[CHECKSUM:]) for content in files]
    assert {stamp[-4:-1] for ((stamp, _),) in entries} == {processor.target()}


@pytest.mark.parametrize("variables", [{}, {"NUMBA_NUM_THREADS": "1"}])
@pytest.mark.parametrize("moment", ["numba", "numba.core.types", "numba.core.typed_passes"])
def test_ctrl_c_while_numba_is_imported(moment: str, variables: dict[str, str], tmp_path: Path) -> None:
    """It is served, and the next step is right: nothing is left half imported."""
    code = f"""
    import os, signal, threading, time
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt():
        while {moment!r} not in sys.modules:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        fastopt.SGD(w[:9], lr=0.5).step(g[:9])
    except KeyboardInterrupt:
        print("interrupted", w[0])
    fastopt.SGD(w[:9], lr=0.5).step(g[:9])
    print(w[0], signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    lines = run(script(HEAD, code), tmp_path, **variables).splitlines()
    assert lines == ["interrupted 1.0", "0.5 True"]


def test_what_is_known_of_numba_without_it(tmp_path: Path) -> None:
    code = """
    from fastopt.kernels import numba_settings, processor
    version, target = numba_settings.version(), processor.target()
    settings = {name: str(numba_settings.setting(name)) for name in numba_settings.USUAL}
    assert not numba_settings.is_needed()

    import numba
    from numba.core.registry import cpu_target
    print(version == numba.__version__, target == cpu_target.target_context.codegen().magic_tuple())
    print({name for name, value in settings.items() if value != str(getattr(numba.config, name))})
    """
    assert run(script(code), tmp_path).splitlines() == ["True True", "set()"]


def test_the_target_is_numba_s() -> None:
    assert processor.target() == cpu_target.target_context.codegen().magic_tuple()
    assert numba_settings.is_needed()


def test_threads_that_were_started_without_numba_are_its_own(tmp_path: Path) -> None:
    """Parallel functions of the user's own run beside steps, on as many threads as the user says."""
    code = """
    o = fastopt.RMSProp(w)
    o.step(g)
    print("numba" in sys.modules, fastopt.executors.threads.layer())
    import numba

    @numba.njit(parallel=True)
    def total(x):
        result = 0.0
        for i in numba.prange(x.size):
            result += x[i]
        return result

    print(total(np.ones(1000)), numba.threading_layer(), numba.get_num_threads())
    numba.set_num_threads(1)
    o.step(g)
    print(total(np.ones(1000)), numba.get_num_threads(), len(set(w.tolist())))
    """
    code = script(HEAD, code)
    run(code, tmp_path)
    first, second, third = run(code, tmp_path).splitlines()
    assert first == "False omp"
    assert second.startswith("1000.0 omp")
    assert third == "1000.0 1 1"


def add(x: Any, array: Any) -> Any:
    return x + array.sum()


@pytest.fixture
def adding() -> Any:
    return compile_function(add, float64(float64, types.Array(float64, 2, "C")), "add")


def test_compiled_functions_check_what_they_are_called_with(adding: Any) -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert adding(1.0, array) == 16.0
    assert adding(1, array.view(np.memmap)) == 16.0
    for wrong in ((), (1.0,), (1.0, array, array)):
        with pytest.raises(TypeError, match="takes 2 arguments"):
            adding(*wrong)
    for other in (None, 7, [1.0], array[0]):
        with pytest.raises(TypeError, match="argument 1 of add must be an array of 2 dimensions"):
            adding(1.0, other)
    with pytest.raises(TypeError):
        adding(None, array)


def test_errors_are_raised_without_numba(tmp_path: Path) -> None:
    code = """
    from fastopt.executors.cpu import drivers
    for arguments in (), (1.0, 1), (w, None), (w, 2**70):
        try:
            drivers.touch()(*arguments)
        except (TypeError, OverflowError) as error:
            print(type(error).__name__, error)
    """
    code = script(HEAD, code, TAIL)
    *errors, is_imported = run(code, tmp_path).splitlines()
    assert (len(errors), is_imported) == (4, "True")
    assert run(code, tmp_path).splitlines() == [*errors, "False"]


def test_errors_of_compiled_functions_are_raised() -> None:
    def fails(x: Any) -> Any:
        if x > 1:
            raise ValueError("too large")
        return x

    function = compile_function(fails, int64(int64), "fails")
    assert function(1) == 1
    with pytest.raises(ValueError, match="too large"):
        function(2)


def test_code_that_lacks_something_is_not_linked() -> None:
    code = function_library(Definition(lambda x: x, int64(int64))).machine_code
    assert machine_code.link(code)
    with pytest.raises(RuntimeError, match="no_such_function"):
        machine_code.link(code._replace(name="no_such_function"))
