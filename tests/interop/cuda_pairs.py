"""torch's optimizers on the CPU beside fastopt's on a CUDA device."""

import copy

import pytest

from tests.device import EMULATED, needs_driver
from tests.interop.torch_pairs import NAMES, TOLERANCE, Pair, fast, torch

from tests.interop.cuda_tensors import current_stream, moves_to_cuda, to_cpu, to_cuda  # isort: skip

needs_torch_on_cuda = [
    needs_driver,
    pytest.mark.skipif(
        not (EMULATED or torch.cuda.is_available()),
        reason="torch is without CUDA, and there is no emulated GPU",
    ),
]
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def usual_settings(monkeypatch):
    """torch's default dtype and a stream that it works on, for all tests of the importing file."""
    original = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with current_stream(monkeypatch):
        yield
    torch.set_default_dtype(original)


class CudaPair(Pair):
    """torch's optimizer on the CPU, and fastopt's on a device."""

    def make(self, which, name):
        if which == "fastopt":
            params = self.params[which]
            self.params[which] = [
                torch.nn.Parameter(self.place(i, p.detach())) for i, p in enumerate(params)
            ]
        return super().make(which, name)

    def place(self, i, tensor):
        return to_cuda(tensor)

    def assert_same(self, **tolerance):
        tolerance = tolerance or TOLERANCE[self.dtype.to_real()]
        for i, (p, q) in enumerate(zip(*self.params.values(), strict=True)):
            torch.testing.assert_close(
                to_cpu(q), p.detach(), msg=lambda m, i=i: f"parameter {i}: {m}", **tolerance
            )
            reference, ours = self.torch.state.get(p, {}), self.fast.state.get(q, {})
            assert ours.keys() == reference.keys()
            for name, value in reference.items():
                actual = ours[name]
                if (
                    value.dim() == p.dim()
                    and value.shape == p.shape
                    and name not in ("step", "mu_product", "eta", "mu")
                ):
                    assert actual.device == q.device
                    assert actual.stride() == value.stride()
                else:
                    assert actual.device.type == "cpu"
                torch.testing.assert_close(
                    to_cpu(actual),
                    value,
                    msg=lambda m, i=i, n=name: f"{n} of parameter {i}: {m}",
                    **tolerance,
                )


class Twins(CudaPair):
    """fastopt's optimizer over parameters on the CPU and on a device: the same bits."""

    def make(self, which, name):
        home, self.home = fast, which
        if which == "fastopt":
            return super().make(which, name)
        return getattr(home, name)(self.params[which], **copy.deepcopy(self.kwargs))

    def assert_same(self, **_):
        def same(actual, expected, what):
            if isinstance(expected, list):  # carried numbers
                assert actual == expected, what
                return
            actual, expected = to_cpu(actual), expected.detach()
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected), what

        for i, (p, q) in enumerate(zip(*self.params.values(), strict=True)):
            same(q, p, i)
            reference, ours = self.torch.state.get(p, {}), self.fast.state.get(q, {})
            assert ours.keys() == reference.keys()
            for name, value in reference.items():
                same(ours[name], value, (name, i))


def load(pair, of_torch, of_fast, monkeypatch):
    """Checkpoints into both, as a script loads them: tensors on the CPU."""

    def on_cpu(saved):
        states = {
            i: {k: to_cpu(v).clone() if torch.is_tensor(v) else v for k, v in s.items()}
            for i, s in saved["state"].items()
        }
        return {**saved, "state": states}

    pair.torch.load_state_dict(on_cpu(of_torch))
    with moves_to_cuda(monkeypatch):
        pair.fast.load_state_dict(on_cpu(of_fast))
