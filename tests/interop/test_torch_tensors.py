"""Layouts, dtypes and kinds of tensors: right, or an error before anything is written."""

import gc

import numpy as np
import pytest

import fastopt
from fastopt.interop.torch.parameters import SCALARS
from tests.interop.torch_pairs import (
    NAMES,
    TOLERANCE,
    Pair,
    add_group,
    every,
    fast,
    planner_of,
    taken,
    torch,
)


def laid_out():
    """Numbers of 1 to 2, from which no step comes near to zero."""
    torch.manual_seed(3)
    image = 1 + torch.rand(4, 3, 5, 7)
    return [
        image.to(memory_format=torch.channels_last),
        image[0, 0].t(),  # transposed
        image.permute(2, 0, 3, 1),
        (1 + torch.rand(6, 10))[:, ::2],  # every other column
        (1 + torch.rand(20))[::2],  # every other element
        (1 + torch.rand(10))[3:7],  # a part
    ]


def same_layout(tensor):
    """A parameter with the same numbers and the same gaps in memory."""
    base = tensor._base if tensor._base is not None else tensor
    copy = base.clone().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    param = torch.nn.Parameter(copy)
    assert param.stride() == tensor.stride()
    return param


@every
def test_layouts(name):
    settings = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    pair = Pair(name, settings, params=[torch.ones(3)])
    for which, optimizer in zip(pair.params, pair.both, strict=True):
        params = list(map(same_layout, laid_out()))
        pair.params[which] += params
        add_group(optimizer, {"params": params, "lr": 0.01})
    for _ in range(3):
        pair.step()
        pair.assert_same()
    # As autograd gives gradients: laid out like the parameter.
    for optimizer, (_, *params) in zip(pair.both, pair.params.values(), strict=True):
        optimizer.zero_grad()
        sum((param**3).sum() for param in params).backward()
        optimizer.step()
    pair.assert_same()


def test_memory_in_the_gaps_is_not_written():
    whole = torch.arange(12.0).reshape(3, 4)
    expected = whole.clone()
    w = torch.nn.Parameter(whole[:, ::2])
    w.grad = torch.ones(3, 2)
    fast.SGD([w], lr=1.0).step()
    expected[:, ::2] -= 1.0
    assert torch.equal(whole, expected)


@every
def test_gradients_of_other_layouts(name):
    pair = Pair(name, shapes=((6, 6), (4,)))
    pair.step()
    for make in (
        lambda g: g.t(),
        lambda g: g[:1].expand(6, 6),
        lambda g: torch.complex(g, -g).conj().imag,  # the sign is yet to be applied
    ):
        grad = torch.rand(6, 6) + 1
        for optimizer, params in zip(pair.both, pair.params.values(), strict=True):
            params[0].grad = make(grad.clone())
            params[1].grad = torch.ones(4)
            optimizer.step()
        pair.assert_same()


# torch's AdamW decays the parameter first, and with it such a gradient.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "AdamW"])
def test_gradients_that_share_memory_with_what_is_stepped(name):
    pair = Pair(name, shapes=((33,), (33,)))
    pair.step()
    for optimizer, params in zip(pair.both, pair.params.values(), strict=True):
        params[0].grad = params[0].detach()
        params[1].grad = torch.ones(33)
        optimizer.step()
        shared = torch.ones(33)
        params[0].grad = params[1].grad = shared
        optimizer.step()
    pair.assert_same()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@every
def test_complex_parameters(name, dtype):
    settings = taken(name, {"weight_decay": 0.1})
    if name == "Adagrad":
        settings["initial_accumulator_value"] = 0.1
    if name in ("Adam", "AdamW"):
        settings["amsgrad"] = True
    if name in ("SGD", "RMSprop"):
        settings["momentum"] = 0.9
    pair = Pair(name, settings, dtype=dtype)
    for without in ((), (0,), (), ()):
        pair.step(without)
        pair.assert_same()
    grad = torch.full((7,), 1 + 2j, dtype=dtype).conj()
    assert grad.is_conj()
    pair.params["torch"][1].grad = grad.resolve_conj()  # torch's Adam cannot take it as it is
    pair.params["fastopt"][1].grad = grad
    for optimizer in pair.both:
        optimizer.step()
    pair.assert_same()


HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("half", list(HALF))
@every
def test_parameters_of_16_bits(name, half):
    """Each step is torch's in float32, from the 16-bit numbers, rounded once."""
    if half == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    dtype, random = HALF[half], torch.Generator().manual_seed(1)
    settings = taken(name, {"lr": 0.125, "weight_decay": 0.1})
    if name in ("SGD", "RMSprop"):
        settings["momentum"] = 0.9
    start = [torch.randn(shape, generator=random) for shape in ((3, 5), (), (65,))]
    start.append(torch.randn(4, 3, 2, 2, generator=random).to(memory_format=torch.channels_last))
    params = [torch.nn.Parameter(p.to(dtype)) for p in start]
    optimizer = getattr(fast, name)(params, **settings)
    for step in range(5):
        wide = [torch.nn.Parameter(p.detach().float()) for p in params]
        reference = getattr(torch.optim, name)(wide, **settings)
        for p, q in zip(params, wide, strict=True):
            if step or name == "Adagrad":
                state = optimizer.state[p].items()
                reference.state[q] = {k: v.float().clone() for k, v in state}
            p.grad = (1 + torch.rand(p.shape, generator=random)).to(dtype)
            if p.dim() == 4:
                p.grad = p.grad.to(memory_format=torch.channels_last)
            q.grad = p.grad.float()
        optimizer.step()
        reference.step()
        rounding = {"rtol": torch.finfo(dtype).eps, "atol": torch.finfo(dtype).tiny}
        for p, q in zip(params, wide, strict=True):
            torch.testing.assert_close(p, q.to(dtype), **rounding)
            assert optimizer.state[p].keys() == reference.state[q].keys()
            for key, value in reference.state[q].items():
                expected = value if key in SCALARS else value.to(dtype)
                torch.testing.assert_close(optimizer.state[p][key], expected, **rounding)
                assert optimizer.state[p][key].stride() == expected.stride()


@pytest.mark.parametrize("half", list(HALF))
def test_gradients_of_16_bits_pass_the_gate(half, monkeypatch):
    if half == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    w = torch.nn.Parameter(torch.ones(8, dtype=HALF[half]))
    optimizer = fast.RMSprop([w])
    w.grad = torch.ones_like(w)
    optimizer.step()
    closely = []
    ((launch, _),) = planner_of(optimizer).plan.launches
    steps = launch.stepper
    monkeypatch.setattr(steps.gradients, "check", closely.append)
    w.grad = torch.ones_like(w)
    if steps.compiled:
        optimizer.step()
    assert not closely


def test_a_group_of_several_dtypes():
    params = [torch.ones(5), torch.ones(4, dtype=torch.float64), torch.ones(3, dtype=torch.complex64)]
    params.append(torch.ones(3, dtype=torch.float16))
    w = [torch.nn.Parameter(p.clone()) for p in params]
    v = [torch.nn.Parameter(p.clone()) for p in params]
    for param, kind in ((w, fast.Adam), (v, torch.optim.Adam)):
        optimizer = kind(param, lr=0.1)
        for _ in range(3):
            for p in param:
                p.grad = torch.full_like(p, 2.0)
            optimizer.step()
    for p, q in zip(w[:3], v[:3], strict=True):
        torch.testing.assert_close(p, q, **TOLERANCE[torch.float32])
    torch.testing.assert_close(w[3], w[0][:3].half())


def test_one_launch_steps_the_memory_of_the_tensors(monkeypatch):
    pair = Pair("RMSprop", shapes=((64,),) * 50)
    pair.step()
    ((launch, _),) = planner_of(pair.fast).plan.launches
    places = [p.data_ptr() for p in pair.params["fastopt"]]
    assert [leaf.__array_interface__["data"][0] for leaf in launch.stepper.parameters.leaves] == places
    calls = []
    stepper, run = launch.stepper, launch.stepper.step
    monkeypatch.setattr(stepper, "step", lambda *arguments: calls.append(1) or run(*arguments))
    pair.step()
    assert len(calls) == 1
    pair.assert_same()


def test_freezing_and_unfreezing():
    pair = Pair("NAdam", {"weight_decay": 0.1}, shapes=((5,), (6,), (7,)))
    for frozen in ((1,), (1,), (), (0, 2), (), (2,), ()):
        for params in pair.params.values():
            for i, p in enumerate(params):
                p.requires_grad_(i not in frozen)
        for optimizer, params in zip(pair.both, pair.params.values(), strict=True):
            optimizer.zero_grad()
            sum((p**2).sum() for p in params).backward()
            optimizer.step()
        pair.assert_same()


def test_autograd_notices_the_step():
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = fast.SGD([w], lr=0.1)
    loss = (w**2).sum()
    w.grad = torch.ones(3)
    version = w._version
    optimizer.step()
    assert w._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_with_a_history():
    pair = Pair("Adam", shapes=((4,),))
    for optimizer, params in zip(pair.both, pair.params.values(), strict=True):
        (params[0].grad,) = torch.autograd.grad((params[0] ** 3).sum(), params, create_graph=True)
        assert params[0].grad.requires_grad
        optimizer.step()
    pair.assert_same()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # inside torch's Adagrad
