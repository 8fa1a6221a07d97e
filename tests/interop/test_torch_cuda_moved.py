"""Tensors on a device as parameters of the core: those that moved are noticed in machine code."""

from functools import partial

import numpy as np
import pytest

import fastopt
from tests.device import EMULATED, needs_driver
from tests.interop.torch_pairs import torch
from tests.refusals import refusal

from fastopt.steps import device_headers  # isort: skip
from tests.interop.cuda_tensors import current_stream, to_cpu, to_cuda  # isort: skip
from tests.test_cuda_moved import steps_begun  # isort: skip

pytestmark = [
    needs_driver,
    pytest.mark.skipif(not (EMULATED or torch.cuda.is_available()), reason="torch is without CUDA"),
]

SIZES = 50, 0, 7


@pytest.fixture(autouse=True)
def _stream(monkeypatch):
    with current_stream(monkeypatch):
        yield


def _data(tensor, other):
    tensor.data = other


def _set(tensor, other):
    with torch.no_grad():
        tensor.set_(other)


def _half(tensor, other):
    tensor.data = tensor.data[: len(tensor) // 2]


@pytest.fixture(params=["compiled", "python"])
def compiled(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(device_headers, "interface", lambda kind: None)
    elif not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has no interface")
    return request.param == "compiled"


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=str)
@pytest.mark.parametrize("how", [_data, _set, _half])
@pytest.mark.parametrize("which", ["parameter", "state"])
def test_what_moved_is_refused(compiled, options, how, which):
    params = [to_cuda(torch.ones(n)) for n in SIZES]
    state = [to_cuda(torch.zeros(n)) for n in SIZES]
    opt = fastopt.RMSProp(params, lr=0.1, state={"square_avg": state}, **options)
    grads = [to_cuda(torch.ones(n)) for n in SIZES]
    for _ in range(3):
        opt.step(grads)
    moved = (params if which == "parameter" else state)[2]
    previous, first = to_cpu(params[0]).clone(), moved.detach()
    how(moved, to_cuda(torch.full((7,), 5.0)))
    name = "params[2]" if which == "parameter" else "state['square_avg'][2]"
    what = "must keep the shape (7,)" if how is _half else "must keep its memory"
    for action in (
        partial(opt.step, grads),
        partial(opt.step, [to_cuda(torch.ones(n)) for n in SIZES]),
    ):
        with refusal(ValueError, [name, what]):
            action()
    assert opt.step_count == 3
    assert torch.equal(to_cpu(params[0]), previous)
    _data(moved, first)
    opt.step(grads)
    assert opt.step_count == 4


def test_parameters_that_did_not_move_are_stepped_in_one_call(compiled, monkeypatch):
    twins = [np.ones(n, np.float32) for n in SIZES]
    params = [torch.nn.Parameter(to_cuda(torch.ones(n))) for n in SIZES]
    opt, here = (fastopt.RMSProp(arrays, lr=0.1) for arrays in (params, twins))
    begun = steps_begun(monkeypatch, opt)
    if compiled:
        monkeypatch.setattr(device_headers.DeviceHeader, "is_same", lambda _: pytest.fail("in Python"))
    for number in (1.0, 3.0, -2.0):
        opt.step([to_cuda(torch.full((n,), number)) for n in SIZES])
        here.step([np.full(n, number, np.float32) for n in SIZES])
    assert len(begun) == 1
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(to_cpu(param), torch.from_numpy(twin))


def test_signs_that_are_yet_to_be_applied():
    """No interface tells of them: they would be the wrong ones."""
    params, negated = [to_cuda(torch.ones(1))], to_cuda(torch.full((1,), 1 - 1j)).conj().imag
    assert negated.is_neg()
    with refusal(ValueError, ["params[0]", "resolve_neg"]):
        fastopt.SGD([negated])
    opt = fastopt.SGD(params, lr=0.25)
    for _ in range(2):
        with refusal(ValueError, ["grads[0]", "resolve_neg"]):
            opt.step([negated])
        opt.step([negated.resolve_neg()])
    assert to_cpu(params[0]).item() == 0.5
