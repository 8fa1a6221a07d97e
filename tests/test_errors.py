"""Bad arrays: refused before anything is written, saying what came and what is accepted."""

import weakref

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests.refusals import N, assert_goes_on, everywhere, gradient, make, params, refusal
from tests.support import assert_same_run

LIST = [1.0] * N

KIND, VALUE = TypeError, ValueError


def masked(opt):
    return np.ma.masked_array(gradient(), mask=[True] + [False] * (N - 1))


def unaligned(opt):
    return np.zeros(4 * N + 1, np.uint8)[1:].view(np.float32)


BAD_GRADIENTS = {
    "list": (lambda opt: LIST, KIND, ["NumPy array", "list"]),
    "tuple": (lambda opt: tuple(LIST), KIND, ["NumPy array", "tuple"]),
    "none": (lambda opt: None, KIND, ["NumPy array", "NoneType"]),
    "number": (lambda opt: 1.0, KIND, ["NumPy array", "float"]),
    "scalar": (lambda opt: np.float32(1.0), KIND, ["NumPy array", "float32"]),
    "masked": (masked, KIND, ["masked"]),
    "short": (lambda opt: gradient()[:-1], VALUE, ["shape", f"({N},)", f"({N - 1},)"]),
    "long": (lambda opt: np.ones(N + 1, np.float32), VALUE, ["shape", f"({N},)", f"({N + 1},)"]),
    "empty": (lambda opt: gradient()[:0], VALUE, ["shape", f"({N},)", "(0,)"]),
    "column": (lambda opt: gradient()[:, None], VALUE, ["shape", f"({N},)", f"({N}, 1)"]),
    "folded": (lambda opt: gradient().reshape(3, 4), VALUE, ["shape", f"({N},)", "(3, 4)"]),
    "float64": (lambda opt: gradient().astype(np.float64), KIND, ["dtype", "float32", "float64"]),
    "int32": (lambda opt: np.ones(N, np.int32), KIND, ["dtype", "float32", "int32"]),
    "bool": (lambda opt: np.ones(N, bool), KIND, ["dtype", "float32", "bool"]),
    "complex": (lambda opt: np.ones(N, np.complex64), KIND, ["dtype", "float32", "complex64"]),
    "object": (lambda opt: np.ones(N, object), KIND, ["dtype", "float32", "object"]),
    "strided": (lambda opt: np.ones(2 * N, np.float32)[::2], VALUE, ["C-contiguous", "(8,)"]),
    "reversed": (lambda opt: gradient()[::-1], VALUE, ["C-contiguous", "(-4,)"]),
    "broadcast": (lambda opt: np.broadcast_to(np.float32(1), N), VALUE, ["C-contiguous", "(0,)"]),
    "big_endian": (lambda opt: gradient().astype(">f4"), VALUE, ["native byte order", "'>f4'"]),
    "unaligned": (unaligned, VALUE, ["aligned", "4 bytes"]),
    "the_params": (lambda opt: opt.params, VALUE, ["params", "share memory"]),
    "view_of_params": (lambda opt: opt.params[:], VALUE, ["params", "share memory"]),
    **{
        name: (
            lambda opt, name=name: opt.state[name],
            VALUE,
            [f"state['{name}']", "share memory"],
        )
        for name in ("square_avg", "grad_avg", "momentum_buffer")
    },
}  # fmt: skip
bad_gradients = pytest.mark.parametrize(
    ("bad", "error", "words"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS
)


@everywhere
@bad_gradients
def test_bad_gradient(bad, error, words, executor):
    opt = make(executor=executor)
    with refusal(error, ["grads", *words]):
        opt.step(bad(opt))
    assert_goes_on(opt, executor=executor)


@everywhere
def test_gradient_that_overlaps_in_part(executor):
    """One byte range that ends in the parameter, and one that begins in it."""
    memory = np.arange(3 * N, dtype=np.float32)
    w = memory[N : 2 * N]
    opt = fastopt.RMSProp(w, executor=executor)
    previous = memory.copy()
    for start in (1, 2 * N - 1):
        with refusal(ValueError, ["grads", "params", "share memory"]):
            opt.step(memory[start : start + N])
    assert memory.tobytes() == previous.tobytes()
    assert opt.step_count == 0
    assert not opt.state["square_avg"].any()
    opt.step(memory[:N])  # the neighbour is fine
    opt.step(memory[2 * N :])
    assert opt.step_count == 2


@everywhere
@pytest.mark.parametrize("name", ["list", "short", "float64", "strided", "big_endian", "masked"])
def test_bad_gradient_among_good_ones(name, executor):
    """The last of several: those before it are not stepped."""
    bad, error, words = BAD_GRADIENTS[name]
    w = {"a": params(), "b": [params(), params()]}
    opt = fastopt.RMSProp(w, momentum=0.5, executor=executor)
    with refusal(error, ["grads['b'][1]", *words]):
        opt.step({"a": gradient(), "b": [gradient(), bad(opt)]})
    control = fastopt.RMSProp(params(), momentum=0.5)
    for _ in range(2):
        for leaf, buffer in zip(
            [w["a"], *w["b"]],
            [opt.state["momentum_buffer"]["a"], *opt.state["momentum_buffer"]["b"]],
            strict=True,
        ):
            assert leaf.tobytes() == control.params.tobytes()
            assert buffer.tobytes() == control.state["momentum_buffer"].tobytes()
        assert opt.step_count == control.step_count
        control.step(gradient())
        opt.step({"a": gradient(), "b": [gradient(), gradient()]})


@everywhere
@pytest.mark.parametrize(
    ("form", "grads", "error", "words"),
    [
        (list, gradient, KIND, ["grads must be a list or tuple", "ndarray"]),
        (list, lambda: {0: gradient(), 1: gradient()}, KIND, ["grads must be a list or tuple", "dict"]),
        (list, lambda: [gradient()], VALUE, ["grads", "2 entries", "1"]),
        (list, lambda: [gradient()] * 3, VALUE, ["grads", "2 entries", "3"]),
        (list, lambda: [gradient(), [gradient()]], KIND, ["grads[1]", "NumPy array", "list"]),
        (list, lambda: iter([gradient()] * 2), KIND, ["grads", "list or tuple", "iterator"]),
        (dict, gradient, KIND, ["grads must be a dict", "ndarray"]),
        (dict, lambda: [gradient()] * 2, KIND, ["grads must be a dict", "list"]),
        (dict, lambda: {0: gradient()}, VALUE, ["grads", "keys", "missing ['1']"]),
        (dict, lambda: dict.fromkeys((0, 1, 2), gradient()), VALUE, ["keys", "unknown ['2']"]),
    ],
)
def test_gradients_of_another_form(form, grads, error, words, executor):
    leaves = [params(), params()]
    opt = fastopt.RMSProp(leaves if form is list else dict(enumerate(leaves)), executor=executor)
    with refusal(error, words):
        opt.step(grads())
    assert all(leaf.tobytes() == params().tobytes() for leaf in leaves)
    assert opt.step_count == 0


class FreshArrays(dict):
    """A mapping that makes each array when it is asked for, as the one from `numpy.load` does."""

    def __getitem__(self, key):
        array = super().__getitem__(key).copy()
        weakref.finalize(array, self.at_end)
        return array


@everywhere
def test_gradients_live_until_they_were_used(executor):
    w, moved = {"a": {"x": params()}, "b": {"x": params()}}, []
    grads = {name: FreshArrays(x=gradient()) for name in w}
    for name, fresh in grads.items():
        fresh.at_end = lambda name=name: moved.append(w[name]["x"].tobytes() != params().tobytes())
    fastopt.RMSProp(w, executor=executor).step(grads)
    assert moved == [True, True]


@pytest.mark.parametrize("memory", [np.memmap, np.recarray])
def test_subclasses_of_arrays_are_accepted(memory, tmp_path):
    if memory is np.memmap:
        g = np.memmap(tmp_path / "gradient", np.float32, "w+", shape=N)
        g[:] = gradient()
    else:
        g = gradient().view(memory)
    opt, control = make(), make()
    opt.step(g)
    control.step(gradient())
    assert_same_run(opt, control)


@everywhere
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        *((value, ValueError, ["> 0", repr(value)]) for value in (0.0, -1.0, np.nan, np.inf, -np.inf)),
        *((value, TypeError, ["> 0", repr(value)]) for value in ("2", None, True, 1j, np.ones(2))),
        # Their inverses are infinite and zero in float32.
        *((value, ValueError, ["inverse", "float32", repr(value)]) for value in (1e-40, 1e60)),
    ],
)
def test_bad_grad_scale(value, error, words, executor):
    opt = make(executor=executor)
    with refusal(error, ["grad_scale", *words]):
        opt.step(gradient(), grad_scale=value)
    assert_goes_on(opt, executor=executor)