@pytest.mark.parametrize(
    ("name", "settings", "sparse_steps"),
    [
        ("SGD", {"lr": 0.1}, 5),
        ("SGD", {"lr": 0.1, "momentum": 0.9}, 8),  # torch cannot go on with dense ones
        ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}, 5),
    ],
)
def test_embeddings_with_sparse_gradients_and_then_with_dense_ones(name, settings, sparse_steps):
    losses = {}
    for home in (torch.optim, fast):
        torch.manual_seed(1)
        embedding = torch.nn.Embedding(20, 4, sparse=True)
        layer = torch.nn.Linear(4, 2)
        params = [*embedding.parameters(), *layer.parameters()]
        optimizer = getattr(home, name)(params, **settings)
        seen = losses[home] = []
        for step in range(8):
            embedding.sparse = step < sparse_steps
            optimizer.zero_grad()
            rows = torch.tensor([step, 3, 3, 19 - step])
            loss = (layer(embedding(rows)) ** 2).mean()
            loss.backward()
            assert embedding.weight.grad.is_sparse == (step < sparse_steps)
            optimizer.step()
            seen.append(loss.item())
    np.testing.assert_allclose(losses[fast], losses[torch.optim], rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("SGD", "Adagrad")])
def test_sparse_gradients_that_torch_refuses_too(name):
    embedding = torch.nn.Embedding(20, 4, sparse=True)
    previous = embedding.weight.detach().clone()
    optimizer = getattr(fast, name)(embedding.parameters())
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(previous, embedding.weight)


def test_empty_parameters_and_no_gradients_at_all():
    w = torch.nn.Parameter(torch.zeros(0, 3))
    optimizer = fast.Adam([w])
    optimizer.step()
    assert not optimizer.state
    w.grad = torch.zeros(0, 3)
    optimizer.step()
    assert optimizer.state[w]["step"] == 1


def test_threads_are_as_many_as_torch_may_use(monkeypatch):
    seen = []
    w = torch.nn.Parameter(torch.zeros(8))
    optimizer = fast.SGD([w])
    w.grad = torch.ones(8)
    optimizer.step()
    plan = planner_of(optimizer).plan
    monkeypatch.setattr(plan, "step", lambda *a: seen.append(fastopt.get_num_threads()))
    original = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        optimizer.step()
        torch.set_num_threads(original)
    finally:
        torch.set_num_threads(original)
    assert seen == [1]


def test_a_plan_does_not_keep_what_was_replaced():
    w = torch.nn.Parameter(torch.zeros(8))
    optimizer = fast.Adam([w])
    for _ in range(2):
        w.grad = torch.ones(8)
        optimizer.step()
        old, planner_of(optimizer).plan = planner_of(optimizer).plan, None
    del old
    gc.collect()
    optimizer.step()
    assert optimizer.state[w]["step"] == 3


def refused(params, error, words, kind=None, **settings):
    optimizer = (kind or fast.Adam)(params, **settings)
    for p in params:
        p.grad = torch.zeros_like(p)
    previous = [p.detach().clone() for p in params if p.device.type == "cpu"]
    with pytest.raises(error, match=words) as caught:
        optimizer.step()
    assert caught.type is error
    assert not any(optimizer.state.values())
    for p, q in zip(params, previous, strict=False):
        assert p.tolist() == q.tolist()


def test_other_devices():
    refused(
        [torch.nn.Parameter(torch.zeros(3, device="meta"))],
        TypeError,
        r"param_groups\[0\]\['params'\]\[0\] is on meta: .* CPU and on CUDA devices; torch.optim has",
    )


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_other_dtypes():
    w = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex32))
    refused(
        [torch.nn.Parameter(torch.zeros(2)), w],
        TypeError,
        r"\[1\] must be of dtype .*not torch.complex32",
    )


@every
def test_no_elements_and_no_strides(name):
    """As torch.from_numpy gives an array of shape (0, 3)."""
    pair = Pair(name, params=[torch.zeros(0).as_strided((0, 3), (0, 0)), torch.ones(2)])
    for _ in range(2):
        pair.step()
        pair.assert_same()


def test_expanded_parameters():
    w = torch.nn.Parameter(torch.zeros(1).expand(4))
    refused([w], ValueError, "must have memory for each element, but it was expanded")


def test_overlapping_parameters():
    whole = torch.zeros(10)
    params = [torch.nn.Parameter(whole[:6]), torch.nn.Parameter(whole[4:])]
    optimizer = fast.SGD(params, lr=1.0)
    for p in params:
        p.grad = torch.ones(6)
    with pytest.raises(ValueError, match="must not share memory"):
        optimizer.step()
    assert torch.equal(whole, torch.zeros(10))


def test_fused_with_complex_parameters():
    w = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    refused([w], RuntimeError, "fused=True needs floating-point parameters", fused=True)


def test_capturable_on_the_cpu():
    w = torch.nn.Parameter(torch.zeros(3))
    refused([w], AssertionError, "capturable=True needs parameters on devices", capturable=True)
