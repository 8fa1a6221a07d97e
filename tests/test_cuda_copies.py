"""Copies and pickles of optimizers on a device, and of the arrays that they hold."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.arrays import device_array, tree
from fastopt.executors.cuda import availability
from tests import runs
from tests.device import SIMULATED, skip_without_device, to_device, to_host
from tests.runs import falling

skip_without_device()
if SIMULATED:
    pytest.skip("the simulator's arrays are the host's, and so are copies", allow_module_level=True)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


COPIERS = pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])


def moved(params):
    """A structure of arrays, or groups of them, on the device."""
    if isinstance(params, list) and isinstance(params[0], dict):
        return [{**group, "params": moved(group["params"])} for group in params]
    return tree.rebuild(params, (to_device(leaf) for _, leaf in tree.leaves(params)))


def train(opt, steps):
    for step in steps:
        rng = np.random.default_rng(step)
        leaves = [leaf for _, leaf in tree.leaves(opt.params)]
        grads = [to_device(rng.normal(size=leaf.shape).astype(leaf.dtype)) for leaf in leaves]
        if tree.is_branch(opt.params) and step % 3 == 1:
            grads[step % len(grads)] = None
        opt.step(tree.rebuild(opt.params, iter(grads)))


def arrays_of(opt):
    named = {"params": opt.params, **opt.state}
    return [
        leaf for structure in named.values() for _, leaf in tree.leaves(structure) if leaf is not None
    ]


def content(opt):
    return [to_host(array).tobytes() for array in arrays_of(opt)]


def addresses(opt):
    return {device_array.enter("array", array).address for array in arrays_of(opt)}


def assert_goes_on_alone(twin, opt):
    """Both continue with the same bits, and each with arrays of its own on the device."""
    assert content(twin) == content(opt)
    assert (twin.step_count, twin.last) == (opt.step_count, opt.last)
    assert twin.state_dict()["lags"] == opt.state_dict()["lags"]
    assert not addresses(twin) & addresses(opt)
    previous, first = content(opt), opt.step_count
    train(twin, range(first, first + 3))
    assert content(opt) == previous
    train(opt, range(first, first + 3))
    assert content(twin) == content(opt)


@COPIERS
@pytest.mark.parametrize(
    ("name", "structure"), [("adam", "array"), ("schedules", "dict"), ("options", "groups")]
)
def test_named_optimizers(name, structure, duplicate):
    opt = runs.make(name, moved(runs.structure(structure)))
    train(opt, range(4))
    twin = duplicate(opt)
    assert type(twin) is type(opt)
    assert repr(twin) == repr(opt)
    assert_goes_on_alone(twin, opt)


@COPIERS
@pytest.mark.parametrize("state_dtype", ["8bit", "bfloat16", {"exp_avg": "float16"}])
def test_formats_of_states(state_dtype, duplicate):
    """Those of bfloat16 show as their bits, and are it after all."""
    w = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    how = {"state_dtype": state_dtype, "stochastic_rounding": True, "seed": 3}
    opt = fastopt.Adam(to_device(w), **how)
    train(opt, range(2))
    twin = duplicate(opt)
    assert [x.dtype for x in arrays_of(twin)] == [x.dtype for x in arrays_of(opt)]
    assert_goes_on_alone(twin, opt)
    resumed = fastopt.Adam(to_device(w), **how)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert content(resumed)[1:] == content(opt)[1:]


@COPIERS
def test_arrays_that_settings_hold(duplicate):
    """Bounds and the copy come along, for named optimizers and for chains."""
    w, low, half = (to_device(x) for x in (np.ones(9, np.float32), np.zeros(9, np.float32), np.ones(9)))
    opt = fastopt.SGD(w, lr=falling, bounds=(low, 2.0), copy_to=half)
    train(opt, range(2))
    assert_goes_on_alone(duplicate(opt), opt)
    twin = duplicate(opt)
    assert to_host(twin.bounds[0]).tobytes() == to_host(low).tobytes()
    assert twin.bounds[0] is not low
    train(twin, range(2, 3))
    assert to_host(twin.copy_to).tobytes() == to_host(twin.params).astype(np.float64).tobytes()
    chain = fastopt.chain(t.trace(0.5), t.scale_by_learning_rate(0.1), t.at_least(low))
    opt = fastopt.Optimizer(to_device(np.ones(9, np.float32)), chain, clip_norm=1.0)
    train(opt, range(2))
    assert_goes_on_alone(duplicate(opt), opt)


@COPIERS
@pytest.mark.parametrize("capturable", [False, True])
def test_after_steps_that_were_skipped(capturable, duplicate):
    w = to_device(np.ones(5, np.float32))
    opt = fastopt.RMSProp(w, lr=falling, skip_nonfinite=True, capturable=capturable)
    train(opt, range(2))
    opt.step(to_device(np.full(5, np.nan, np.float32)))
    twin = duplicate(opt)
    assert twin.step_count == 2
    assert twin.last.skipped
    train(twin, range(2, 4))
    train(opt, range(2, 4))
    assert content(twin) == content(opt)
    assert (twin.step_count, twin.last) == (opt.step_count, opt.last)


@COPIERS
def test_what_is_shared_stays_shared(duplicate):
    w, v = to_device(np.ones((2, 3))), to_device(np.zeros((2, 3)))
    opt = fastopt.RMSProp(w, state={"square_avg": v})
    model = duplicate({"weights": w, "opt": opt, "square": v})
    twin = model["opt"]
    assert model["weights"] is twin.params is not w
    assert model["square"] is twin.state["square_avg"] is not v
    assert_goes_on_alone(twin, opt)


def test_a_shallow_copy_shares_its_arrays():
    opt = fastopt.Adam(to_device(np.ones(3)))
    twin = copy.copy(opt)
    assert twin.params is opt.params
    assert twin.state["exp_avg"] is opt.state["exp_avg"]


def test_a_deep_copy_does_not_visit_the_host(monkeypatch):
    from fastopt.executors.cuda import device as cuda

    opt = fastopt.Adam(to_device(np.ones(3000)))
    train(opt, range(1))

    def refused(*arguments):
        raise AssertionError("a copy of arrays through the host")

    with monkeypatch.context() as patch:
        patch.setattr(type(opt.params), "copy_to_host", refused)
        patch.setattr(cuda, "to_host", refused)
        twin = copy.deepcopy(opt)
    assert_goes_on_alone(twin, opt)


def test_other_arrays():
    """Whatever else Numba has on the device: columns, whole numbers, records, nothing at all."""
    matrix = to_device(np.arange(12, dtype=np.int32).reshape(3, 4))
    fastopt.SGD(to_device(np.ones(1)))  # the first optimizer makes copies known
    for array in (matrix, matrix[:, 1], matrix[1:], to_device(np.zeros(0)), to_device(np.array(3.0))):
        for duplicate in (copy.deepcopy, pickled):
            twin = duplicate(array)
            assert twin is not array
            assert (twin.shape, twin.dtype) == (array.shape, array.dtype)
            assert to_host(twin).tolist() == to_host(array).tolist()
        shallow = copy.copy(array)
        assert shallow is not array
        assert shallow.strides == array.strides
        assert (
            device_array.enter("array", shallow).address == device_array.enter("array", array).address
        )


def test_a_pickle_without_a_device(monkeypatch):
    saved = pickle.dumps(fastopt.SGD(to_device(np.ones(3))))
    monkeypatch.setattr(availability, "missing", lambda: "there is no CUDA driver")
    with pytest.raises(RuntimeError, match="there is no CUDA driver"):
        pickle.loads(saved)