def test_unknown_argument_of_step():
    opt = make()
    with refusal(TypeError, ["loss_scale"]):
        opt.step(gradient(), loss_scale=2.0)
    assert_goes_on(opt)


# Parameters and states


def read_only():
    w = params()
    w.flags.writeable = False
    return w


def shared(first, second):
    """Two windows on the same memory."""
    memory = np.zeros(2 * N, np.float32)
    return [memory[first], memory[second]]


BAD_PARAMS = {
    "none": (lambda: None, KIND, ["params", "NumPy array", "NoneType"]),
    "numbers": (lambda: LIST, KIND, ["params[0]", "NumPy array", "float"]),
    "nested": (lambda: {"a": [params(), None]}, KIND, ["params['a'][1]", "NumPy array", "NoneType"]),
    "masked": (lambda: np.ma.masked_array(params()), KIND, ["params", "masked"]),
    "int": (lambda: np.ones(N, int), KIND, ["params", "float32 or float64", "int64"]),
    "complex": (lambda: np.ones(N, complex), KIND, ["params", "float32 or float64", "complex128"]),
    "longdouble": (lambda: np.ones(N, "g"), KIND, ["params", "float32 or float64", str(np.dtype("g"))]),
    "object": (lambda: np.ones(N, object), KIND, ["params", "float32 or float64", "object"]),
    "strided": (lambda: np.ones(2 * N)[::2], VALUE, ["params", "C-contiguous", "(16,)"]),
    "fortran": (lambda: np.ones((3, 4), order="F"), VALUE, ["params", "C-contiguous", "(8, 24)"]),
    "big_endian": (lambda: params().astype(">f4"), VALUE, ["params", "native byte order", "'>f4'"]),
    "unaligned": (lambda: unaligned(None), VALUE, ["params", "aligned", "4 bytes"]),
    "read_only": (read_only, VALUE, ["params", "read-only", "writeable"]),
    "twice": (lambda: [params()] * 2, VALUE, ["params[0]", "params[1]", "share memory"]),
    "view": (lambda: shared(slice(0, N), slice(N - 1, N + 3)), VALUE, ["params[0]", "params[1]"]),
    "inside": (lambda: shared(slice(0, N), slice(3, 5)), VALUE, ["params[0]", "params[1]"]),
}


