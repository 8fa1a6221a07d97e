"""Formats of states on a CUDA device, and checkpoints with them."""

import copy
import pickle

import pytest

from tests.interop.cuda_pairs import CudaPair, Twins, every, load, needs_torch_on_cuda, usual_settings
from tests.interop.torch_pairs import NAMES, fast, torch

from tests.interop.cuda_tensors import moves_to_cuda, to_cpu, to_cuda  # isort: skip

__all__ = ["usual_settings"]  # a fixture

pytestmark = needs_torch_on_cuda


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("Adam", torch.bfloat16), ("RMSprop", {"square_avg": torch.float16}), ("Adagrad", torch.bfloat16)],
)
def test_formats_of_states(name, dtype):
    pair = Twins(name, {"lr": 0.1, "state_dtype": dtype})
    for without in ((), (1,), ()):
        pair.step(without)
        pair.assert_same()


EIGHT = (65, 64), (7,)  # the first has blocks, the last of them not full, the second none


@pytest.mark.parametrize(
    ("name", "rounding"),  # blocks of codes are the same for all states: see `test_cuda_blocks`
    [*((name, None) for name in NAMES[::2]), ("RMSprop", False), ("Adam", True)],
)
def test_states_of_8_bits(name, rounding):
    momentum = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    settings = {"lr": 0.1, "weight_decay": 0.05, "average_decay": 0.9, **momentum}
    extra = {"state_dtype": "8bit", "stochastic_rounding": rounding}
    pair = Twins(name, {**settings, **extra}, shapes=EIGHT)
    for without in ((), (1,), ()):
        pair.step(without)
        pair.assert_same()
    q = pair.params["fastopt"][0]
    packed = {n: v for n, v in pair.fast.state[q].items() if v.dtype == torch.uint8}
    assert packed
    for state in packed.values():
        assert (state.device, state.shape) == (q.device, (17, 260))
    actual, expected = pair.fast.decoded(q), pair.torch.decoded(pair.params["torch"][0])
    for key in packed:
        assert (actual[key].device, actual[key].dtype) == (q.device, torch.float32)
        assert torch.equal(to_cpu(actual[key]), expected[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_states_of_8_bits_beside_16(dtype):
    pair = Twins(
        "Adam", {"lr": 0.1, "state_dtype": "8bit", "clip_norm": 1.0}, dtype=dtype, shapes=EIGHT
    )
    for _ in range(2):
        pair.step()
        pair.assert_same()


def test_states_of_8_bits_need_the_plain_order():
    image = torch.ones(8, 16, 8, 8).to(memory_format=torch.channels_last)
    w = torch.nn.Parameter(to_cuda(image))
    w.grad = to_cuda(image)
    optimizer = fast.RMSprop([w], state_dtype="8bit")
    optimizer.step()
    average = optimizer.state[w]["square_avg"]
    assert (average.dtype, average.stride()) == (torch.float32, w.stride())


@pytest.mark.parametrize("name", ["RMSprop", "NAdam"])
def test_checkpoints_of_8_bits(name, monkeypatch):
    """The CPU's go on here and the reverse, those of other formats too, and so do copies."""
    pair = Twins(name, {"lr": 0.1, "state_dtype": "8bit"}, shapes=EIGHT)
    usual = Twins(name, {"lr": 0.1}, shapes=EIGHT)
    for each in (pair, usual):
        each.step()
    load(pair, pair.fast.state_dict(), pair.torch.state_dict(), monkeypatch)
    pair.step()
    pair.assert_same()
    load(pair, usual.fast.state_dict(), usual.torch.state_dict(), monkeypatch)
    pair.step()
    pair.assert_same()
    load(usual, pair.fast.decoded_state_dict(), pair.torch.decoded_state_dict(), monkeypatch)
    usual.step()
    usual.assert_same()

    twins = copy.deepcopy(pair.fast), pickle.loads(pickle.dumps(pair.fast))
    pair.step()
    for twin in twins:
        params = twin.param_groups[0]["params"]
        for p, q in zip(params, pair.params["fastopt"], strict=True):
            p.grad = q.grad
        twin.step()
        for p, q in zip(params, pair.params["fastopt"], strict=True):
            assert torch.equal(to_cpu(p), to_cpu(q))
            for key, value in pair.fast.state[q].items():
                assert torch.equal(to_cpu(twin.state[p][key]), to_cpu(value))


@every
def test_checkpoints_both_ways(name, monkeypatch):
    """torch's on the CPU resumes here on a device, and the reverse."""
    pair = CudaPair(name, {"lr": 0.1})
    for _ in range(2):
        pair.step()
    ours, reference = pair.fast.state_dict(), copy.deepcopy(pair.torch.state_dict())
    states = {i: {k: to_cpu(v).clone() for k, v in s.items()} for i, s in ours["state"].items()}
    with moves_to_cuda(monkeypatch):
        pair.fast.load_state_dict(reference)
    pair.torch.load_state_dict({**ours, "state": states})
    for _ in range(2):
        pair.step()
        pair.assert_same()
