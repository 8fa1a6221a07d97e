"""Tensors checked in machine code: what is unusual is noticed, and steps are the same."""

import pytest

from fastopt.arrays.object_layout import identities
from fastopt.executors import exchange
from tests import subprocesses
from tests.interop.torch_pairs import SETTINGS, every, fast, planner_of, torch
from tests.subprocesses import needs_jit, script

from fastopt.interop.torch import snapshot  # isort: skip

pytestmark = needs_jit

SHAPES = ((5, 3), (), (1,), (0, 2), (17,), (1, 1))


def strided(tensor):
    """The same numbers in memory of another order or with gaps."""
    if tensor.dim() == 2:
        return tensor.t().contiguous().t()
    return torch.stack([tensor, tensor], -1)[..., 0]


def negative(tensor):
    """The same numbers, but their signs are yet to be applied."""
    return torch.complex(tensor, -tensor).conj().imag


KINDS = {
    "plain": torch.clone,
    "strided": strided,
    "negative": negative,
    "with history": lambda t: t.clone().requires_grad_() * 1.0,
    "a subclass": lambda t: torch.nn.Parameter(t.clone(), requires_grad=False),
}


def run(name, kinds):
    random = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]
    optimizer = getattr(fast, name)(params, **SETTINGS[name], lr=0.1)
    for step, kind in enumerate(kinds):
        for i, p in enumerate(params):
            grad = torch.randn(p.shape, generator=random)
            p.grad = None if (i + step) % 5 == 4 else KINDS[kind](grad)
            if p.grad is not None:
                assert torch.equal(p.grad.detach(), grad)
        optimizer.step()
    return params, optimizer


@every
def test_gradients_of_all_kinds(name, monkeypatch):
    kinds = ["plain", *(kind for each in KINDS for kind in ("plain", each)), *KINDS]
    params, optimizer = run(name, kinds)
    assert planner_of(optimizer).plan._snapshot is not None
    monkeypatch.setattr(snapshot, "interface", lambda kind: None)
    others, plainly = run(name, kinds)
    assert planner_of(plainly).plan._snapshot is None
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, plainly.state[q][key])


def test_most_gradients_become_no_arrays(monkeypatch):
    params, optimizer = run("Adam", ("plain",) * 2)
    reads = []
    for row in planner_of(optimizer).plan.rows:
        row.read = lambda tensor: reads.append(tensor) or tensor.numpy()
    optimizer.step()
    assert reads == []
    params[0].grad = strided(params[0].grad)
    optimizer.step()
    assert len(reads) == sum(p.grad is not None for p in params)


def changed(how, p, state):
    if how == "another place":
        p.data = p.data.clone()
    elif how == "another shape in the same place":
        p.grad = None
        p.data = p.data.view(3, 5)
    elif how == "another state in the same place":
        state["exp_avg"] = state["exp_avg"].view_as(state["exp_avg"])
    elif how == "a state that is gone":
        del state["exp_avg_sq"]
    elif how == "states that changed places":
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg_sq"].abs(), state["exp_avg"].abs()


@pytest.mark.parametrize(
    "how",
    [
        "another place",
        "another shape in the same place",
        "another state in the same place",
        "a state that is gone",
        "states that changed places",
    ],
)
@pytest.mark.parametrize("scans", [True, False])
def test_changes_are_noticed(how, scans, monkeypatch):
    if not scans:
        monkeypatch.setattr(snapshot, "interface", lambda kind: None)
    both = []
    for home in (torch.optim, fast):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 15).reshape(5, 3))
        optimizer = home.Adam([p], lr=0.1)
        for _ in range(2):
            p.grad = torch.ones(5, 3)
            optimizer.step()
        plan = planner_of(optimizer).plan if home is fast else None
        changed(how, p, optimizer.state[p])
        if how == "another shape in the same place":
            optimizer.state.clear()
        p.grad = torch.full_like(p, 2.0)
        if how == "a state that is gone":
            optimizer.state[p]["exp_avg_sq"] = torch.zeros(5, 3)
        optimizer.step()
        both.append((p, optimizer.state[p]))
        assert plan is None or planner_of(optimizer).plan is not plan
    (p, state), (q, other) = both
    torch.testing.assert_close(p, q)
    for key, value in state.items():
        torch.testing.assert_close(value, other[key])


