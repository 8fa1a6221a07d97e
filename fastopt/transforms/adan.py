"""Nesterov's momentum by the change of the gradient: Adan."""

from __future__ import annotations

from fastopt.transforms import moments
from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import first_moment, second_moment
from fastopt.transforms.roots import root_eps_outside
from fastopt.validation import Hyper, Setting, at, decay_rate, flag, fraction, nonnegative


def adan_update(update, param, state, hyper):
    exp_avg, exp_avg_diff, exp_avg_sq, previous_grad = state
    beta1, mix1, unbias1, beta2, mix2, unbias2 = hyper[:6]
    beta3, mix3, unbias3, ahead, has_previous, eps, eps_root = hyper[6:]
    change = has_previous * (update - previous_grad)
    exp_avg = first_moment(exp_avg, update, beta1, mix1)
    exp_avg_diff = first_moment(exp_avg_diff, change, beta2, mix2)
    exp_avg_sq = second_moment(exp_avg_sq, update + ahead * change, beta3, mix3)
    ahead_avg = unbias1 * exp_avg + ahead * (unbias2 * exp_avg_diff)
    root = root_eps_outside(unbias3 * exp_avg_sq + eps_root, eps)
    return ahead_avg / root, (exp_avg, exp_avg_diff, exp_avg_sq, update)


@factory
def scale_by_adan(
    beta1: Setting = 0.98,
    beta2: Setting = 0.92,
    beta3: Setting = 0.99,
    eps: Setting = 1e-8,
    *,
    eps_root: Setting = 0.0,
    look_ahead: Setting | None = None,
    bias_correction: bool = True,
) -> Transform:
    """Nesterov's momentum by the change of the update since the last step.

    With ``c = u - previous u``, zero in the first step, and a weight ``a = beta2``:
    ``m = beta1 * m + (1 - beta1) * u``, ``d = beta2 * d + (1 - beta2) * c`` and
    ``n = beta3 * n + (1 - beta3) * (u + a * c)**2``, then
    ``u = (m' + a * d') / (sqrt(n' + eps_root) + eps)``, each ``x' = x / (1 - beta**t)``
    at step ``t = 1, 2, ...``.

    Parameters
    ----------
    beta1, beta2, beta3 : float or schedule
        Weights of the past, in [0, 1): one minus those of the paper.
    eps, eps_root : float or schedule
        >= 0.
    look_ahead : float or schedule or None
        Another ``a``, in [0, 1].
    bias_correction : bool
        Without it ``x' = x``, as in the paper's algorithm.

    Notes
    -----
    State: ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``previous_grad``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_adan(), t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([ 0.5, -1. ])
    """
    betas = [decay_rate(f"beta{i}", beta) for i, beta in enumerate((beta1, beta2, beta3), 1)]
    epsilon, inner = nonnegative("eps", eps), nonnegative("eps_root", eps_root)
    weight = betas[1] if look_ahead is None else fraction("look_ahead", look_ahead)
    corrects = flag("bias_correction", bias_correction)

    def hyper(step: int) -> Hyper:
        averages: list[float] = []
        for beta in betas:
            b = at(beta, step)
            averages += b, 1 - b, moments.bias_correction(b, step) if corrects else 1.0
        has_previous = 1.0 if step else 0.0
        return *averages, at(weight, step), has_previous, at(epsilon, step), at(inner, step)

    return Transform(
        adan_update,
        state=dict.fromkeys(("exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad"), 0.0),
        nonnegative=("exp_avg_sq",),
        hyper=hyper,
        settings={
            **{f"beta{i}": (decay_rate, beta) for i, beta in enumerate(betas, 1)},
            "eps": (nonnegative, epsilon),
            "eps_root": (nonnegative, inner),
        },
    )
