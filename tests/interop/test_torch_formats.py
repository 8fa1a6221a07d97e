"""`state_dtype`: states of other formats than the parameters, in steps and in checkpoints."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from tests.examples.toy_format import registered
from tests.interop.torch_pairs import NAMES, SETTINGS, Pair, every, fast, through_file, torch
from tests.refusals import refusal

COUNTS = ("step", "mu_product", "eta", "mu")
LARGE, SMALL = (40, 120), (7,)  # 8 bits are for arrays of 4096 elements and more
BLOCKS = -(-40 * 120 // 256)
FORMATS = [torch.float16, torch.bfloat16, "8bit"]
# Of the largest number in a block for 8 bits, else of the number itself.
PRECISION = {torch.float16: 2e-3, torch.bfloat16: 2e-2, "8bit": 0.2}

formats = pytest.mark.parametrize("state_dtype", FORMATS, ids=str)
# With the default of 1e-6 its squares of steps have few bits in float16.
LARGE_ENOUGH = {"Adadelta": {"eps": 1e-2}}
CORE = {
    "SGD": "SGD",
    "RMSprop": "RMSProp",
    "Adagrad": "AdaGrad",
    "Adam": "Adam",
    "AdamW": "AdamW",
    "NAdam": "NAdam",
    "Adadelta": "AdaDelta",
    "Adamax": "AdaMax",
    "RAdam": "RAdam",
    "Rprop": "Rprop",
    "ASGD": "ASGD",
}


def make(name, state_dtype, settings=None, seed=0, dtype=torch.float32, shapes=(LARGE, SMALL), **more):
    torch.manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    settings = SETTINGS[name] if settings is None else settings
    return params, getattr(fast, name)(params, **settings, state_dtype=state_dtype, **more)


def gradients(params, step):
    generator = torch.Generator().manual_seed(step)
    return [(1 + torch.rand(p.shape, generator=generator)).to(p.dtype) for p in params]


def run(params, optimizer, steps):
    for step in steps:
        for p, grad in zip(params, gradients(params, step), strict=True):
            p.grad = grad
        optimizer.step()


def numbers_of(state):
    return {name: value for name, value in state.items() if name not in COUNTS}


@pytest.mark.parametrize(
    ("name", "state_dtype", "rounding"),
    [
        (name, state_dtype, rounding)
        for i, name in enumerate(CORE)
        for j, state_dtype in enumerate(FORMATS)
        for k, rounding in enumerate([None, False, True])
        if name == "Adam" or (i + j + k) % 3 == 0
    ],
)
def test_the_same_bits_as_outside_of_torch(name, state_dtype, rounding):
    params, optimizer = make(name, state_dtype, stochastic_rounding=rounding)
    arrays = [p.detach().numpy().copy() for p in params]
    like = getattr(fastopt, CORE[name]).like
    outside = {torch.float16: np.float16, torch.bfloat16: "bfloat16"}.get(state_dtype, state_dtype)
    settings = {"state_dtype": outside, "stochastic_rounding": rounding, **SETTINGS[name]}
    if name == "AdamW":
        settings["weight_decay"] = 1e-2
    lr = optimizer.param_groups[0]["lr"]
    core = like("torch", arrays, lr=lr, **settings)
    for step in range(5):
        run(params, optimizer, [step])
        core.step([grad.numpy() for grad in gradients(params, step)])
    for p, array in zip(params, arrays, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), array)
    for key, stored in core.state.items():
        for p, array in zip(params, stored, strict=True):
            actual = optimizer.state[p][key]
            actual = actual.view(torch.uint8).numpy().reshape(-1)
            np.testing.assert_array_equal(actual, array.reshape(-1).view(np.uint8))


@formats
@every
def test_near_torch(name, state_dtype):
    """Each optimizer takes torch's steps but for rounding."""
    settings = {"lr": 0.01, **LARGE_ENOUGH.get(name, {})}
    params, optimizer = make(name, state_dtype, settings)
    others, _ = make(name, None)
    reference = getattr(torch.optim, name)(others, **settings)
    begin = [p.detach().clone() for p in params]
    run(params, optimizer, range(5))
    run(others, reference, range(5))
    for p, q, start in zip(params, others, begin, strict=True):
        assert (p - q).abs().max() <= PRECISION[state_dtype] * (q - start).abs().max()


