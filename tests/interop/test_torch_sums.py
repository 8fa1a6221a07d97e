"""What follows from sums: automatic rates, statistics, averages, and fastopt's optimizers for torch.

Everything is compared with the class for NumPy arrays, bit for bit, on the same numbers.
"""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests.interop.torch_pairs import fast, through_file, torch
from tests.support import COMPILED

SIZES = (5, 8200, 3) if COMPILED else (5, 40, 3)
STATS = "grad_norm", "update_rms", "param_mean"

# Name here -> name of the class for arrays, arguments here, arguments there.
AUTOMATIC = {
    "SGD": ("SGD", {"momentum": 0.5}),
    "RMSprop": ("RMSProp", {"momentum": 0.5, "weight_decay": 0.01}),
    "Adagrad": ("AdaGrad", {}),
    "AdamW": ("AdamW", {}),
    "NAdam": ("NAdam", {}),
    "Adamax": ("AdaMax", {"maximize": True}),
    "RAdam": ("RAdam", {}),
    "Adadelta": ("AdaDelta", {}),
}
NATIVE = {
    "LARS": {"lr": 0.5, "trust_coefficient": 0.02, "weight_decay": 0.01},
    "LAMB": {"lr": 0.02, "weight_decay": 0.01},
    "Prodigy": {"d0": 1e-3, "weight_decay": 0.01, "beta3": 0.9},
    "DoG": {"reps_rel": 1e-3, "layerwise": True, "average_decay": 0.9},
    "Lion": {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True},
    "AdaBelief": {"lr": 1e-2, "clip_value": 0.7},
    "Yogi": {"lr": 1e-2, "bounds": (-1.0, None)},
    "Adan": {"lr": 1e-2},
    "AdEMAMix": {"lr": 1e-2, "maximize": True},
    "QHAdam": {"lr": 1e-2, "clip_norm": 1.0},
}


def after_kernel(update, param, state, hyper):
    return hyper[0] * update, state


def absolute(update, param, state, hyper):
    return abs(update)


def by_the_last_mean(hyper, sums, carried):
    """A rate from the size of the previous update, and a count."""
    return (hyper[0] / (1.0 + sums[0]),), (carried[0] + 1.0,)


def damped(per_array):
    return fastopt.Transform(
        after_kernel,
        hyper=(0.5,),
        sums_after={"size": absolute},
        from_sums=by_the_last_mean,
        carried={"count": 0.0},
        per_array=per_array,
    )


class Both:
    """An optimizer of torch and the same of arrays, at the same numbers."""

    def __init__(self, make, make_core, dtype=torch.float32, sizes=SIZES):
        rng = torch.Generator().manual_seed(3)
        start = [torch.randn(n, generator=rng, dtype=dtype) for n in sizes]
        self.params = [torch.nn.Parameter(p.clone()) for p in start]
        self.arrays = [p.numpy().copy() for p in start]
        self.rng, self.make = rng, make
        self.torch, self.core = make(self.params), make_core(self.arrays)

    def step(self, without=(), scale=1.0):
        grads = []
        for i, p in enumerate(self.params):
            noise = torch.randn(p.shape, generator=self.rng, dtype=p.dtype)
            p.grad = None if i in without else scale * (p.detach() - 0.5 + 0.1 * noise)
            grads.append(None if p.grad is None else p.grad.numpy().copy())
        self.torch.step()
        self.core.step(grads)
        self.assert_same()

    def assert_same(self):
        for i, (p, w) in enumerate(zip(self.params, self.arrays, strict=True)):
            np.testing.assert_array_equal(p.detach().numpy(), w, f"parameter {i}")
        if self.core.stats is not None and self.torch.stats is not None:
            stats = self.torch.stats
            if any(len(each) < len(self.params) for each in stats.per_array.values()):
                return  # parameters that never had a gradient are not counted
            assert dict(stats) == dict(self.core.stats)
            for name, each in stats.per_array.items():
                assert [each[p] for p in self.params] == self.core.stats.per_array[name]

    def run(self, count=6):
        """With parameters that have no gradient at first, and others that miss one."""
        self.step(without=(1,))
        self.step(without=(1,))
        for _ in range(count):
            self.step()
        self.step(without=(0,))
        self.step(without=(2,))
        self.step()

    def reload(self):
        saved = through_file(self.torch.state_dict())
        self.torch = self.make(self.params)
        self.torch.load_state_dict(saved)

    def become(self, optimizer):
        self.torch = optimizer
        self.params = [p for group in optimizer.param_groups for p in group["params"]]


def automatic(name, **more):
    kind, kwargs = AUTOMATIC[name]
    kwargs = {**kwargs, "lr": "auto", **more}
    core = getattr(fastopt, kind)
    return Both(
        lambda params: getattr(fast, name)(params, **kwargs),
        lambda arrays: core.like("torch", arrays, **kwargs),
    )


