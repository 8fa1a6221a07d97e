"""A step on a device in stretches, one array after the other, gives the bits of memory."""

from itertools import pairwise

import numpy as np
import pytest

import fastopt
from fastopt.codecs.base import BLOCK
from fastopt.steps.stepper import stepper_of
from tests.device import skip_without_device, to_device, to_host
from tests.support import assert_same_bits, problem

skip_without_device()

OPTIONS = [{}, {"clip_norm": 0.5}, {"skip_nonfinite": True}, {"zero_grad": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_one_array_after_the_other(options):
    """Arrays in any order, one of them in parts, one without a gradient."""
    pairs = [problem(n, np.float32, steps=4) for n in (6, BLOCK + 7, 6)]
    opt = fastopt.Adam([to_device(w) for w, _ in pairs], **options)
    same = fastopt.Adam([w.copy() for w, _ in pairs], **options)
    stepper = stepper_of(opt)()
    ends = np.cumsum([w.size for w, _ in pairs]).tolist()
    cuts = [(0, ends[0]), (ends[0], ends[0] + BLOCK), (ends[0] + BLOCK, ends[1]), *pairwise(ends[1:])]
    for step in range(4):
        grads = [None if at == step else g[step] for at, (_, g) in enumerate(pairs)]
        if options.get("skip_nonfinite") and step == 2:
            grads[0] = np.full(6, np.nan, np.float32)
        device_grads = [None if g is None else to_device(g) for g in grads]
        stepper.begin(device_grads, 2.0)
        assert stepper.decide()  # as far as the host knows
        for start, stop in cuts[::-1] if step % 2 else cuts:
            stepper.run(start, stop)
        stepper.end()
        same.step(grads, grad_scale=2.0)
        for actual, expected in zip(device_grads, grads, strict=True):
            if actual is not None:
                assert_same_bits(to_host(actual), expected)
    assert opt.step_count == same.step_count
    for one, other in zip(opt.params, same.params, strict=True):
        assert_same_bits(to_host(one), other)
    for name in opt.state:
        for one, other in zip(opt.state[name], same.state[name], strict=True):
            assert_same_bits(to_host(one), other)