@formats
@every
def test_states_as_they_are_stored(name, state_dtype):
    params, optimizer = make(name, state_dtype)
    run(params, optimizer, range(2))
    for p in params:
        state = optimizer.state[p]
        assert state.keys() == {*(n for n in COUNTS if n in state), *numbers_of(state)}
        for value in numbers_of(state).values():
            if state_dtype != "8bit":
                assert (value.dtype, value.shape) == (state_dtype, p.shape)
            elif p.shape == SMALL:
                assert (value.dtype, value.shape) == (torch.float32, p.shape)
            else:
                assert (value.dtype, value.shape) == (torch.uint8, (BLOCKS, 260))
        assert all(value.dtype == torch.float32 for key, value in state.items() if key in COUNTS)
        for value in numbers_of(optimizer.decoded(p)).values():
            assert value.shape == p.shape


def test_formats_by_name():
    wanted = {"exp_avg": torch.bfloat16, "exp_avg_sq": "8bit"}
    params, optimizer = make("Adam", wanted)
    run(params, optimizer, range(2))
    state = optimizer.state[params[0]]
    assert [state[key].dtype for key in (*wanted, "max_exp_avg_sq")] == [
        torch.bfloat16, torch.uint8, torch.float32,
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every
def test_states_of_32_bits_beside_parameters_of_16(name, dtype):
    params, optimizer = make(name, torch.float32, {"lr": 0.01}, dtype=dtype, average_decay=0.5)
    run(params, optimizer, range(3))
    saved = through_file(optimizer.state_dict())
    again, resumed = make(name, torch.float32, {"lr": 0.01}, dtype=dtype, average_decay=0.5)
    resumed.load_state_dict(saved)  # torch would round them to 16 bits
    for p, q in zip(params, again, strict=True):
        state, other = numbers_of(optimizer.state[p]), numbers_of(resumed.state[q])
        assert state
        assert all(value.dtype == torch.float32 for value in state.values())
        assert all(torch.equal(value, other[key]) for key, value in state.items())


def test_an_average_of_16_bits_is_kept_in_32():
    params, optimizer = make("SGD", None, {}, dtype=torch.bfloat16, average_decay=0.999)
    run(params, optimizer, range(3))
    _, resumed = make("SGD", None, {}, dtype=torch.bfloat16, average_decay=0.999)
    resumed.load_state_dict(optimizer.state_dict())
    for state in (optimizer.state[params[0]], next(iter(resumed.state.values()))):
        assert state["average"].dtype == torch.float32


@formats
@every
def test_a_resumed_run_has_the_same_bits(name, state_dtype):
    # torch does not count SGD's steps, which random bits belong to.
    rounding = False if name == "SGD" else None
    params, optimizer = make(name, state_dtype, stochastic_rounding=rounding)
    run(params, optimizer, range(3))
    again, resumed = make(name, state_dtype, seed=1, stochastic_rounding=rounding)
    with torch.no_grad():
        for p, q in zip(params, again, strict=True):
            q.copy_(p)
    resumed.load_state_dict(through_file(optimizer.state_dict()))
    run(params, optimizer, range(3, 6))
    run(again, resumed, range(3, 6))
    for p, q in zip(params, again, strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, resumed.state[q][key])


@formats
@every
def test_checkpoints_of_torch_and_for_torch(name, state_dtype):
    settings = {"lr": 0.01, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {})}
    settings |= LARGE_ENOUGH.get(name, {})
    params, optimizer = make(name, state_dtype, settings)
    others, _ = make(name, None, settings)
    reference = getattr(torch.optim, name)(others, **settings)
    run(others, reference, range(3))
    optimizer.load_state_dict(through_file(reference.state_dict()))
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            p.copy_(q)
    previous = [p.detach().clone() for p in params]
    run(params, optimizer, range(3, 5))
    large = numbers_of(optimizer.state[params[0]])
    stored = torch.uint8 if state_dtype == "8bit" else state_dtype
    assert large
    assert {value.dtype for value in large.values()} == {stored}
    saved = through_file(optimizer.decoded_state_dict())
    assert not any(v.dtype == torch.uint8 for state in saved["state"].values() for v in state.values())
    assert sorted(saved) == sorted(reference.state_dict())
    run(others, reference, range(3, 5))
    expected = [p.detach().clone() for p in others]
    for p, q, start in zip(params, expected, previous, strict=True):
        assert (p - q).abs().max() <= PRECISION[state_dtype] * (q - start).abs().max()
    # torch resumes from what the states stand for.
    reference.load_state_dict(saved)
    for q, p in zip(others, params, strict=True):
        for key, value in reference.state[q].items():
            assert torch.equal(value, optimizer.decoded(p)[key].to(value.dtype))
    run(others, reference, range(5, 6))


