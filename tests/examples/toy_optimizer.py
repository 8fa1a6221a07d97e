"""AdaShift, an optimizer that the package does not have, complete, as in `docs/own-transform.md`."""

import fastopt
from fastopt.validation import at, decay_rate, positive


def adashift_update(update, param, state, hyper):
    grad_before, exp_avg_sq = state
    beta, mix, correction, eps, started = hyper
    exp_avg_sq = beta * exp_avg_sq + mix * grad_before * grad_before
    step = started * update / ((correction * exp_avg_sq) ** 0.5 + eps)
    return step, (update, exp_avg_sq)


def scale_by_adashift(beta, eps):
    """Divide by the root of the average of earlier squares: the first step, without one, is zero."""
    beta, eps = decay_rate("beta", beta), positive("eps", eps)

    def hyper(step):
        now, correction = at(beta, step), 1 - at(beta, step) ** step
        return now, 1 - now, 1 / correction if step else 0.0, at(eps, step), float(step > 0)

    states = {"grad_before": 0.0, "exp_avg_sq": 0.0}
    return fastopt.Transform(adashift_update, state=states, hyper=hyper, nonnegative=("exp_avg_sq",))


class AdaShift(fastopt.NamedOptimizer):
    """Adam with an average of squares that excludes the current gradient (arXiv:1810.00143, n = 1)."""

    __slots__ = ()

    usual_lr = 0.1

    lr: fastopt.Number = fastopt.setting(default=1e-2)
    beta: fastopt.Number = fastopt.setting(default=0.999)
    eps: fastopt.Number = fastopt.setting(default=1e-8)

    def make_parts(self):
        return [scale_by_adashift(self.beta, self.eps), *self.decay_and_rate()]
