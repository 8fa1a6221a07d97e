"""Parameters of 16 bits with corrections in torch: the steps of float32 parameters."""

import copy
import io
from pathlib import Path

import pytest
import torch

import fastopt.interop.torch as ours
from fastopt.codecs.corrections import BY_MASTER_BITS
from tests.test_readme import blocks

CLASSES = ("SGD", "RMSprop", "Adam", "AdamW", "NAdam", "Adagrad")


def model_of(dtype, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5), torch.nn.LayerNorm(5)
    )
    model[0].to(memory_format=torch.channels_last)
    model[0].to(dtype)
    model[2].to(dtype)  # the norm stays float32
    return model


def set_gradients(models, seed):
    """Gradients that all models have: those of 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    for params in zip(*(model.parameters() for model in models), strict=True):
        grad = torch.randn(params[0].shape, generator=generator).bfloat16()
        for param in params:
            param.grad = torch.empty_like(param).copy_(grad)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_of_float32(name, dtype):
    plain, split = model_of(torch.float32), model_of(dtype)
    how = {"lr": 0.01, "weight_decay": 0.1, "average_decay": 0.5, "clip_norm": 3.0}
    how |= {} if name == "Adagrad" else {"maximize": True}
    wide = getattr(ours, name)(plain.parameters(), **how)
    narrow = getattr(ours, name)(split.parameters(), master_bits=32, **how)
    narrow.load_master_state_dict(split, plain.state_dict())
    for step in range(4):
        set_gradients([plain, split], step)
        wide.step()
        narrow.step()
    expected, actual = plain.state_dict(), narrow.master_state_dict(split)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key].dtype == torch.float32
        assert torch.equal(actual[key], value), key
    for p, q in zip(plain.parameters(), split.parameters(), strict=True):
        states = dict(narrow.state[q])
        assert ("correction" in states) == (q.dtype == dtype)
        states.pop("correction", None)
        assert states.keys() == wide.state[p].keys()
        for key, state in states.items():
            assert torch.equal(state, wide.state[p][key]), key


@pytest.mark.parametrize("bits", [24, 32])
def test_checkpoints_copies_and_states_of_8_bits(bits):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(80, 70).bfloat16() for _ in range(2)]
    model = torch.nn.Sequential(*layers)
    optimizer = ours.AdamW(model.parameters(), master_bits=bits, state_dtype="8bit")
    start = {key: torch.randn_like(value.float()) for key, value in model.state_dict().items()}
    optimizer.load_master_state_dict(model, start)
    codec = BY_MASTER_BITS[bits]
    for key, value in optimizer.master_state_dict(model).items():
        half, rest = codec.divide(start[key].numpy(), _half())
        assert value.numpy().tobytes() == codec.join(half, rest).tobytes()
    set_gradients([model], 0)
    optimizer.step()
    assert optimizer.state[model[0].weight]["correction"].dtype == getattr(torch, codec.dtype.name)
    assert optimizer.state[model[0].weight]["exp_avg"].dtype == torch.uint8
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    twin = copy.deepcopy(model)
    other = ours.AdamW(twin.parameters(), master_bits=bits, state_dtype="8bit")
    twin.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    both = copy.deepcopy([model, optimizer])
    for each, stepped in ((model, optimizer), (twin, other), both):
        set_gradients([each], 1)
        stepped.step()
    expected = optimizer.master_state_dict(model)
    for each, stepped in ((twin, other), both):
        actual = stepped.master_state_dict(each)
        assert all(torch.equal(actual[key], value) for key, value in expected.items())
    torchs = torch.optim.AdamW(model.parameters())
    torchs.load_state_dict(optimizer.decoded_state_dict())
    assert all("correction" not in state for state in torchs.state.values())
    # What would lose a correction, or take it for another, is refused before it steps.
    for wrong in (None, 56 - bits):
        loose = ours.AdamW(copy.deepcopy(model).parameters(), master_bits=wrong, state_dtype="8bit")
        loose.load_state_dict(optimizer.state_dict())
        params = loose.param_groups[0]["params"]
        previous = [param.detach().clone() for param in params]
        for param in params:
            param.grad = torch.ones_like(param)
        with pytest.raises(ValueError, match="master_bits"):
            loose.step()
        assert all(map(torch.equal, params, previous))


def _half():
    from fastopt.codecs.floats import floats

    return floats("bfloat16").dtype


def test_the_page():
    page = Path(__file__).parents[2] / "docs" / "split-weights.md"
    (code,) = blocks(page, "py")
    exec(compile(code, str(page), "exec"), {"__name__": "reader"})


def test_steps_in_the_backward_pass():
    plain, split = model_of(torch.float32), model_of(torch.bfloat16)
    split.load_state_dict(plain.state_dict())
    twin = copy.deepcopy(split)
    stepped = ours.step_in_backward(split, ours.AdamW, lr=0.1, master_bits=24)
    other = ours.AdamW(twin.parameters(), lr=0.1, master_bits=24)
    for step in range(2):
        for model, optimizer in ((split, stepped), (twin, other)):
            x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step)).bfloat16()
            y = model[2](model[1](model[0](x))).float()
            model[3](y).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for p, q in zip(split.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
        if p.dtype == torch.bfloat16:
            assert torch.equal(stepped.state[p]["correction"], other.state[q]["correction"])


def test_refusals():
    params = [torch.nn.Parameter(torch.zeros(3))]
    with pytest.raises(ValueError, match="where no parameter is of 16 bits"):
        ours.SGD(params, master_bits=24)
    half = [torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))]
    with pytest.raises(ValueError, match="must be 24, 32 or None, got 16"):
        ours.SGD(half, master_bits=16)
    table = torch.nn.Embedding(5, 2, sparse=True).bfloat16()
    optimizer = ours.SGD(table.parameters(), lr=0.1, master_bits=24)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="master_bits needs dense gradients"):
        optimizer.step()
