"""What optimizers tell of their last step: the norm of the gradients, and statistics."""

import pytest

from tests.interop.torch_pairs import fast, torch


def test_a_loaded_state_has_no_statistics_yet():
    """Those of the steps before are not of what was loaded; a load that fails takes none away."""
    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = fast.Adam([w], stats=("grad_norm",))
    w.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match="param_groups"):
        optimizer.load_state_dict({**saved, "param_groups": [{"params": [0]}]})
    assert optimizer.stats["grad_norm"] == 5.0
    optimizer.load_state_dict(saved)
    assert optimizer.stats is optimizer.read_stats() is None
    w.grad = torch.tensor([6.0, 8.0])
    optimizer.step()
    assert (optimizer.stats.step, optimizer.stats["grad_norm"]) == (2, 10.0)


def test_the_norm_of_no_gradients_is_zero():
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = fast.SGD(params, clip_norm=1.0)
    optimizer.step()
    assert optimizer.last == (0.0, False)
    params[0].grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert optimizer.last == (5.0, False)
    params[0].grad = None
    optimizer.step()
    assert optimizer.last == (0.0, False)
    params[1].grad = torch.tensor([3.0, 0.0])
    optimizer.step()
    assert optimizer.last == (3.0, False)
    plain = fast.SGD(params)
    plain.step()
    assert plain.last is None
