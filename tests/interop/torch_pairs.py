"""One of torch's optimizers and fastopt's of the same name, side by side on copies of parameters."""

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.testing._internal.common_optimizers import optim_db  # noqa: E402

import fastopt.interop.torch as fast  # noqa: E402

NAMES = [name for name in fast.__all__ if hasattr(torch.optim, name)]
INFOS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in NAMES}

every = pytest.mark.parametrize("name", NAMES)

# Of each optimizer, with everything that it keeps.
SETTINGS = {
    "SGD": {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    "RMSprop": {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
    "Adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"amsgrad": True},
    "NAdam": {"weight_decay": 0.1, "momentum_decay": 0.01},
    "Adadelta": {"rho": 0.8, "eps": 1e-2, "weight_decay": 0.1},
    "Adamax": {"weight_decay": 0.1},
    "RAdam": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "Rprop": {"etas": (0.4, 1.5), "step_sizes": (1e-3, 1.0)},
    "ASGD": {"lambd": 0.1, "t0": 2, "weight_decay": 0.1},
}


def planner_of(optimizer):
    """What finds the plan of a step: tests ask it if a step found what it knew."""
    return optimizer._planner  # torch's classes leave other names to users


def taken(name, kwargs):
    """These arguments, as far as an optimizer has them: Rprop has no weight decay."""
    return {k: v for k, v in kwargs.items() if (name, k) != ("Rprop", "weight_decay")}


# torch multiplies and adds in another order, and averages as m + (1 - b) * (g - m).
TOLERANCE = {
    torch.float32: {"rtol": 4e-6, "atol": 1e-7},
    torch.float64: {"rtol": 1e-12, "atol": 1e-14},
}

SHAPES = ((3, 5), (7,), (), (0,), (2, 1, 3))


def add_group(optimizer, group):
    """Add a param group; Adagrad of torch before 2.13 makes states at construction only, and then
    ends in a KeyError.
    """
    optimizer.add_param_group(group)
    if type(optimizer) is torch.optim.Adagrad:
        for param in group["params"]:
            optimizer.state[param] = torch.optim.Adagrad([param], **optimizer.defaults).state[param]


class Pair:
    """Both optimizers; what is done is done to both."""

    def __init__(self, name, kwargs=None, shapes=SHAPES, dtype=torch.float32, params=None, seed=0):
        self.random = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        tensors = params or [torch.randn(s, generator=self.random, dtype=dtype) for s in shapes]
        self.params = {
            "torch": [torch.nn.Parameter(p.clone()) for p in tensors],
            "fastopt": [torch.nn.Parameter(p.clone()) for p in tensors],
        }
        self.kwargs = taken(name, kwargs or {})
        self.torch = self.make("torch", name)
        self.fast = self.make("fastopt", name)

    def make(self, which, name):
        home = torch.optim if which == "torch" else fast
        return getattr(home, name)(self.params[which], **copy.deepcopy(self.kwargs))

    @property
    def both(self):
        return self.torch, self.fast

    def place(self, i, tensor):
        """What fastopt is given for parameter `i` where torch has this tensor."""
        return tensor.clone()

    def step(self, without=(), scale=1.0):
        """A step with random gradients of size 1 to 3; the parameters `without` have none."""
        for i, (p, q) in enumerate(zip(*self.params.values(), strict=True)):
            if i in without:
                p.grad = q.grad = None
                continue
            grad = torch.rand(p.shape, generator=self.random, dtype=self.dtype.to_real())
            grad = (1 + 2 * grad).to(self.dtype)
            if self.dtype.is_complex:
                grad = grad * (1 + 0.5j)
            # Laid out as autograd does it: like the parameter.
            p.grad = torch.empty_like(p).copy_(scale * grad)
            q.grad = self.place(i, p.grad)
        for optimizer in self.both:
            optimizer.step()

    def assert_same(self, **tolerance):
        """Parameters, and every entry of every state."""
        tolerance = tolerance or TOLERANCE[self.dtype.to_real()]
        for i, (p, q) in enumerate(zip(*self.params.values(), strict=True)):
            torch.testing.assert_close(q, p, msg=lambda m, i=i: f"parameter {i}: {m}", **tolerance)
            reference, ours = self.torch.state.get(p, {}), self.fast.state.get(q, {})
            assert ours.keys() == reference.keys()
            for name, value in reference.items():
                actual = ours[name]
                assert type(actual) is type(value)
                assert actual.stride() == value.stride()
                torch.testing.assert_close(
                    actual, value, msg=lambda m, i=i, n=name: f"{n} of parameter {i}: {m}", **tolerance
                )


def state_keys(optimizer):
    """What a checkpoint is made of, without its numbers."""
    saved = optimizer.state_dict()
    states = {i: sorted(state) for i, state in saved["state"].items()}
    return states, [sorted(group) for group in saved["param_groups"]]


def through_file(state_dict):
    """As a script saves and loads it, with torch's safe loading."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
