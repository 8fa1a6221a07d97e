"""What tests beside other libraries have in common."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _usual_state_of_torch():
    """Let torch make tensors of float32: its own test utilities change that when they are imported.

    A test that leaves gradients switched off fails, and not those behind it.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    original = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(original)
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        pytest.fail("gradients are switched off")