@pytest.mark.parametrize(("bad", "error", "words"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_bad_params(bad, error, words):
    with refusal(error, words):
        fastopt.RMSProp(bad())


def test_neighbours_are_no_overlap():
    fastopt.RMSProp(shared(slice(0, N), slice(N, 2 * N)))
    fastopt.RMSProp(shared(slice(0, N), slice(3, 3)))


BAD_STATES = {
    "kind": (lambda w: LIST, KIND, ["NumPy array", "list"]),
    "shape": (lambda w: params()[1:], VALUE, ["shape", f"({N},)", f"({N - 1},)"]),
    "dtype": (lambda w: np.zeros(N), KIND, ["dtype float16, bfloat16, float32", "float64"]),
    "int": (lambda w: np.zeros(N, np.int32), KIND, ["bfloat16, float32", "int32"]),
    "read_only": (lambda w: read_only(), VALUE, ["read-only", "writeable"]),
    "strided": (lambda w: np.zeros(2 * N, np.float32)[::2], VALUE, ["C-contiguous"]),
    "params": (lambda w: w, VALUE, ["params", "share memory"]),
}  # fmt: skip
bad_states = pytest.mark.parametrize(("bad", "error", "words"), BAD_STATES.values(), ids=BAD_STATES)


@bad_states
def test_bad_state(bad, error, words):
    w = params()
    with refusal(error, ["state['square_avg']", *words]):
        fastopt.RMSProp(w, state={"square_avg": bad(w)})
    assert w.tobytes() == params().tobytes()


def test_two_states_in_the_same_memory():
    state = np.zeros(N, np.float32)
    with refusal(ValueError, ["state['square_avg']", "state['grad_avg']", "share memory"]):
        fastopt.RMSProp(params(), centered=True, state={"square_avg": state, "grad_avg": state})


def test_unknown_state():
    with refusal(ValueError, ["state", "exp_avg", "square_avg"]):
        fastopt.RMSProp(params(), state={"exp_avg": params()})


@pytest.mark.parametrize("chain", [None, t.scale_by_rms, "chain"])
def test_bad_chain(chain):
    with refusal(TypeError, ["chain", type(chain).__name__]):
        fastopt.Optimizer(params(), chain)
