"""Many arrays in one launch: the same bits as each alone, in any structure."""

import math

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.executors.cpu import drivers
from tests.cases import BY_NAME, SOME, every_case
from tests.refusals import everywhere, refusal
from tests.support import COMPILED, assert_same_bits, problem

STEPS = 3
SHAPES = [(131,), (), (0,), (3, 5), (64,), (1, 1), (17,)]
LEAVES = [problem(s, dtype, STEPS) for s in SHAPES for dtype in (np.float32, np.float64)]
CASES = [*SOME, BY_NAME["adam-amsgrad"], BY_NAME["nadam-everything"]]

FORMS = {
    "list": list,
    "tuple": tuple,
    "dict": lambda leaves: dict(enumerate(leaves)),
    "nested": lambda x: {"a": [x[0], {"b": (x[1], x[2])}], "c": (), "d": tuple(x[3:])},
}


def assert_alone(opt, leaf_of, case, numbers, steps):
    """One leaf is as if it had been stepped by an optimizer of its own, with these gradients."""
    w, grads = numbers
    alone = case.run(w.copy(), [grads[step] for step in steps], executor="serial")
    assert_same_bits(leaf_of(opt.params), alone.params)
    assert opt.state.keys() == alone.state.keys()
    for name, state in alone.state.items():
        assert_same_bits(leaf_of(opt.state[name]), state, name)


def leaves(structure):
    if isinstance(structure, dict):
        structure = structure.values()
    if isinstance(structure, np.ndarray):
        return [structure]
    return [leaf for child in structure for leaf in leaves(child)]


@every_case(CASES)
@everywhere
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms(form, executor, case):
    """Fresh gradients at every step, and both dtypes; lists for tuples and the reverse."""
    opt = case.make(form([w.copy() for w, _ in LEAVES]), executor=executor)
    for step in range(STEPS):
        case.step(opt, form([grads[step].copy() for _, grads in LEAVES]))
    for i, numbers in enumerate(LEAVES):
        assert_alone(opt, lambda structure, i=i: leaves(structure)[i], case, numbers, range(STEPS))


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("missing", [(), (0,), (5, 6), (36,), range(37)])
def test_gradients_that_all_threads_check(threads, missing, monkeypatch):
    monkeypatch.setattr(drivers, "MANY", 37)
    monkeypatch.setattr(drivers, "THREADS_SLEEP", False)
    assert drivers.fastest_parallel(37) is drivers.parallel_many()
    sizes = [10 * (1 + i % 7) for i in range(37)]
    params = [np.linspace(-1, 1, size, dtype=np.float32) for size in sizes]
    opts = [fastopt.Adam([w.copy() for w in params], executor=how) for how in ("parallel", "serial")]
    with fastopt.threads(threads):
        for step in range(3):
            grads = [np.full(size, 1 + i + step, np.float32) for i, size in enumerate(sizes)]
            if step == 1:
                grads = [None if i in missing else grad for i, grad in enumerate(grads)]
            for opt in opts:
                opt.step(grads)
        for bad in (0, 17, 36):
            wrong = [*grads]
            wrong[bad] = grads[bad].astype(np.float64)
            wrong[-1] = opts[0].params[-1]  # of several the first is named
            with pytest.raises((TypeError, ValueError), match=rf"grads\[{bad}\]"):
                opts[0].step(wrong)
        for opt in opts:
            opt.step(grads)
    one, other = opts
    assert one.step_count == other.step_count
    for name, arrays in {"params": one.params, **one.state}.items():
        others = other.params if name == "params" else other.state[name]
        for array, expected in zip(arrays, others, strict=True):
            assert_same_bits(array, expected, name)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_one_large_and_many_tiny(threads):
    large = 100_003 if COMPILED else 203
    case = BY_NAME["adam-amsgrad"]
    many = [problem(n, np.float32, STEPS) for n in (*[3] * 40, large, *range(70))]
    opt = case.make([w.copy() for w, _ in many], executor="parallel")
    with fastopt.threads(threads):
        for step in range(STEPS):
            case.step(opt, [grads[step] for _, grads in many])
    for i, numbers in enumerate(many):
        assert_alone(opt, lambda structure, i=i: structure[i], case, numbers, range(STEPS))


# None in the place of a gradient

SCHEDULED = "rmsprop-scheduled", "adam-scheduled", "nadam-everything", "adagrad-lr_decay"


