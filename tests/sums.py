"""Transforms with sums, and runs of optimizers made of them."""

import copy
import math

import numpy as np

import fastopt
from fastopt import chain
from fastopt import transforms as t
from tests.support import assert_same_bits, problem, sizes


def square(update, param, state, hyper):
    return update * update


def scaled(update, param, state, hyper):
    (factor,) = hyper
    return factor * update, state


def limited(hyper, sums, carried):
    limit, squares = hyper[0], sums[0]
    size = math.sqrt(squares)
    return (limit / size if size > limit else 1.0,), carried


def clip(limit, **how):
    """What the option `clip_norm` does, at any place in a chain."""
    limit = limit if callable(limit) else (limit,)
    return fastopt.Transform(scaled, hyper=limit, sums={"squares": square}, from_sums=limited, **how)


# Reads whatever a summand can read, and has several sums.
def product(update, param, state, hyper):
    weight, _ = hyper
    return weight * update * param + 0.1 * state[0]


def positive_share(update, param, state, hyper):
    return update > 0.0


def averaged(update, param, state, hyper):
    (average,) = state
    mix, bias, factor = hyper
    average = (1.0 - mix) * average + mix * update
    return factor * average + bias * param, (average,)


def blended(hyper, sums, carried):
    weight, mix = hyper
    total, _ = sums
    (trend,) = carried
    trend = 0.5 * trend + total
    return (mix, 1e-3 * total / (1.0 + abs(total)), weight + 0.1 / (1.0 + trend * trend)), (trend,)


def blend(mix=0.25, **how):
    return fastopt.Transform(
        averaged,
        state={"average": 0.0},
        hyper=lambda step: (1.0 / (1.0 + step), mix),
        sums={"total": product, "share": positive_share},
        from_sums=blended,
        carried={"trend": 0.25},
        **how,
    )


def everything(**how):
    """Three passes: the second and third see what the ones before decided."""
    parts = clip(0.5), t.scale_by_rms(), blend(**how), clip(0.3, per_array=True)
    return chain(*parts, t.add_decayed_weights(0.01), t.scale_by_learning_rate(0.1))


SIZES = sizes(1, 7, 65, 300, 8193, 24_577)


def run(params, grads, parts, **options):
    opt = fastopt.Optimizer(copy.deepcopy(params), parts, **options)
    for grad in grads:
        opt.step(copy.deepcopy(grad))
    return opt


def assert_same(one, other):
    assert one.step_count == other.step_count
    for name in (None, *one.state):
        first, second = (_listed(o.params if name is None else o.state[name]) for o in (one, other))
        for a, b in zip(first, second, strict=True):
            assert_same_bits(a, b, str(name))
    assert one.state_dict().get("carried") == other.state_dict().get("carried")


def _listed(value):
    return value if isinstance(value, (list, tuple)) else [value]


def assert_each_for_itself(parts, executor, kept):
    """Several arrays step as one of them does alone; `kept(opt)` is what their sums left, for each."""
    drawn = [problem(size, np.float32) for size in (3, 90, 1)]
    grads = [[steps[k] for _, steps in drawn] for k in range(3)]
    grads[1][1] = None
    opt = run([w for w, _ in drawn], grads, parts, executor=executor)
    for i, (w, _) in enumerate(drawn):
        alone = run(w, [grad[i] for grad in grads if grad[i] is not None], parts, executor=executor)
        assert_same_bits(opt.params[i], alone.params)
        assert kept(opt)[i] == kept(alone)[0]


def snapshot(opt):
    states = [state.tobytes() for state in opt.state.values()]
    return opt.step_count, opt.params.tobytes(), *states, repr(opt.state_dict()["carried"])
