"""Arrays on a device that is not the current one: the driver is called for their device."""

from contextlib import contextmanager

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from tests.device import needs_driver, to_device, to_host
from tests.support import assert_same_bits
from tests.test_sums_after import late

pytestmark = needs_driver

SIZES = 40, 3

MAKERS = {
    "plain": lambda params: fastopt.Adam(params),
    "clipped": lambda params: fastopt.Adam(params, clip_norm=0.5, skip_nonfinite=True),
    "sums": lambda params: fastopt.Optimizer(
        params, chain(t.scale_by_trust_ratio(), late(), t.scale_by_learning_rate(0.1))
    ),
    "stats": lambda params: fastopt.RMSProp(params, stats=["grad_norm"]),
    "capturable": lambda params: fastopt.Adam(params, capturable=True),
}


@pytest.fixture
def _elsewhere(monkeypatch):
    """Device 1 is current, as far as the package asks; nothing must be called for it."""
    from fastopt.executors.cuda import device

    depth = [0]

    @contextmanager
    def on(ordinal):
        assert ordinal == 0
        depth[0] += 1
        try:
            yield
        finally:
            depth[0] -= 1

    def checked(name):
        function = getattr(device, name)

        def call(*arguments, **how):
            assert depth[0], (name, arguments)
            return function(*arguments, **how)

        return call

    monkeypatch.setattr(device, "on", on)
    monkeypatch.setattr(device, "current", lambda: 0 if depth[0] else 1)
    for name in ("_call", "allocate", "launch", "synchronize", "Pinned"):
        monkeypatch.setattr(device, name, checked(name))


def gradients(step, place):
    return [place(np.linspace(-step, 1.0, n, dtype=np.float32)) for n in SIZES]


def use(make, place):
    params = [place(np.linspace(0.5, 2.0, n, dtype=np.float32)) for n in SIZES]
    opt = make(params)
    first = gradients(1, place)
    for grads in (first, first, gradients(2, place), [None, *gradients(3, place)[1:]], first):
        opt.step(grads)
    opt.step(first, grad_scale=2.0)
    saved = opt.state_dict()
    opt.load_state_dict(saved)
    opt.step(first)
    opt.read_stats(), opt.last, opt.stats
    fastopt.global_norm(first)
    return opt, params


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.usefixtures("_elsewhere")
def test_everything_is_done_on_the_arrays_device(make):
    opt, params = use(make, to_device)
    if not opt.capturable:
        same, in_memory = use(make, np.copy)
        assert opt.step_count == same.step_count
        for param, expected in zip(params, in_memory, strict=True):
            assert_same_bits(to_host(param), expected)


@pytest.mark.usefixtures("_elsewhere")
def test_arrays_without_elements_are_on_any_device():
    params = [to_device(np.ones(n, np.float32)) for n in (0, 5)]
    opt = fastopt.SGD(params, lr=1.0)
    for _ in range(2):
        opt.step([to_device(np.ones(n, np.float32)) for n in (0, 5)])
    assert_same_bits(to_host(params[1]), np.full(5, -1.0, np.float32))
    assert fastopt.global_norm(params) == np.sqrt(5.0)