@every
def test_from_8_bits_to_the_usual_and_back(name):
    settings = {"stochastic_rounding": False}
    params, optimizer = make(name, "8bit", **settings)
    run(params, optimizer, range(3))
    again, usual = make(name, None)
    with torch.no_grad():
        for p, q in zip(params, again, strict=True):
            q.copy_(p)
    usual.load_state_dict(through_file(optimizer.state_dict()))
    expected = copy.deepcopy([optimizer.decoded(p) for p in params])
    for q, state in zip(again, expected, strict=True):
        for key, value in usual.decoded(q).items():
            assert torch.equal(value, state[key])
    for p in params:  # assigned between steps
        p.grad = torch.zeros_like(p)
    optimizer.state_dtype = None
    run(params, optimizer, range(3, 4))
    run(again, usual, range(3, 4))
    for p, q in zip(params, again, strict=True):
        assert torch.equal(p, q)
        for value in numbers_of(optimizer.state[p]).values():
            assert (value.dtype, value.shape) == (torch.float32, p.shape)


@every
def test_hooks_see_tensors(name):
    params, optimizer = make(name, "8bit")
    run(params, optimizer, range(2))
    saved, seen = optimizer.state_dict(), []
    _, other = make(name, "8bit")

    def note_before(hooked, state_dict):
        seen.extend(type(v) for states in state_dict["state"].values() for v in states.values())

    def after(hooked):
        seen.extend(type(v) for states in hooked.state.values() for v in states.values())

    other.register_load_state_dict_pre_hook(note_before)
    other.register_load_state_dict_post_hook(after)
    for _ in range(2):
        other.load_state_dict(saved)
    assert set(seen) == {torch.Tensor}
    assert len(other._optimizer_load_state_dict_pre_hooks) == 1


@every
def test_copies_and_pickles(name):
    params, optimizer = make(name, "8bit", stochastic_rounding=False)
    run(params, optimizer, range(2))
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (twin.state_dtype, twin.stochastic_rounding) == ("8bit", False)
        mine = twin.param_groups[0]["params"]
        run(mine, twin, range(2, 4))
        assert twin.state[mine[0]].keys() == optimizer.state[params[0]].keys()


def test_another_order_in_memory_has_states_of_32_bits():
    image = torch.randn(8, 16, 8, 8).to(memory_format=torch.channels_last)
    w = torch.nn.Parameter(image)
    optimizer = fast.RMSprop([w], state_dtype="8bit")
    run([w], optimizer, range(2))
    average = optimizer.state[w]["square_avg"]
    assert average.dtype == torch.float32
    assert average.stride() == w.stride()
    # A checkpoint of the plain order comes to stand where this one's elements are.
    plain = torch.nn.Parameter(image.detach().contiguous())
    other = fast.RMSprop([plain], state_dtype="8bit")
    run([plain], other, range(2))
    expected = other.decoded(plain)["square_avg"].clone()
    optimizer.load_state_dict(other.state_dict())
    w.grad = torch.zeros_like(w)
    optimizer.param_groups[0]["alpha"] = 0.5
    optimizer.step()
    assert torch.equal(optimizer.state[w]["square_avg"], expected * 0.5)


def test_random_bits_differ_from_step_to_step():
    """Steps of a tenth of the spacing: all elements move a tenth of the time, not some at each step."""
    w = torch.nn.Parameter(torch.full((4096,), 1.0, dtype=torch.bfloat16))
    w.grad = torch.full_like(w, -1.0)
    optimizer = fast.SGD([w], lr=2**-7 / 10, momentum=0.0, stochastic_rounding=True)
    for _ in range(100):
        optimizer.step()
    moved = (w.detach().float() - 1.0) / 2**-7
    assert moved.mean().item() == pytest.approx(10, rel=0.1)
    assert moved.std() < 5  # 3 for independent bits, 30 for the same at each step


