"""What a user writes, for type checkers: `tests/test_user_types.py` checks it, and runs it."""

from __future__ import annotations

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


def options(w: Array) -> None:
    fastopt.Adam(w, executor="serial", fast=True, state_dtype="8bit", bounds=(-1.0, None))
    fastopt.SGD(w, lr=schedules.cosine(0.1, 100), average_decay=falling, copy_to=w.copy(), seed=3)
    fastopt.AdaGrad.like("torch", w, lr=0.1).step(np.ones_like(w))
    table = fastopt.NAdam(w.reshape(-1, 1), sparse="lazy")
    table.step((np.array([0]), np.ones((1, 1), np.float32)))
    opt = fastopt.Optimizer(w, fastopt.chain(t.scale_by_rms(), t.scale(0.1)), clip_value=1.0)
    opt.clip_value = 0.5
    opt.load_state_dict(opt.state_dict(), match="position")
    found = fastopt.RMSProp(w, lr="auto")
    found.lr = falling
    found.lr = fastopt.auto(falling)


def one_shot(w: Array, g: Array) -> float | None:
    v, m = np.zeros_like(w), np.zeros_like(w)
    fastopt.adam_step(w, g, exp_avg=m, exp_avg_sq=v, step=0, lr=1e-3)
    last = fastopt.rmsprop_step(w, g, square_avg=v, clip_norm=1.0)
    return None if last is None else last.norm


def minimize() -> float:
    def fun(x: npt.NDArray[Any]) -> tuple[float, npt.NDArray[Any]]:
        return float((x**2).sum()), 2 * x

    found = fastopt.minimize(fun, np.ones(3), optimizer="adam", maxiter=50, keep="best")
    found = fastopt.minimize(fun, np.ones(3), optimizer=Signs, maxiter=50)
    return float(found.fun)


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


def own(w: Array, g: Array) -> None:
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
    one_shot(w, g)
    own(w, g)
    minimize()


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
    fastopt.minimize(len, w, keep="worst")  # wrong


if __name__ == "__main__":
    main()
