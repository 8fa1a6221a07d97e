"""Gradients of another dtype than their parameter, which `Tensor.grad_dtype` allows."""

import pytest

from tests.interop.torch_pairs import fast, torch

pytestmark = pytest.mark.skipif(
    not hasattr(torch.Tensor, "grad_dtype"), reason="PyTorch has it from 2.10 on"
)
HALVES = torch.bfloat16, torch.float16


def made(home, dtype, grad_dtype, turned):
    start = torch.linspace(1.0, 2.0, 6).reshape(2, 3).to(dtype)
    param = torch.nn.Parameter(start.t() if turned else start)
    param.grad_dtype = grad_dtype
    return param, home.SGD([param], lr=0.1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize(
    ("dtype", "grad_dtype"),
    [
        *((half, torch.float32) for half in HALVES),
        *((torch.float32, half) for half in HALVES),
        (torch.bfloat16, torch.float16),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.complex64, torch.complex128),
    ],
)
def test_steps_are_torchs(dtype, grad_dtype, turned, history):
    pairs = [made(home, dtype, grad_dtype, turned) for home in (torch.optim, fast)]
    for number in range(3):
        for param, optimizer in pairs:
            grad = (param.detach() * (1.1 + number)).to(grad_dtype)
            param.grad = grad.requires_grad_() * 1 if history else grad
            optimizer.step()
    (expected, _), (actual, _) = pairs
    torch.testing.assert_close(actual, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_gradients_of_other_dtypes_keep_their_digits():
    """Beside one that becomes no array too."""
    param, other = (
        torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)),
        torch.nn.Parameter(torch.zeros(2)),
    )
    optimizer = fast.SGD([param, other], lr=1.0, master_bits=32)
    param.grad_dtype = torch.float32
    param.grad = torch.full((2,), 1.0 + 2.0**-20)
    other.grad = torch.ones(2, requires_grad=True) * 1
    optimizer.step()
    model = torch.nn.ParameterList([param, other])
    (wide, _) = optimizer.master_state_dict(model).values()
    assert wide.tolist() == [-1.0 - 2.0**-20] * 2