@every_case([BY_NAME[name] for name in SCHEDULED])
@everywhere
def test_none_leaves_out_and_keeps_the_count(executor, case):
    """Bias corrections and schedules go by the steps that the array itself has taken."""
    numbers = LEAVES[:2] + LEAVES[6:9]
    present = [(0, 1, 2), (1,), (), (0, 2), (2,)]
    opt = case.make([w.copy() for w, _ in numbers], executor=executor)
    for step in range(STEPS):
        pairs = zip(numbers, present, strict=True)
        opt.step([grads[step] if step in steps else None for (_, grads), steps in pairs])
    assert opt.step_count == STEPS
    for i, (drawn, steps) in enumerate(zip(numbers, present, strict=True)):
        assert_alone(opt, lambda structure, i=i: structure[i], case, drawn, steps)


@everywhere
def test_none_for_a_branch(executor):
    case = BY_NAME["adam-plain"]
    opt = case.make({"a": [LEAVES[0][0].copy()], "b": LEAVES[1][0].copy()}, executor=executor)
    opt.step({"a": None, "b": LEAVES[1][1][0]})
    opt.step({"a": [LEAVES[0][1][1]], "b": None})
    assert_alone(opt, lambda s: s["a"][0], case, LEAVES[0], [1])
    assert_alone(opt, lambda s: s["b"], case, LEAVES[1], [0])


@everywhere
def test_none_leaves_everything_of_its_array(executor):
    """Average, copy and, where there is none, the gradient."""
    w, target = [np.ones(3), np.ones(3)], [np.zeros(3), np.zeros(3)]
    options = {"average_decay": 0.5, "copy_to": target, "zero_grad": True, "clip_norm": 10.0}
    opt = fastopt.SGD(w, lr=1.0, executor=executor, **options)
    g = np.ones(3)
    opt.step([None, g])
    for array, value in ((w[0], 1), (target[0], 0), (w[1], 0), (target[1], 0), (g, 0)):
        np.testing.assert_array_equal(array, value)
    np.testing.assert_array_equal(opt.state["average"], [[1, 1, 1], [0.5, 0.5, 0.5]])


# Groups


def groups():
    return [
        {"params": [LEAVES[0][0].copy(), LEAVES[1][0].copy()]},
        {"params": {"w": LEAVES[6][0].copy()}, "momentum": 0.8, "weight_decay": 0.1},
        {"params": LEAVES[8][0].copy(), "lr": 0.5, "centered": True, "average_decay": 0.75},
    ]


def step_groups(opt, step):
    grads = [grads[step] for _, grads in LEAVES]
    opt.step([[grads[0], grads[1]], {"w": grads[6]}, grads[8]])


MEMBERS = [
    (0, lambda s: s[0][0], {}),
    (1, lambda s: s[0][1], {}),
    (6, lambda s: s[1]["w"], {"momentum": 0.8, "weight_decay": 0.1}),
    (8, lambda s: s[2], {"lr": 0.5, "centered": True, "average_decay": 0.75}),
]


@everywhere
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_groups_have_their_own_settings(threads, executor):
    """And transforms: momentum, decay, centering and the average are in one group only."""
    opt = fastopt.RMSProp(groups(), lr=0.03, executor=executor)
    with fastopt.threads(threads):
        for step in range(STEPS):
            step_groups(opt, step)
    names = {"square_avg", "grad_avg", "momentum_buffer", "average"}
    assert set(opt.state) == names
    for i, leaf_of, settings in MEMBERS:
        w, grads = LEAVES[i]
        alone = fastopt.RMSProp(w.copy(), **{"lr": 0.03, **settings}, executor="serial")
        for g in grads:
            alone.step(g)
        assert_same_bits(leaf_of(opt.params), alone.params)
        for name in names:
            if name in alone.state:
                assert_same_bits(leaf_of(opt.state[name]), alone.state[name], name)
            else:
                assert leaf_of(opt.state[name]) is None


