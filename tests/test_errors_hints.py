"""Errors say what to do instead, in few words."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests import subprocesses
from tests.refusals import refusal
from tests.support import COMPILED

ARRAY = np.ones(3)
only_compiled = pytest.mark.skipif(not COMPILED, reason="only the compiler finds this")


def test_dtypes_name_astype():
    with refusal(TypeError, ["params", "int64", ".astype('float64')"]):
        fastopt.SGD(np.ones(3, int))
    opt = fastopt.SGD(np.ones(3, np.float32))
    for grad in np.ones(3), np.ones(3, int):
        with refusal(TypeError, ["grads", str(grad.dtype), ".astype('float32')"]):
            opt.step(grad)
    with pytest.raises(TypeError, match="complex128") as caught:
        fastopt.SGD(np.ones(3, complex))
    assert "astype" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("RMSprop", "RMSProp"), ("Adagrad", "AdaGrad"), ("schedule", "schedules")]
)
def test_names_of_the_package_are_suggested(name, meant):
    with refusal(AttributeError, [f"{name!r} (did you mean {meant}?)"]):
        getattr(fastopt, name)


def test_names_of_torch_are_suggested():
    pytest.importorskip("torch", reason="torch is not installed")
    home = pytest.importorskip("fastopt.interop.torch")
    with refusal(AttributeError, ["'RMSProp' (did you mean RMSprop?)"]):
        _ = home.RMSProp


def test_keys_that_differ_are_named():
    opt = fastopt.SGD({"a": np.ones(3), "b": np.ones(3)})
    with pytest.raises(ValueError, match=r"params: missing \['b'\]$"):
        opt.step({"a": np.ones(3)})
    with pytest.raises(ValueError, match=r"params: missing \['b'\], unknown \['c'\]$"):
        opt.step({"a": np.ones(3), "c": np.ones(3)})


@pytest.mark.parametrize("name", ["clip_norm", "state_dtype", "skip_nonfinite"])
def test_what_groups_share_is_no_setting_of_one(name):
    with refusal(TypeError, [name, "for all groups alike", "SGD"]):
        fastopt.SGD([{"params": np.ones(3), name: None}])


def test_a_class_is_no_method_of_scipy():
    from scipy.optimize import minimize

    with refusal(TypeError, ["fastopt.interop.scipy.method(fastopt.Adam)"]):
        minimize(lambda x: (x @ x, 2 * x), ARRAY, jac=True, method=fastopt.Adam)


def test_what_is_no_array_names_what_makes_one():
    with refusal(TypeError, ["params", "generator", "make a list", "fastopt.interop.torch"]):
        fastopt.SGD(np.ones(3) for _ in range(2))

    class Library:
        def __array__(self, dtype=None, copy=None):
            return np.ones(3)

    with refusal(TypeError, ["params", "Library", "numpy.asarray"]):
        fastopt.SGD(Library())


@pytest.mark.parametrize("what", ["tensor", "parameter", "module"])
def test_torch_names_its_own_optimizers(what):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = torch.nn.Linear(2, 2)
    params = {"tensor": torch.ones(3), "parameter": [module.weight], "module": module}[what]
    with refusal(TypeError, ["params", "NumPy array", "fastopt.interop.torch"]):
        fastopt.SGD(params)


def test_missing_torch_says_what_to_install(tmp_path):
    code = """
        import sys
        sys.modules["torch"] = None
        try:
            import fastopt.interop.torch
        except ImportError as error:
            assert "pip install 'torch>=2.7'" in str(error)
        else:
            raise AssertionError
    """
    subprocesses.run(subprocesses.script(code), tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: fastopt.minimize(lambda x: (x @ x, x), ARRAY, bounds=list(range(100_000))),
        lambda: fastopt.minimize(lambda x: (x @ x, x), [np.nan] * 100_000),
        lambda: fastopt.SGD(np.ones(3), lr=[0.1] * 100_000),
        lambda: fastopt.SGD(np.ones(3), nesterov=[True] * 100_000),
        lambda: fastopt.schedules.piecewise(["a"] * 100_000, [1.0]),
        lambda: fastopt.Transform(lambda u, p, s, h: (u, s), hyper=[1.0] * 100_000),
    ],
)
def test_values_are_shortened(make):
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "number", [np.array(0.25), np.float32(0.25), np.array(1, np.float16) / 4, np.array(0)]
)
def test_a_schedule_may_return_arrays_without_dimensions(number):
    w = np.ones(3)
    fastopt.SGD(w, lr=lambda step: number).step(np.ones(3))
    assert w.tolist() == [1 - float(number)] * 3


@pytest.mark.parametrize("number", [np.array([0.25]), np.array(True), np.array("0.1"), np.array(1j)])
def test_other_arrays_are_no_numbers(number):
    with refusal(TypeError, ["lr (from its schedule, at step 0)", "number"]):
        fastopt.SGD(np.ones(3), lr=lambda step: number)


def test_schedules_of_other_libraries():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    w = np.ones(3)
    fastopt.SGD(w, lr=lambda step: torch.tensor(0.5)).step(np.ones(3))
    assert w.tolist() == [0.5] * 3
    optimizer = torch.optim.SGD([torch.ones(1)])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    with refusal(TypeError, ["lr", "scheduler of torch", "fastopt.schedules"]):
        fastopt.SGD(w, lr=scheduler)


def test_a_schedule_that_raises_is_named():
    def broken(step):
        if step == 1:
            raise KeyError("rate")
        return 0.1

    opt = fastopt.SGD(np.ones(3), lr=broken)
    opt.step(np.ones(3))
    with pytest.raises(KeyError) as caught:
        opt.step(np.ones(3))
    assert "the schedule of lr, called with the step 1" in caught.value.__notes__[0]
    with pytest.raises(TypeError) as refused:
        fastopt.SGD(np.ones(3), momentum=lambda: 0.9)
    assert "the schedule of momentum, called with the step 0" in refused.value.__notes__[0]


def clips(update, param, state, hyper):
    return np.clip(update, -1.0, 1.0), state


def sums(update, param, state, hyper):
    return sum(update), state


def forgets(update, param, state, hyper):
    if update > 0:
        return update, state


def forgets_at_once(update, param, state, hyper):
    if update > 1e9:
        return update, state


def with_default(update, param, state, hyper, factor=2.0):
    return factor * update, state


def variadic(*args):
    return args[0], args[2]


def with_keyword(update, param, state, hyper, *, factor=2.0):
    return factor * update, state


def uses_an_array(update, param, state, hyper):
    return update * ARRAY, state


ARGUMENTS = ["four arguments (update, param, state, hyper)", "hyper, or closed over"]
DIAGNOSES = [
    (forgets_at_once, ["every branch", "not None"]),
    (with_default, [*ARGUMENTS, "factor"]),
    (variadic, [*ARGUMENTS, "*args"]),
    (with_keyword, [*ARGUMENTS, "factor"]),
    (sums, ["gets numbers, not arrays", "not iterable"]),
    (uses_an_array, ["not arrays", "the array ARRAY", "inputs"]),
]


@pytest.mark.parametrize(("update", "words"), DIAGNOSES, ids=[d[0].__name__ for d in DIAGNOSES])
def test_transforms_are_diagnosed(update, words):
    transform = fastopt.Transform(update, {"a": 0.0})
    with refusal(TypeError, [f"transform {update.__name__!r}", *words]):
        fastopt.Optimizer(np.ones(5), transform)


@only_compiled
@pytest.mark.parametrize(
    ("update", "words"),
    [
        (clips, ["because of clip (write min(max(x, low), high))"]),
        (forgets, ["every branch"]),
    ],
)
def test_the_compilers_errors_are_diagnosed(update, words):
    chain = fastopt.chain(fastopt.Transform(update, {"a": 0.0}), t.scale(0.1))
    with refusal(TypeError, [f"transform {update.__name__!r}", *words]):
        fastopt.Optimizer(np.ones(5), chain)


@pytest.mark.parametrize(
    ("start", "error", "words"),
    [
        (np.zeros(3), TypeError, ["state['a']", "number", "argument state"]),
        (None, TypeError, ["state['a']", "number", "None"]),
        ("params", ValueError, ["state['a']", "'param'"]),
    ],
)
def test_states_start_from_numbers(start, error, words):
    with refusal(error, words):
        fastopt.Transform(forgets, state={"a": start})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda w: fastopt.SGD(w, learning_rate=0.1), ["learning_rate (did you mean lr?)"]),
        (lambda w: fastopt.Adam(w, betas=(0.9, 0.9)), ["betas (did you mean beta1, beta2?)"]),
        (lambda w: fastopt.Adam(w, weigth_decay=0.1), ["weigth_decay (did you mean weight_decay?)"]),
        (lambda w: fastopt.RMSProp(w, rho=0.9), ["rho (did you mean beta?)"]),
        (lambda w: fastopt.SGD([{"params": w, "learning_rate": 0.1}]), ["did you mean lr?"]),
        (lambda w: fastopt.Adam.like("torch", w, learning_rate=0.1), ["did you mean lr?"]),
        (lambda w: fastopt.Adam.like("keras", w, lr=0.1, beta1=0.9), ["did you mean beta_1?"]),
        (lambda w: fastopt.minimize(lambda x: (x @ x, x), w, learning_rate=0.1), ["did you mean lr?"]),
        (lambda w: fastopt.SGD(w, banana=1), ["no argument banana; it takes params, lr"]),
    ],
)
def test_suggestions(make, words):
    with refusal(TypeError, ["has no argument", *words]):
        make(np.ones(3))


@pytest.mark.parametrize("params", [[], {}, (), {"a": [], "b": {}}, [{"params": []}]])
def test_structures_without_arrays(params):
    with refusal(ValueError, ["params", "array"]):
        fastopt.Adam(params)


@pytest.mark.parametrize("group", [{"lr": 0.1}, {"param": np.ones(3), "lr": 0.1}, {"lr": t.scale}])
def test_a_group_without_parameters_is_named(group):
    with refusal(ValueError, ["params[1]", "'params'"]):
        fastopt.Adam([{"params": np.ones(3)}, group])
    with refusal(ValueError, ["params[0]", "'params'"]):
        fastopt.Adam.like("torch", [group])


def test_a_structure_may_have_an_array_of_that_name():
    opt = fastopt.SGD([{"params": np.ones(3)}, {"statistics": np.ones(2)}])
    assert opt.params[1]["statistics"].tolist() == [1.0, 1.0]


def test_a_function_is_no_transform():
    with refusal(TypeError, ["part 0", "Transform", "scale_by_rms", "call it"]):
        fastopt.chain(t.scale_by_rms, t.scale_by_learning_rate(0.1))


def test_states_are_written_to_and_not_replaced():
    opt = fastopt.Adam(np.ones(3))
    with refusal(TypeError, ["array[...] = values"]):
        opt.state["exp_avg"] = np.zeros(3)
    opt.state["exp_avg"][...] = 1.0
    opt.step(np.ones(3))
    assert opt.state["exp_avg"].tolist() == pytest.approx([1.0] * 3)


def test_settings_that_no_group_uses():
    groups = [{"params": np.ones(3), "lr": 0.1}, {"params": np.ones(2), "lr": 0.2}]
    with refusal(ValueError, ["lr = 0.5 has no effect", "every group"]):
        fastopt.SGD(groups, lr=0.5)
    assert [group.lr for group in fastopt.SGD(groups).groups] == [0.1, 0.2]
    assert [group.lr for group in fastopt.SGD.like("torch", groups).groups] == [0.1, 0.2]
    fastopt.SGD([groups[0], {"params": np.ones(2)}], lr=0.5)


def test_arrays_without_dimensions_are_numbers(tmp_path):
    opt = fastopt.SGD(np.ones(3), lr=np.array(0.25), momentum=np.float32(0.5))
    opt.step(np.ones(3))
    opt.lr = np.array(0.5)
    assert opt.params.tolist() == [0.75] * 3
    assert opt.lr == 0.5
    opt.save(tmp_path / "run.npz")
    other = fastopt.SGD(np.ones(3), lr=0.1, momentum=0.1)
    other.load(tmp_path / "run.npz")
    assert (other.lr, other.momentum) == (0.5, 0.5)


@pytest.mark.parametrize("path", [5, None, b"run.npz"])
def test_paths_are_named(path):
    opt = fastopt.SGD(np.ones(3))
    for use in opt.save, opt.load:
        with refusal(TypeError, ["path must be a str", repr(path)]):
            use(path)


def test_a_folder_of_states_is_named():
    with refusal(TypeError, ["state_dir must be a str", "5"]):
        fastopt.RMSProp(np.ones(3), state_dir=5)


@pytest.mark.parametrize("settings", [{"lr": "auto"}, {"lr": "auto", "momentum": 0.9}])
def test_a_one_shot_function_cannot_find_a_rate(settings):
    with refusal(ValueError, ["lr must be a number", "rmsprop_step", "'auto'", "keep an optimizer"]):
        fastopt.rmsprop_step(np.ones(3), np.ones(3), square_avg=np.zeros(3), **settings)


def test_transforms_that_differ_are_named_before_what_they_save(tmp_path):
    fastopt.Adam(np.ones(3)).save(tmp_path / "run.npz")
    automatic = fastopt.Adam(np.ones(3), lr="auto")
    with refusal(ValueError, ["run.npz has transforms", "'scale_update'", "this one has"]):
        automatic.load(tmp_path / "run.npz")
    saved = automatic.state_dict()
    del saved["carried"]
    with refusal(ValueError, ["is damaged: it lacks ['carried'"]):
        automatic.load_state_dict(saved)


class Mine(fastopt.NamedOptimizer):
    """Without slots, so that it may have any attribute."""

    lr: fastopt.Number = fastopt.setting(default=0.1)

    def make_parts(self):
        return self.decay_and_rate()


@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.RMSProp, Mine])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lrr", "lr"),
        ("learning_rate", "lr"),
        ("clip_nrom", "clip_norm"),
        ("weigth_decay", "weight_decay"),
        ("max_norm", "clip_norm"),
    ],
)
def test_a_misspelt_attribute_is_no_new_one(kind, name, meant):
    opt = kind(np.ones(3))
    with refusal(AttributeError, [kind.__name__, repr(name), f"(did you mean {meant}?)"]):
        setattr(opt, name, 0.5)
    assert not hasattr(opt, name)
    if meant != "clip_norm":  # which no group has
        with refusal(AttributeError, [kind.__name__, repr(name), f"(did you mean {meant}?)"]):
            setattr(opt.groups[0], name, 0.5)
        with refusal(AttributeError, [kind.__name__, repr(name), f"(did you mean {meant}?)"]):
            getattr(opt.groups[0], name)
        with refusal(AttributeError, [kind.__name__, repr(name), f"(did you mean {meant}?)"]):
            opt.current(name)


def test_other_attributes_are_for_classes_without_slots():
    mine = Mine(np.ones(3))
    for name in "note", "scheduler", "layer_decay", "lr0":
        setattr(mine, name, 1)
        assert getattr(mine, name) == 1
    with refusal(AttributeError, ["SGD", "'note' to assign"]):
        fastopt.SGD(np.ones(3)).note = 1
    mine = Mine(np.ones(3))
    mine.note, mine.base_lr = 1, 0.5
    assert (mine.note, mine.base_lr, copy.copy(mine).lr) == (1, 0.5, 0.1)
