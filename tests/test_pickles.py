"""What is pickled: chains of fastopt's transforms and of the user's own, and arrays of one's own."""

import copy
import dataclasses
import functools
import pickle

import joblib
import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.owned import owned
from tests.cases import CASES
from tests.runs import falling, rising
from tests.subprocesses import run, script
from tests.support import COMPILED
from tests.test_copies import SIGN, sign_update

try:
    import cloudpickle
except ImportError:  # joblib had it inside before version 1.6
    from joblib.externals import cloudpickle

WAYS = {
    **{f"protocol {n}": lambda value, n=n: pickle.loads(pickle.dumps(value, n)) for n in range(2, 6)},
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
DUPLICATE = pytest.mark.parametrize("duplicate", WAYS.values(), ids=WAYS)

LOW, COPY = np.full(3, -5.0), np.zeros(3)

# Every factory, with numbers and with schedules, and every variant that compiles to other code.
TRANSFORMS = {
    "scale": lambda x: t.scale(x),
    "rate": lambda x: t.scale_by_learning_rate(x),
    "clip": lambda x: t.clip_by_value(x),
    "skip": lambda x: t.skip_nonfinite(),
    "clip by norm": lambda x: t.clip_by_global_norm(x),
    "trust ratio": lambda x: t.scale_by_trust_ratio(x, eps=x),
    "adaptive clip": lambda x: t.adaptive_grad_clip(x, eps=x),
    "automatic": lambda x: t.follow_automatically(t.scale_by_rms(x), t.trace(x), factor=x),
    "held": lambda x: t.follow_automatically(t.scale_by_adam(), lr=x, by_gradient=True),
    "decay": lambda x: t.add_decayed_weights(x, lr=x),
    "trace": lambda x: t.trace(x, x),
    "nesterov": lambda x: t.trace(x, nesterov=True),
    "average": lambda x: t.average_params(x),
    "at_least": lambda x: t.at_least(x),
    "at_most": lambda x: t.at_most(x),
    "at_least array": lambda x: t.at_least(LOW),
    "at_most array": lambda x: t.at_most(-LOW),
    "copy": lambda x: t.copy_params(np.zeros(3)),
    **{
        f"rms {inside} {corrected}": lambda x, i=inside, c=corrected: t.scale_by_rms(
            x, eps_inside_sqrt=i, bias_correction=c
        )
        for inside in (True, False)
        for corrected in (True, False)
    },
    **{
        f"stddev {inside} {corrected}": lambda x, i=inside, c=corrected: t.scale_by_stddev(
            x, eps=0.1, eps_inside_sqrt=i, bias_correction=c
        )
        for inside in (True, False)
        for corrected in (True, False)
    },
    "rss": lambda x: t.scale_by_rss(x, initial_accumulator=0.5),
    "rss outside": lambda x: t.scale_by_rss(x, eps_inside_sqrt=False),
    "adam": lambda x: t.scale_by_adam(x, x),
    "adam uncorrected": lambda x: t.scale_by_adam(x, bias_correction=False, eps_inside_sqrt=True),
    "amsgrad": lambda x: t.scale_by_adam(beta2=x, amsgrad=True),
    "nadam": lambda x: t.scale_by_nadam(x, momentum_decay=x),
    "lion": lambda x: t.scale_by_lion(x),
    "adamax": lambda x: t.scale_by_adamax(x, x),
    "adamax outside": lambda x: t.scale_by_adamax(x, eps_inside_max=False),
    "adadelta": lambda x: t.scale_by_adadelta(x, eps=x),
    "radam": lambda x: t.scale_by_radam(x, threshold=4.0),
    "radam inside": lambda x: t.scale_by_radam(x, eps_inside_sqrt=True),
    "belief": lambda x: t.scale_by_belief(x, eps_root=x),
    "yogi": lambda x: t.scale_by_yogi(x, bias_correction=False),
    "prodigy": lambda x: t.scale_by_prodigy(x, d0=x, weight_decay=x),
    "dog": lambda x: t.scale_by_dog(x, x),
    "schedule_free": lambda x: t.schedule_free(0.9, x),
    "qhadam": lambda x: t.scale_by_qhadam(nu1=x, nu2=x),
    "ademamix": lambda x: t.scale_by_ademamix(x, alpha=x, warmup_steps=5),
    "adan": lambda x: t.scale_by_adan(x, look_ahead=x),
    "rprop": lambda x: t.step_by_rprop(0.1, eta_minus=0.3, step_size_min=x),
    "even average": lambda x: t.average_evenly(x),
}


def test_every_factory_is_in_the_table():
    """What makes a transform: all public functions of the package but `chain` and `factory`."""
    named = {name for name in t.__all__ if name.islower()} - {"chain", "factory"}
    used = {name for make in TRANSFORMS.values() for name in make.__code__.co_names}
    assert named <= used | {"START_FROM_PARAM"}


def optimizer(chain, params=None):
    return fastopt.Optimizer(np.ones(3) if params is None else params, chain, executor="reference")


def assert_same_steps(one, other, first=1):
    for number in range(first, first + 3):
        grad = np.array([0.5, -1.0, number / 7])
        one.step(grad)
        other.step(grad)
    assert one.step_count == other.step_count
    assert one.params.tobytes() == other.params.tobytes()
    for name, state in one.state.items():
        assert state.tobytes() == other.state[name].tobytes()


@DUPLICATE
@pytest.mark.parametrize("setting", [0.5, falling], ids=["number", "schedule"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_the_package(name, setting, duplicate):
    transform = TRANSFORMS[name](setting)
    twin = duplicate(transform)
    assert twin.update is transform.update
    for field in "name", "state", "after", "no_gradient":
        assert getattr(twin, field) == getattr(transform, field)
    for step in (0, 1, 10, 3):
        assert twin.hyper_at(step) == transform.hyper_at(step)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_chains_of_named_optimizers(case):
    """With every setting, as a schedule of a module where it is one."""
    settings = {name: falling if callable(x) else x for name, x in case.settings.items()}
    original = case.optimizer(np.ones(3), executor="reference", **settings).chain
    twin = pickle.loads(pickle.dumps(original))
    assert repr(twin) == repr(original)
    assert [part.hyper_at(7) for part in twin] == [part.hyper_at(7) for part in original]


@DUPLICATE
@pytest.mark.parametrize("name", TRANSFORMS)
def test_optimizers_with_chains_of_the_package(name, duplicate):
    transform = TRANSFORMS[name](falling)
    chain = (
        t.chain(t.scale(-0.5), transform)
        if transform.after
        else t.chain(transform, t.scale_by_learning_rate(rising))
    )
    opt = optimizer(chain)
    opt.step(np.array([1.0, -2.0, 0.5]))
    twin = duplicate(opt)
    assert repr(twin) == repr(opt)
    if duplicate is not copy.copy:
        assert not np.shares_memory(twin.params, opt.params)
        assert_same_steps(opt, twin)


@DUPLICATE
def test_a_transform_of_functions_of_a_module(duplicate):
    twin = duplicate(SIGN)
    assert twin.update is sign_update
    opt = optimizer(t.chain(SIGN, t.scale_by_learning_rate(0.1)))
    if duplicate is not copy.copy:
        assert_same_steps(opt, duplicate(opt))


@t.factory
def scale_by_root_of_step(rate, *, power=0.5):
    """Of one's own, with closures for both functions."""

    def root_update(update, param, state, hyper):
        (factor,) = hyper
        return factor * update, state

    return fastopt.Transform(root_update, hyper=lambda step: (rate / (1 + step) ** power,))


@DUPLICATE
def test_a_custom_factory(duplicate):
    twin = duplicate(scale_by_root_of_step(0.5, power=1.0))
    assert [twin.hyper_at(step) for step in range(3)] == [(0.5,), (0.25,), (0.5 / 3,)]
    opt = optimizer(t.chain(twin))
    if duplicate is not copy.copy:
        assert_same_steps(opt, duplicate(opt))


@t.factory
def half_rate():
    """Made by another factory: either call makes the same one again."""
    return t.scale_by_learning_rate(0.5)


def test_a_factory_around_another():
    assert pickle.loads(pickle.dumps(half_rate())).hyper_at(0) == (0.5,)


def test_a_factory_makes_a_transform():
    @t.factory
    def half():
        return 0.5

    with pytest.raises(TypeError, match="half must return a Transform, not float"):
        half()


def test_what_replaces_a_part_is_pickled_with_it():
    """And not the call that made the rest."""
    other = dataclasses.replace(t.scale_by_learning_rate(0.5), hyper=(0.25,))
    assert pickle.loads(pickle.dumps(other)).hyper_at(0) == (0.25,)


def scaled_update(update, param, state, hyper):
    return hyper[0] * update, state


LAMBDAS = {
    "hyper": lambda: fastopt.Transform(scaled_update, hyper=lambda step: (0.5 / (1 + step),)),
    "schedule": lambda: t.scale_by_learning_rate(lambda step: 0.5 / (1 + step)),
    "update": lambda: fastopt.Transform(lambda update, param, state, hyper: (update, state)),
}


@pytest.mark.parametrize("where", LAMBDAS)
def test_a_lambda_is_named_by_the_error_and_cloudpickle_takes_it(where):
    opt = optimizer(t.chain(LAMBDAS[where]()))
    opt.step(np.ones(3))
    with pytest.raises((AttributeError, pickle.PicklingError), match="<lambda>"):
        pickle.dumps(opt)
    twin = pickle.loads(cloudpickle.dumps(opt))
    assert_same_steps(opt, twin)
    assert_same_steps(copy.deepcopy(opt), twin, first=4)


def test_a_new_process_reads_a_pickle(tmp_path):
    parts = t.scale_by_rms(falling), t.trace(rising), t.scale_by_learning_rate(0.1)
    opt = optimizer(t.chain(*parts, t.average_params(0.5)))
    opt.step(np.ones(3))
    (tmp_path / "opt.pkl").write_bytes(pickle.dumps(opt))
    code = f"""
    import pickle, numpy as np
    from pathlib import Path
    opt = pickle.loads(Path({str(tmp_path / "opt.pkl")!r}).read_bytes())
    for _ in range(3):
        opt.step(np.array([0.5, -1.0, 2.0]))
    print(opt.params.tobytes().hex(), opt.state["average"].tobytes().hex())
    """
    printed = run(script(code), tmp_path / "cache")
    for _ in range(3):
        opt.step(np.array([0.5, -1.0, 2.0]))
    assert printed == f"{opt.params.tobytes().hex()} {opt.state['average'].tobytes().hex()}"


# float64, over the megabyte from which joblib maps arrays between its processes.
SIZE = 150_000 if COMPILED else 500


def large():
    """An optimizer with arrays of every kind: parameters, states, bounds and a copy."""
    params = {"w": np.linspace(-1, 1, SIZE), "b": np.ones(2)}
    opt = fastopt.Adam(
        params,
        lr=0.1,
        bounds=({"w": np.full(SIZE, -0.5), "b": np.full(2, -2.0)}, None),
        copy_to={"w": np.zeros(SIZE), "b": np.zeros(2)},
    )
    opt.step({"w": np.ones(SIZE), "b": np.ones(2)})
    return opt


def assert_steps_like(twin, opt):
    for optimizer in (twin, opt):
        optimizer.step({"w": np.linspace(1, 2, SIZE), "b": np.ones(2)})
    for name in ("w", "b"):
        assert twin.params[name].tobytes() == opt.params[name].tobytes()
        assert twin.copy_to[name].tobytes() == opt.copy_to[name].tobytes()
        for state in opt.state:
            assert twin.state[state][name].tobytes() == opt.state[state][name].tobytes()


@pytest.mark.parametrize("mode", ["r", "r+", "c", None])
def test_arrays_that_joblib_maps_are_copied(mode, tmp_path):
    """Steps would fail, or write to the pickle."""
    opt = large()
    path = tmp_path / "opt.joblib"
    joblib.dump(opt, path)
    whole = path.read_bytes()
    twin = joblib.load(path, mmap_mode=mode)
    assert not isinstance(twin.params["w"], np.memmap)
    assert_steps_like(twin, opt)
    assert path.read_bytes() == whole
    assert_steps_like(joblib.load(path), joblib.load(path, mmap_mode=mode))


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_chain_that_joblib_maps(mode, tmp_path):
    """The arrays of transforms too."""
    transform = fastopt.Transform(
        store_update, inputs={"x": np.ones(SIZE)}, outputs={"y": np.zeros(SIZE)}, after=True
    )
    chain = t.chain(t.scale(0.5), transform, t.copy_params(np.zeros(SIZE)))
    opt = fastopt.Optimizer(np.ones(SIZE), chain)
    joblib.dump(opt, tmp_path / "opt.joblib")
    whole = (tmp_path / "opt.joblib").read_bytes()
    twin = joblib.load(tmp_path / "opt.joblib", mmap_mode=mode)
    for optimizer in (twin, opt):
        optimizer.step(np.ones(SIZE))
        assert [a[0] for a in optimizer.chain.outputs()] == [1.5, 0.5]
    assert (tmp_path / "opt.joblib").read_bytes() == whole


def store_update(new, param, state, hyper):
    (x,) = state
    return new, (new + x,)


BUFFERS = {
    "read-only": lambda buffers: [bytes(buffer) for buffer in buffers],
    "of the pickled optimizer": list,
    "misaligned": lambda buffers: [
        memoryview(bytearray(b"." + bytes(buffer)))[1:] for buffer in buffers
    ],
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_buffers_out_of_band(kind):
    opt = large()
    buffers = []
    text = pickle.dumps(opt, protocol=5, buffer_callback=buffers.append)
    assert buffers
    twin = pickle.loads(text, buffers=BUFFERS[kind](buffers))
    assert not np.shares_memory(twin.params["w"], opt.params["w"])
    assert twin.params["w"].flags.aligned
    assert_steps_like(twin, opt)


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.parametrize("make", [functools.partial(fastopt.SGD, lr="auto"), fastopt.Prodigy])
def test_numbers_that_are_carried_are_not_in_buffers(make, kind):
    opt = make(np.ones(SIZE))
    opt.step(np.ones(SIZE))
    buffers = []
    text = pickle.dumps(opt, protocol=5, buffer_callback=buffers.append)
    twin = pickle.loads(text, buffers=BUFFERS[kind](buffers))
    for _ in range(2):
        twin.step(np.ones(SIZE))
        opt.step(np.ones(SIZE))
    assert twin.params.tobytes() == opt.params.tobytes()


class Carries(fastopt.NamedOptimizer):
    """One whose transform carries as many numbers as this says."""

    count = 1

    def make_parts(self):
        sums = fastopt.Transform(
            scaled_update,
            sums={"squares": square},
            carried={str(k): 0.0 for k in range(self.count)},
            from_sums=counts_up,
            hyper=(1.0,),
        )
        return [sums, *self.decay_and_rate()]


def square(update, param, state, hyper):
    return update * update


def counts_up(hyper, sums, carried):
    return hyper, carried


@pytest.mark.parametrize("count", [2, 5])
def test_a_transform_that_carries_other_numbers_by_now(count, monkeypatch):
    text = pickle.dumps(Carries(np.ones(SIZE)))
    assert pickle.loads(text).step_count == 0
    monkeypatch.setattr(Carries, "count", count)
    with pytest.raises(ValueError, match="a copy must have other carried numbers than"):
        pickle.loads(text)


def test_what_needs_no_copy_is_the_same_object():
    value = {"a": [np.ones(3), (np.zeros(2), "text", None)], "b": falling}
    assert owned(value) is value
    value["a"][0].flags.writeable = False
    copied = owned(value)
    assert copied["a"][0] is not value["a"][0]
    assert copied["a"][0].flags.writeable
    assert copied["a"][1] is value["a"][1]
    assert not value["a"][0].flags.writeable


def test_a_shallow_copy_of_memory_maps_shares_them(tmp_path):
    w = np.lib.format.open_memmap(tmp_path / "w.npy", "w+", np.float64, (5,))
    opt = fastopt.SGD(w, lr=0.1, momentum=0.5, executor="reference")
    twin = copy.copy(opt)
    assert twin.params is w
    assert np.shares_memory(twin.state["momentum_buffer"], opt.state["momentum_buffer"])