def test_assignment_to_groups():
    """To the optimizer: for the groups without a value of their own; to a group: for that one."""
    opt = fastopt.RMSProp(groups(), lr=0.03)
    assert [group.lr for group in opt.groups] == [0.03, 0.03, 0.5]
    opt.lr = 0.2
    assert (opt.lr, [group.lr for group in opt.groups]) == (0.2, [0.2, 0.2, 0.5])
    opt.groups[1].lr = 0.3
    assert (opt.lr, [group.lr for group in opt.groups]) == (0.2, [0.2, 0.3, 0.5])
    opt.lr = 0.4
    assert [group.lr for group in opt.groups] == [0.4, 0.3, 0.5]
    step_groups(opt, 0)
    for (i, leaf_of, settings), lr in zip(MEMBERS, (0.4, 0.4, 0.3, 0.5), strict=True):
        w, grads = LEAVES[i]
        alone = fastopt.RMSProp(w.copy(), **{**settings, "lr": lr})
        alone.step(grads[0])
        assert_same_bits(leaf_of(opt.params), alone.params)


def test_one_group_without_groups():
    w = np.ones(3)
    opt = fastopt.SGD(w, lr=0.1)
    assert len(opt.groups) == 1
    assert opt.groups[0].params is w
    opt.groups[0].lr = 1.0
    opt.step(w + 1)
    np.testing.assert_array_equal(w, -1.0)


def test_bad_assignment_to_groups():
    opt = fastopt.RMSProp(groups(), lr=0.03)
    with refusal(ValueError, ["lr", ">= 0", "-1.0"]):
        opt.groups[1].lr = -1.0
    with refusal(ValueError, ["momentum", "new optimizer"]):
        opt.groups[0].momentum = 0.5
    with pytest.raises(AttributeError, match="'rate'"):
        opt.groups[0].rate = 1.0
    with pytest.raises(AttributeError, match="'rate'"):
        _ = opt.groups[0].rate
    with pytest.raises(AttributeError, match="'bounds'"):
        opt.groups[0].bounds = (0, 1)
    assert [group.lr for group in opt.groups] == [0.03, 0.03, 0.5]
    control = fastopt.RMSProp(groups(), lr=0.03)
    for optimizer in (opt, control):
        step_groups(optimizer, 0)
    for _, leaf_of, _ in MEMBERS:
        assert_same_bits(leaf_of(opt.params), leaf_of(control.params))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"rate": 1.0}, TypeError, ["RMSProp has no argument rate", "momentum"]),
        ({"clip_norm": 1.0}, TypeError, ["clip_norm is for all groups alike", "RMSProp"]),
        ({"lr": -1.0}, ValueError, ["lr", ">= 0", "-1.0"]),
        ({"nesterov": True}, ValueError, ["nesterov", "momentum > 0"]),
        ({"params": [1.0]}, TypeError, ["params[0][0]", "NumPy array", "float"]),
    ],
)
def test_bad_groups(settings, error, words):
    with refusal(error, words):
        fastopt.RMSProp([{"params": np.ones(3), **settings}, {"params": np.ones(3)}])


def test_an_array_twice():
    w = np.ones(3)
    for params in ([w, w], [w, [w]], [{"params": w}, {"params": w[1:]}]):
        with refusal(ValueError, ["params", "share memory"]):
            fastopt.SGD(params)


@everywhere
def test_errors_name_the_leaf(executor):
    w = {"layer": [np.ones(3), np.ones(2)], "head": np.ones(1)}
    opt = fastopt.SGD(w, executor=executor)
    good = np.zeros(2)
    with refusal(ValueError, ["grads['layer'][0]", "(3,)", "(2,)"]):
        opt.step({"layer": [good, good], "head": np.ones(1)})
    with refusal(TypeError, ["grads['layer'][1]", "float32"]):
        opt.step({"layer": [np.ones(3), good.astype(np.float32)], "head": np.ones(1)})
    with refusal(ValueError, ["grads['layer']", "2 entries", "1"]):
        opt.step({"layer": [np.ones(3)], "head": np.ones(1)})
    with refusal(ValueError, ["grads", "missing ['head']", "unknown ['tail']"]):
        opt.step({"layer": [np.ones(3), good], "tail": np.ones(1)})
    with refusal(ValueError, ["grads['head']", "share memory", "params['layer'][0]"]):
        opt.step({"layer": [np.ones(3), good], "head": w["layer"][0][:1]})
    assert opt.step_count == 0
    assert all((leaf == 1).all() for leaf in leaves(w))


# Transforms with inputs and outputs


def weigh(update, param, state, hyper):
    total, weight, shift = state
    (factor,) = hyper
    total = total + math.fabs(update)
    return factor * weight * update + shift, (total, update)


