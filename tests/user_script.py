"""What a user writes, for type checkers: `tests/test_user_types.py` checks it, and runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import fastopt
from fastopt import schedules
from fastopt import transforms as t

Array = npt.NDArray[np.float32]


def falling(step: int) -> float:
    return 0.1 / (1 + step)


def settings(w: Array, g: Array) -> float:
    opt = fastopt.RMSProp(w, 1e-3, beta=falling, momentum=0.9, nesterov=True, clip_norm=1.0)
    opt.step(g, grad_scale=2.0)
    opt.lr = 1e-4
    opt.lr = opt.lr * 0.5
    opt.lr *= 0.5
    opt.beta = schedules.exponential(0.9, 0.99)
    opt.weight_decay = 0
    opt.clip_norm = opt.clip_norm * 2.0
    number: float = opt.current("lr") + opt.current("beta")
    centered: bool = opt.centered
    assert not centered
    assert opt.last is not None
    return number + opt.last.norm


def groups(w: Array, b: Array) -> None:
    opt = fastopt.AdamW([{"params": w, "lr": 1e-2}, {"params": b, "weight_decay": 0.0}], lr=1e-3)
    opt.groups[1].lr = 1e-4
    opt.groups[1].lr = opt.groups[0].lr / 2
    opt.groups[0].beta1 = falling
    assert opt.groups[1].current("lr") < 1.0
    opt.step([np.ones_like(w), np.ones_like(b)])


def every_optimizer(w: Array, g: Array) -> None:
    """Each with a setting that it has alone."""
    every = (
        fastopt.SGD(w, momentum=0.9, dampening=falling, nesterov=False, executor="reference"),
        fastopt.RMSProp(w, centered=True, initial_accumulator=1.0, executor="reference"),
        fastopt.AdaGrad(w, lr_decay=0.1, guard_zero=True, executor="reference"),
        fastopt.Adam(w, amsgrad=True, bias_correction=False, executor="reference"),
        fastopt.AdamW(w, decoupled_weight_decay=True, executor="reference"),
        fastopt.NAdam(w, momentum_decay=falling, executor="reference"),
        fastopt.LARS(w, trust_coefficient=0.01, executor="reference"),
        fastopt.LAMB(w, eps_inside_sqrt=True, executor="reference"),
        fastopt.Lion(w, beta1=0.9, beta2=falling, executor="reference"),
        fastopt.AdaMax(w, eps_inside_max=False, executor="reference"),
        fastopt.AdaDelta(w, rho=falling, executor="reference"),
        fastopt.RAdam(w, threshold=4.0, executor="reference"),
        fastopt.AdaBelief(w, eps_root=1e-12, executor="reference"),
        fastopt.Yogi(w, initial_average=0.1, executor="reference"),
        fastopt.QHAdam(w, nu1=0.5, nu2=falling, executor="reference"),
        fastopt.AdEMAMix(w, alpha=falling, warmup_steps=10, executor="reference"),
        fastopt.Adan(w, look_ahead=0.5, proximal=True, executor="reference"),
        fastopt.Rprop(w, eta_minus=0.4, step_size_max=1.0, executor="reference"),
        fastopt.ASGD(w, lambd=1e-3, t0=10.0, executor="reference"),
        fastopt.Prodigy(w, d0=1e-5, safeguard_warmup=True, executor="reference"),
        fastopt.DoG(w, reps_rel=1e-5, layerwise=True, executor="reference"),
    )
    for opt in every:
        opt.step(g)
    sgd, radam = fastopt.SGD(w, momentum=0.5), fastopt.RAdam(w)
    sgd.momentum = falling
    threshold: float = radam.threshold
    assert threshold == 5.0


def every_transform(w: Array, g: Array) -> None:
    parts: list[fastopt.Transform] = [
        t.skip_nonfinite(), t.clip_by_global_norm(1.0), t.adaptive_grad_clip(falling),
        t.clip_by_value(1.0), t.add_decayed_weights(1e-2, lr=falling), t.trace(0.9, nesterov=True),
        t.scale_by_rms(), t.scale_by_stddev(0.9), t.scale_by_rss(), t.scale_by_adam(amsgrad=True),
        t.scale_by_nadam(), t.scale_by_lion(), t.scale_by_adamax(), t.scale_by_adadelta(),
        t.scale_by_radam(), t.scale_by_belief(), t.scale_by_yogi(), t.scale_by_qhadam(),
        t.scale_by_ademamix(), t.scale_by_adan(), t.scale_by_trust_ratio(), t.scale_by_prodigy(),
        t.scale_by_dog(), t.scale_by_learning_rate(falling), t.at_least(-1.0),
        t.at_most(w.copy() + 2), t.average_params(0.9), t.average_evenly(), t.copy_params(w.copy()),
        t.step_by_rprop(0.1), t.schedule_free(0.9), t.follow_automatically(t.scale_by_adam()),
    ]  # fmt: skip
    one = t.Transform(sign_update, {}, (1.0,))
    together: fastopt.Chain = t.chain(one, t.trace(0.9), halve())
    assert len(parts) > len(list(together))
    whole: t.Chain = t.chain(*parts[:2])
    opt = fastopt.Optimizer(w, whole)
    assert list(opt.chain) == list(whole)


@t.factory
def halve(by: float = 2.0) -> t.Transform:
    return t.scale(1 / by)


def every_schedule() -> list[Callable[[int], float]]:
    return [
        schedules.constant(0.1),
        schedules.cosine(0.1, 100, alpha=0.1),
        schedules.exponential(0.1, 0.9, 10, staircase=True),
        schedules.inverse_time(0.1, 0.5),
        schedules.piecewise([10, 20], [0.1, 0.2, 0.3]),
        schedules.polynomial(0.1, 0.01, 100, power=2.0),
        schedules.warmup_cosine(0.0, 0.1, 10, 100),
    ]


def buffers() -> float:
    flat, views = fastopt.flatten([np.ones(3, np.float32), fastopt.empty((2, 2), np.float32)])
    views[0][:] = 2.0
    fastopt.set_num_threads(fastopt.get_num_threads())
    with fastopt.threads(1):
        norm: float = fastopt.global_norm([flat, *views])
    return norm


def state(w: Array, g: Array, path: str) -> None:
    opt = fastopt.Adam(w, average_decay=0.9)
    opt.step(g)
    count: int = opt.step_count
    w_of, names = opt.params, list(opt.state)
    assert (w_of is w, count, names[0]) == (True, 1, "exp_avg")
    opt.decoded("exp_avg")
    opt.catch_up()
    opt.averaged_params()
    opt.set_params(opt.decoded_params())
    with opt.averaged():
        assert opt.params is w
    assert opt.source
    flags: tuple[bool, bool, bool] = opt.maximize, opt.zero_grad, opt.decoupled_weight_decay
    assert not any(flags)
    opt.save(path, params=True)
    opt.load(path)


def found_by_itself(w: Array, g: Array) -> None:
    opt = fastopt.SGD(w, "auto", stats=("grad_norm",), executor="reference")
    opt.step(g)
    opt.lr = "auto"
    stats: fastopt.Stats | None = opt.stats
    assert stats is not None
    assert opt.read_stats(wait=False) is not None


def torch_optimizers(model: Any) -> None:
    from fastopt.interop import torch as fast

    opt = fast.RMSprop(model.parameters(), lr=1e-3, momentum=0.9, clip_norm=1.0)
    opt.step()
    fast.step_in_backward(model, fast.SGD, lr=0.1)
    others = fast.SGD, fast.Adagrad, fast.Adam, fast.AdamW, fast.NAdam, fast.Adadelta, fast.Adamax
    for kind in (*others, fast.RAdam, fast.Rprop, fast.ASGD):
        kind(model.parameters(), lr=1e-3).zero_grad()


def scipy_methods(w: Array) -> tuple[int, str]:
    from fastopt.interop import scipy

    result = scipy.method(Signs)(len, w)
    steps: int = result.nit
    message: str = scipy.adam(len, w).message
    return steps, message


def graph(device_w: Any, stream: Any) -> None:
    opt = fastopt.Adam(device_w, capturable=True)
    opt.step(device_w, stream=stream)
    opt.advance(stream=stream)


def ranks(comm: Any, w: Array, g: Array) -> slice:
    from fastopt.interop import mpi

    opt = mpi.ShardedOptimizer(comm, w, lambda shard: fastopt.Adam(shard), reduction="sum")
    opt.step(g, grad_scale=2.0)
    opt.optimizer.lr = 0.1
    opt.save("run")
    try:
        mpi.load_checkpoint("run", fastopt.Adam(w))
    except mpi.RankError as error:
        raise SystemExit(f"ranks {error.ranks} failed") from error
    return mpi.shard_slice(len(w), 0, 2)


def options(w: Array) -> None:
    fastopt.Adam(w, executor="serial", fast=True, state_dtype="8bit", bounds=(-1.0, None))
    fastopt.SGD(w, lr=schedules.cosine(0.1, 100), average_decay=falling, copy_to=w.copy(), seed=3)
    fastopt.AdaGrad.like("torch", w, lr=0.1).step(np.ones_like(w))
    table = fastopt.NAdam(w.reshape(-1, 1), sparse="lazy")
    table.step((np.array([0]), np.ones((1, 1), np.float32)))
    opt = fastopt.Optimizer(w, fastopt.chain(t.scale_by_rms(), t.scale(0.1)), clip_value=1.0)
    opt.clip_value = 0.5
    opt.load_state_dict(opt.state_dict(), match="position")
    tuned = fastopt.RMSProp(w, lr="auto")
    tuned.lr = falling
    tuned.lr = fastopt.auto(falling)


def one_shot(w: Array, g: Array) -> float | None:
    v, m = np.zeros_like(w), np.zeros_like(w)
    fastopt.adam_step(w, g, exp_avg=m, exp_avg_sq=v, step=0, lr=1e-3)
    fastopt.sgd_step(w, g, lr=0.1)
    others: list[Callable[..., object]] = [
        fastopt.adabelief_step, fastopt.adadelta_step, fastopt.adagrad_step, fastopt.adamax_step,
        fastopt.adamw_step, fastopt.adan_step, fastopt.ademamix_step, fastopt.asgd_step,
        fastopt.lamb_step, fastopt.lars_step, fastopt.lion_step, fastopt.nadam_step,
        fastopt.qhadam_step, fastopt.radam_step, fastopt.rprop_step, fastopt.yogi_step,
    ]  # fmt: skip
    assert all(map(callable, others))
    last = fastopt.rmsprop_step(w, g, square_avg=v, clip_norm=1.0)
    return None if last is None else last.norm


def minimize() -> float:
    def fun(x: npt.NDArray[Any]) -> tuple[float, npt.NDArray[Any]]:
        return float((x**2).sum()), 2 * x

    result = fastopt.minimize(fun, np.ones(3), optimizer="adam", maxiter=50, keep="best")
    result = fastopt.minimize(fun, np.ones(3), optimizer=Signs, maxiter=50)
    return float(result.fun)


def sign_update(update: Any, param: Any, state: Any, hyper: Any) -> tuple[Any, Any]:
    (one,) = hyper
    return (one if update > 0 else -one), state


class Signs(fastopt.NamedOptimizer):
    """An optimizer of one's own."""

    __slots__ = ()

    usual_lr = 0.03

    lr: fastopt.Number = fastopt.setting(default=1e-2)
    size: fastopt.Number = fastopt.setting(default=1.0)
    late: fastopt.Flag = fastopt.setting(default=False, kw_only=True)

    def make_parts(self) -> list[fastopt.Transform]:
        one = fastopt.Transform(sign_update, hyper=(float(self.size),))
        return [one, *self.decay_and_rate()]


