"""What the pages say of other libraries."""

import numpy as np
import pytest

import fastopt

torch = pytest.importorskip("torch", reason="torch is not installed")
home = pytest.importorskip("fastopt.interop.torch")


def test_lazy_adam_with_tensorflows_epsilon_is_sparse_adam():
    """In float64; with torch's own epsilon, of its dense Adam, it is not."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((20, 3))
    param = torch.tensor(start.copy(), requires_grad=True)
    reference = torch.optim.SparseAdam([param], lr=0.1, eps=1e-3)
    tables = {dialect: start.copy() for dialect in ("tensorflow1", "torch")}
    ours = [
        fastopt.Adam.like(
            "tensorflow1", tables["tensorflow1"], learning_rate=0.1, epsilon=1e-3, sparse="lazy"
        ),
        fastopt.Adam.like("torch", tables["torch"], lr=0.1, eps=1e-3, sparse="lazy"),
    ]
    for _ in range(20):
        rows, values = rng.choice(20, 6, replace=False), rng.standard_normal((6, 3))
        param.grad = torch.sparse_coo_tensor(rows[None], values, start.shape, check_invariants=True)
        reference.step()
        for opt in ours:
            opt.step((rows, values))
    expected = param.detach().numpy()
    np.testing.assert_allclose(tables["tensorflow1"], expected, rtol=1e-12, atol=1e-12)
    assert abs(tables["torch"] - expected).max() > 1e-6


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.float32, 1e-4)])
def test_rounding_is_all_that_sets_losses_apart(dtype, limit):
    x = torch.linspace(-1, 1, 64, dtype=dtype)[:, None]

    def losses(optim):
        torch.manual_seed(0)
        layers = torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        model = torch.nn.Sequential(*layers).to(dtype)
        optimizer = optim.Adam(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=210)
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = (model(x) - torch.sin(3 * x)).square().mean()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        return np.array(losses)

    assert abs(losses(home) - losses(torch.optim)).max() < limit