def test_a_sign_that_is_yet_to_be_applied_in_the_strides_of_the_parameter():
    w = torch.nn.Parameter(torch.ones(6, 6)[:1, ::2][:, :1])
    optimizer = fast.SGD([w], lr=0.5)
    w.grad = torch.ones(6, 6)[:1, ::2][:, :1]
    optimizer.step()
    z = torch.full((6, 3), 1 - 1j)
    w.grad = z.conj().imag[:1, :1]
    assert w.grad.is_neg()
    assert w.grad.stride() == w.stride()
    optimizer.step()
    assert w.item() == 0.0


def test_a_sign_that_is_yet_to_be_applied_in_a_parameter():
    real, complex_ = torch._neg_view(torch.ones(3)), torch.ones(3, dtype=torch.complex64).conj()
    for tensor in real, complex_:
        w = torch.nn.Parameter(tensor)
        w.grad = torch.ones_like(w)
        with pytest.raises(ValueError, match="must have its signs in memory"):
            fast.Adam([w]).step()


def test_a_gradient_that_is_the_parameter_itself():
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = fast.SGD([w], lr=0.5)
    w.grad = torch.ones(3)
    optimizer.step()
    w.grad = w.detach()
    optimizer.step()
    assert w.tolist() == [0.25, -1.25, 1.25]


def test_numbers_of_another_dtype_are_not_taken_as_they_are():
    w = torch.nn.Parameter(torch.arange(6.0))
    optimizer = fast.Adam([w])
    w.grad = torch.arange(6.0)
    optimizer.step()
    known = planner_of(optimizer).plan._snapshot
    assert known.is_same()
    assert known.is_noted
    others = [w.double(), w.long(), w.half(), w.detach().to_sparse(), torch.empty(6, device="meta")]
    interface = exchange.interface(torch.Tensor)
    for tensor in others[:3]:
        form = exchange.Expected([tensor], interface).table[0, exchange.FORM]
        known._grads.table[0, exchange.FORM], original = form, known._grads.table[0, exchange.FORM]
        assert known.is_same()
        assert not known.is_noted
        known._grads.table[0, exchange.FORM] = original
    for tensor in others[3:]:
        with pytest.raises((RuntimeError, BufferError)):
            exchange.Expected([tensor], interface)


def test_parameters_in_a_tuple_are_known_by_themselves():
    """It is laid out as no list is: its first item stands where a list has the address of its items."""
    params = [torch.zeros(1, requires_grad=True) for _ in range(3)]
    assert identities(tuple(params)) == identities(params)
    optimizer = fast.SGD(params[:1], lr=1.0)
    for param in params:
        param.grad = torch.ones(1)
        optimizer.param_groups[0]["params"] = (param,)
        optimizer.step()
    assert [param.item() for param in params] == [-1.0] * 3


def test_what_other_threads_describe_meanwhile_is_not_stepped(monkeypatch):
    """They may run while torch is asked for a sign that is yet to be applied: it gives up the lock."""

    def made(gradient):
        param = torch.zeros((), requires_grad=True)  # any of its strides is even
        param.grad = torch.tensor(gradient)
        return param, fast.SGD([param], lr=1.0)

    (other, others), (param, optimizer) = made(8.0), made(1.0)
    others.step()

    def is_negated(grad):
        others.step()
        return grad.is_neg()

    monkeypatch.setattr(snapshot, "_IS_NEGATED", is_negated)
    for _ in range(3):
        optimizer.step()
    assert param.item() == -3.0
    assert other.item() < -16.0


@needs_jit
def test_numba_is_imported_to_compile_only(tmp_path):
    """As in memory: see test_first_step."""
    code = script("""
    import sys
    import torch
    from fastopt.interop.torch import Adam

    assert "numba" not in sys.modules
    model = torch.nn.Linear(3, 1)
    opt = Adam(model.parameters())
    for _ in range(2):
        model(torch.ones(3)).backward()
        opt.step()
    print("numba" in sys.modules)
    """)
    assert [subprocesses.run(code, tmp_path) for _ in range(2)] == ["True", "False"]