def custom_optimizer(w: Array, g: Array) -> None:
    opt = Signs(w, 0.1, size=2.0, late=True, weight_decay=falling, executor="auto")
    opt.size = 0.5
    opt.lr = falling
    opt.step(g)
    fastopt.one_shot(Signs)(w, g, lr=0.5)


def main() -> None:
    w, g, b = np.ones(8, np.float32), np.ones(8, np.float32), np.ones(2, np.float32)
    settings(w, g)
    groups(w, b)
    options(w)
    every_optimizer(w, g)
    every_transform(w, g)
    assert all(schedule(3) > 0 for schedule in every_schedule())
    found_by_itself(w, g)
    buffers()
    one_shot(w, g)
    custom_optimizer(w, g)
    minimize()
    with tempfile.TemporaryDirectory() as folder:
        state(w, g, f"{folder}/run.npz")


# What must be an error, one in each line, by the words of both checkers.
def mistakes(opt: fastopt.RMSProp, signs: Signs, w: Array) -> None:
    opt.lr = "fast"  # wrong
    opt.centered = 3  # wrong
    opt.learning_rate = 0.1  # wrong
    signs.beta = 0.5  # wrong
    fastopt.RMSProp(w, executor="fast")  # wrong
    fastopt.RMSProp(w, alpha=0.9)  # wrong
    fastopt.RMSProp(w, 1e-3, 0.9, 1e-8, True)  # wrong
    fastopt.RMSProp()  # wrong
    fastopt.Optimizer(w)  # wrong
    fastopt.Adam(w, sparse="fully")  # wrong
    fastopt.Adams(w)  # wrong
    opt.load("run.npz", match="name")  # wrong
    opt.save(3)  # wrong
    fastopt.Adam(w, state_dir=3)  # wrong
    fastopt.Adam(w, state_dtype=8)  # wrong
    fastopt.Adam(w, bounds=1.0)  # wrong
    fastopt.minimize(len, w, optimizer=3)  # wrong
    fastopt.minimize(len, w, seed="one")  # wrong
    fastopt.minimize(len, w, keep="worst")  # wrong
    fastopt.Prodigy(w, d0="small")  # wrong
    fastopt.RAdam(w).threshold = "4"  # wrong
    t.scale_by_rms(decay=0.9)  # wrong
    t.chain(falling)  # wrong
    schedules.cosine(0.1)  # wrong


if __name__ == "__main__":
    main()