@pytest.mark.parametrize(
    ("name", "dtype", "state_dtype", "error", "words"),
    [
        ("Adam", torch.float32, torch.int8, TypeError, r"state_dtype must be .*'8bit', not torch.int8"),
        ("Adam", torch.float32, "4bit", TypeError, "state_dtype must be .*'8bit', not '4bit'"),
        ("Adam", torch.float64, "8bit", TypeError, "state_dtype must be float64 for .*float64"),
        ("Adam", torch.float64, torch.float32, TypeError, "state_dtype must be float64 for"),
        ("Adam", torch.float32, torch.float64, TypeError, "state_dtype must be float16, .* or float32"),
        ("SGD", torch.float32, {"momentum_buffer": "8bit"}, ValueError, "unknown names .*momentum"),
        ("Adam", torch.float32, {"exp_avg": 8}, TypeError, r"state_dtype\['exp_avg'\] must be"),
        (
            "Adam",
            torch.complex64,
            "8bit",
            TypeError,
            r"None for complex .*\['params'\]\[0\] is",
        ),
    ],
)
def test_what_is_refused(name, dtype, state_dtype, error, words):
    w = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    with pytest.raises(error, match=words):
        getattr(fast, name)([w], state_dtype=state_dtype)


def test_sparse_gradients_are_refused():
    embedding = torch.nn.Embedding(20, 4, sparse=True)
    optimizer = fast.Adagrad(embedding.parameters(), state_dtype=torch.bfloat16)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="state_dtype needs dense gradients"):
        optimizer.step()


def test_a_group_that_cannot_have_the_format_is_not_added():
    _, optimizer = make("Adam", "8bit")
    with pytest.raises(TypeError, match="float64"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3).double())]})
    assert len(optimizer.param_groups) == 1


def test_codes_of_another_size_are_refused():
    params, optimizer = make("Adam", "8bit")
    run(params, optimizer, range(1))
    previous = params[0].detach().clone()
    optimizer.state[params[0]]["exp_avg"] = torch.zeros((3, 260), dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"'exp_avg' must have the shape \({BLOCKS}, 260\)"):
        optimizer.step()
    assert torch.equal(params[0], previous)


def test_a_parameter_of_another_optimizer_has_nothing_to_decode():
    _, optimizer = make("Adam", "8bit")
    with pytest.raises(ValueError, match="param must be one of the optimizer's"):
        optimizer.decoded(torch.ones(3))


def test_unknown_arguments_are_refused():
    w = torch.nn.Parameter(torch.ones(3))
    for name in NAMES:
        with pytest.raises(TypeError, match="state_type"):
            getattr(fast, name)([w], state_type="8bit")

    class Mine(fast.Adam):
        def __init__(self, params, **settings):
            super().__init__(params, **settings)

    for kind in Mine, fast.Lion:
        with refusal(TypeError, [kind.__name__, "clip_nrm", "did you mean clip_norm"]):
            kind([w], clip_nrm=1.0)
    with refusal(TypeError, ["weight_dcay", "did you mean weight_decay", "betas"]):
        Mine([w], weight_dcay=0.1)


def test_complex_parameters_are_as_ever():
    Pair("Adam", dtype=torch.complex64).step()


@registered()
def test_a_registered_format():
    w = np.linspace(-1, 1, 50, dtype=np.float32)
    g = w[::-1] ** 3
    param = torch.nn.Parameter(torch.tensor(w))
    opt = fast.RMSprop([param], lr=0.01, state_dtype=torch.float8_e5m2)
    param.grad = torch.tensor(g)
    opt.step()
    settings = {"lr": 0.01, "beta": 0.99, "eps_inside_sqrt": False, "state_dtype": "float8_e5m2"}
    same = fastopt.RMSProp(w, **settings)
    same.step(g)
    stored = opt.state[param]["square_avg"]
    assert stored.dtype == torch.float8_e5m2
    assert stored.view(torch.uint8).numpy().tobytes() == same.state["square_avg"].tobytes()
    np.testing.assert_array_equal(param.detach().numpy(), w)