def native(name, **more):
    kwargs = {**NATIVE[name], **more}
    return Both(
        lambda params: getattr(fast, name)(params, **kwargs),
        lambda arrays: getattr(fastopt, name)(arrays, **kwargs),
    )


@pytest.mark.parametrize("name", AUTOMATIC)
def test_automatic_rates_are_those_of_the_class_for_arrays(name):
    both = automatic(name, stats=STATS)
    assert math.isnan(both.torch.get_last_lr()[0])
    for _ in range(2):
        both.run()
        assert both.torch.get_last_lr() == [both.core.current("lr")]
        both.reload()
        assert both.torch.get_last_lr() == [both.core.current("lr")]
    both.become(copy.deepcopy(both.torch))
    both.step()
    both.become(pickle.loads(pickle.dumps(both.torch)))
    both.step(without=(1,))
    both.step()
    assert both.torch.get_last_lr() == [both.core.current("lr")]


@pytest.mark.parametrize("name", NATIVE)
def test_native_classes_step_like_those_for_arrays(name):
    both = native(name, stats=STATS)
    for _ in range(2):
        both.run(3)
        both.reload()
    both.become(pickle.loads(pickle.dumps(both.torch)))
    both.step()


@pytest.mark.parametrize("name", ["Prodigy", "LAMB"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(name, dtype):
    wide = dtype is torch.float64
    kwargs = (
        NATIVE[name] if wide else {**NATIVE[name], "d0": 0.1} if name == "Prodigy" else NATIVE[name]
    )
    params = [torch.nn.Parameter(torch.linspace(-1, 2, n).to(dtype)) for n in SIZES]
    arrays = [p.detach().double().numpy().copy() for p in params]
    if not wide:
        import ml_dtypes

        arrays = [w.astype(ml_dtypes.bfloat16) for w in arrays]
    ours, core = getattr(fast, name)(params, **kwargs), getattr(fastopt, name)(arrays, **kwargs)
    for _ in range(4):
        for p in params:
            p.grad = (p.detach().float() - 0.5).to(dtype)
        core.step(
            [p.grad.double().numpy().astype(w.dtype) for p, w in zip(params, arrays, strict=True)]
        )
        ours.step()
    for p, w in zip(params, arrays, strict=True):
        np.testing.assert_array_equal(p.detach().double().numpy(), w.astype(np.float64))


@pytest.mark.parametrize("per_array", [False, True])
def test_custom_transforms_with_sums_after_the_step(per_array):
    chain = fastopt.chain(damped(per_array), t.trace(0.5))
    both = Both(
        lambda params: fast.ChainOptimizer(params, chain, lr=0.25),
        lambda arrays: fastopt.Optimizer(
            arrays, fastopt.chain(*chain.transforms, t.scale_by_learning_rate(0.25))
        ),
    )
    both.run(3)
    both.reload()
    both.step()
    both.step(without=(1,))
    saved = both.torch.state_dict()
    if per_array:
        counts = [saved["state"][i]["carried"][0][0] for i in range(len(SIZES))]
        assert counts == [row[0] for row in both.core.state_dict()["carried"][0]]
    else:
        assert saved["param_groups"][0]["carried"] == [list(both.core.state_dict()["carried"][0][0])]


def test_schedulers_multiply_on_an_automatic_rate():
    factor = fastopt.schedules.cosine(1.0, 20)
    both = Both(
        lambda params: fast.RMSprop(params, lr="auto"),
        lambda arrays: fastopt.RMSProp.like("torch", arrays, lr=fastopt.auto(factor)),
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(both.torch, factor)
    for _ in range(12):
        both.step()
        scheduler.step()
    assert both.torch.param_groups[0]["lr"] == factor(12)
    assert both.torch.param_groups[0]["automatic_lr"] is True


def test_groups_have_factors_rates_and_numbers():
    both = Both(
        lambda p: fast.RMSprop(
            [
                {"params": p[:1]},
                {"params": p[1:2], "lr": fastopt.auto(0.1)},
                {"params": p[2:], "lr": 0.25, "alpha": 0.5},
            ],
            lr="auto",
        ),
        lambda a: fastopt.RMSProp.like(
            "torch",
            [
                {"params": a[0]},
                {"params": a[1], "lr": fastopt.auto(0.1)},
                {"params": a[2], "lr": 0.25, "beta": 0.5},
            ],
            lr="auto",
        ),
    )
    for _ in range(5):
        both.step()
    assert both.torch.get_last_lr() == [group.current("lr") for group in both.core.groups]
    assert "automatic_lr" not in both.torch.param_groups[2]
    both.reload()
    both.step()


def test_an_assigned_rate_ends_the_automatic_one_which_continues_later():
    both = automatic("RMSprop")
    both.run(2)
    for lr, is_automatic in ((0.01, False), (1.0, True), (0.5, True)):
        group = both.torch.param_groups[0]
        group["lr"], group["automatic_lr"] = lr, is_automatic
        both.core.lr = fastopt.auto(lr) if is_automatic else lr
        both.step()
        both.step(without=(1,))
        assert both.torch.get_last_lr() == [both.core.current("lr")]
    del both.torch.param_groups[0]["automatic_lr"]  # a plain rate, without the trend
    previous = both.params[0].detach().clone()
    both.params[0].grad = torch.ones_like(previous)
    both.torch.step()
    assert not torch.equal(previous, both.params[0])


def test_a_group_that_is_added_has_the_rate_of_the_others():
    params = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    optimizer = fast.AdamW(params[:1], lr="auto")
    for _ in range(5):
        params[0].grad = torch.ones(4)
        optimizer.step()
    optimizer.add_param_group({"params": params[1:]})
    for p in params:
        p.grad = torch.ones(4)
    optimizer.step()
    first, second = optimizer.get_last_lr()
    assert first == second > 2e-4


def test_torchs_checkpoint_starts_a_rate_of_its_own():
    p = torch.nn.Parameter(torch.ones(3))
    reference = torch.optim.AdamW([p], lr=0.125)
    p.grad = torch.ones(3)
    reference.step()
    ours = fast.AdamW([p], lr="auto")
    ours.load_state_dict(reference.state_dict())
    ours.step()  # with the settings of the checkpoint, as always
    assert ours.get_last_lr() == [0.125]
    assert "trend" not in ours.state[p]


def test_closures_and_grad_scalers():
    both = automatic("SGD", stats=("grad_norm",))
    scaled = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=10**6)
    ours = fast.SGD(both.params, lr="auto", momentum=0.5, stats=("grad_norm",), fused=True)
    both.become(ours)

    def loss():
        ours.zero_grad()
        value = sum(((p - 0.5) ** 2).sum() for p in both.params)
        value.backward()
        return value

    assert ours.step(loss).item() > 0.0
    both.core.step([2 * (w - np.float32(0.5)) for w in both.arrays])
    both.assert_same()
    ours.zero_grad()
    scaled.scale(sum(((p - 0.5) ** 2).sum() for p in both.params)).backward()
    scaled.step(ours)
    both.core.step([8 * (2 * (w - np.float32(0.5))) for w in both.arrays], grad_scale=8.0)
    both.assert_same()
    assert ours.stats["grad_norm"] == both.core.stats["grad_norm"]


@pytest.mark.parametrize("schedule_free", [None, 0.9])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_averaged_parameters(name, schedule_free):
    kwargs = {"lr": 0.125, "schedule_free": schedule_free}
    if schedule_free is None:
        kwargs["average_decay"] = 0.5
    both = Both(
        lambda params: getattr(fast, name)(params, **kwargs),
        lambda arrays: getattr(fastopt, name).like("torch", arrays, **kwargs),
    )
    for _ in range(4):
        both.step()
    previous = [p.detach().clone() for p in both.params]
    averages = both.torch.averaged_params()
    for average, expected in zip(averages, both.core.averaged_params(), strict=True):
        np.testing.assert_array_equal(average.numpy(), expected)
    with both.torch.averaged():
        assert all(map(torch.equal, both.params, averages))
        with pytest.raises(RuntimeError, match="exchanged for their average"):
            both.torch.step()
        with pytest.raises(RuntimeError, match="exchanged for their average"):
            copy.deepcopy(both.torch)
        with pytest.raises(RuntimeError, match="exchanged"), both.torch.averaged():
            pass
    assert all(map(torch.equal, both.params, previous))
    both.reload()
    both.step()


def test_averages_of_other_dtypes_and_of_parameters_without_steps():
    params = [
        torch.nn.Parameter(torch.full((3,), 1.1, dtype=d)) for d in (torch.bfloat16, torch.complex64)
    ]
    still = torch.nn.Parameter(torch.ones(2))
    optimizer = fast.AdamW([*params, still], lr=0.1, average_decay=0.5, master_bits=32)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    averages = optimizer.averaged_params()
    for p, average in zip(params, averages, strict=False):
        expected = optimizer.state[p]["average"].to(p.dtype)
        assert average.dtype == p.dtype
        assert torch.equal(average, expected)
    assert torch.equal(averages[2], still)
    with pytest.raises(ValueError, match="keeps no average"):
        fast.AdamW(params).averaged_params()


def test_layerwise_rates_step_inside_the_backward_pass():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
    other = copy.deepcopy(model)
    inside = fast.step_in_backward(model, fast.DoG, reps_rel=1e-3, layerwise=True)
    outside = fast.DoG(other.parameters(), reps_rel=1e-3, layerwise=True)
    for count in range(4):
        x = torch.randn(5, 4)
        model(x).square().sum().backward()
        inside.step()
        outside.zero_grad()
        other(x).square().sum().backward()
        outside.step()
        if count == 1:
            assert (
                inside.state_dict()["state"][0]["carried"]
                == outside.state_dict()["state"][0]["carried"]
            )
        if count == 2:
            inside.remove_hooks()
            model.zero_grad()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