def by_weights(weights, shifts, seen):
    return fastopt.Transform(
        weigh,
        state={"total": 1.0},
        hyper=lambda step: (0.5 / (1 + step),),
        inputs={"weights": weights, "shifts": shifts},
        outputs={"seen": seen},
    )


@everywhere
@pytest.mark.parametrize("seen_dtype", [np.float16, np.float32, np.float64])
def test_inputs_and_outputs(seen_dtype, executor):
    """Inputs are read, outputs written in their own dtype, and None leaves both alone."""
    shapes = [(5, 7), (), (66,)]
    rng = np.random.default_rng(3)
    start, weights, shifts = (
        [np.array(rng.normal(size=s), np.float32) for s in shapes] for _ in range(3)
    )
    kept = [array.copy() for array in (*weights, *shifts)]
    seen = [np.full(s, -1, seen_dtype) for s in shapes]
    chain = fastopt.chain(by_weights(weights, shifts, seen), t.scale_by_learning_rate(0.25))
    opt = fastopt.Optimizer([w.copy() for w in start], chain, executor=executor)
    grads = [[np.array(rng.normal(size=s), np.float32) for s in shapes] for _ in range(STEPS)]
    for step_grads in grads:
        opt.step([None, *step_grads[1:]])
    for i, w in enumerate(start[1:], 1):
        total = np.float32(1)
        for step, step_grads in enumerate(grads):
            g = step_grads[i]
            total = total + abs(g)
            w = w - np.float32(0.25) * (np.float32(0.5 / (1 + step)) * weights[i] * g + shifts[i])
        assert_same_bits(opt.params[i], np.asarray(w))
        assert_same_bits(opt.state["total"][i], np.asarray(total))
        assert_same_bits(seen[i], g.astype(seen_dtype))
    assert_same_bits(opt.params[0], start[0])
    assert (seen[0] == -1).all()
    for array, previous in zip((*weights, *shifts), kept, strict=True):
        assert_same_bits(array, previous)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"weights": np.ones(4)}, ValueError, ["weights", "shape", "(3,)", "(4,)"]),
        ({"weights": np.ones(3, np.float32)}, TypeError, ["weights", "dtype", "float32"]),
        ({"weights": [1.0, 1.0, 1.0]}, TypeError, ["weights", "NumPy array", "list"]),
        ({"seen": np.ones(3, np.float16)}, TypeError, ["seen", "float32 or float64", "float16"]),
        ({"seen": np.ones(3, int)}, TypeError, ["seen", "int64"]),
    ],
)
def test_bad_inputs_and_outputs(changes, error, words):
    arguments = {name: np.ones(3) for name in ("weights", "shifts", "seen")} | changes
    w = np.ones(3)
    with refusal(error, words):
        fastopt.Optimizer(w, by_weights(**arguments))
    assert (w == 1).all()


def test_inputs_and_outputs_must_be_apart():
    w, other, seen = np.ones(3), np.ones(3), np.ones(3)
    with refusal(ValueError, ["seen", "params", "share memory"]):
        fastopt.Optimizer(w, by_weights(other, other, w))
    with refusal(ValueError, ["weights", "params", "share memory"]):
        fastopt.Optimizer(w, by_weights(w, other, seen))
    with refusal(ValueError, ["shifts", "seen", "share memory"]):
        fastopt.Optimizer(w, by_weights(other, seen, seen))
    fastopt.Optimizer(w, by_weights(other, other, seen)).step(other)  # only read: no harm


@pytest.mark.parametrize(
    ("buffers", "words"),
    [
        ([np.zeros(2)], ["state['momentum_buffer']", "2 entries", "not 1 entries"]),
        (np.zeros(2), ["state['momentum_buffer']", "2 entries", "one for each chain", "array"]),
        ([np.zeros(2)] * 3, ["state['momentum_buffer']", "2 entries", "not 3 entries"]),
    ],
)
def test_states_for_some_of_several_chains(buffers, words):
    chains = [fastopt.chain(t.trace(0.5)), fastopt.chain(t.scale(0.5))]
    params = [np.ones(2), np.ones(3)]
    with refusal(ValueError, words):
        fastopt.Optimizer(params, chains, state={"momentum_buffer": buffers})
    buffer = np.ones(2)
    opt = fastopt.Optimizer(params, chains, state={"momentum_buffer": [buffer, None]})
    opt.step([np.ones(2), np.ones(3)])
    assert buffer.tolist() == [1.5, 1.5]
