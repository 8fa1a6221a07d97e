"""Scaling by norms: of all arrays together, or of each array, as layer-wise rates have it."""

from __future__ import annotations

import math

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.scaling import scale_update
from fastopt.validation import Setting, nonnegative, per_step, positive


def update_square(update, param, state, hyper):
    return update * update


def param_square(update, param, state, hyper):
    return param * param


# Of the squares alone: with the sums of the option `clip_norm`, which measure what overflows too, one
# read of 10^8 float32 takes 3.2 times as long (`steps.clip_pass`).
def norm_clipped(hyper, sums, carried):
    limit, size = hyper[0], math.sqrt(sums[0])
    return (limit / size if size > limit else 1.0,), carried


@factory
def clip_by_global_norm(limit: Setting) -> Transform:
    """Scale the update down so that its norm over all arrays is at most `limit`.

    ``n = sqrt(sum(u * u))``, then ``u = limit / n * u`` where ``n > limit``. It can stand anywhere.
    Costs one more read of what the chain reads as far as here.

    In front of a chain it is the option ``clip_norm``, as long as the sum is finite and not below
    1e-289. That option leaves elements that are not finite out of the norm, and scales those of float64
    whose squares overflow or vanish. Here a NaN turns clipping off for the step, and an infinity, or
    squares that overflow, make the update zero (that of the infinite element NaN).

    Parameters
    ----------
    limit : float or schedule
        > 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = [np.zeros(1), np.zeros(1)]
    >>> opt = fastopt.Optimizer(w, t.clip_by_global_norm(1.0))
    >>> opt.step([np.array([3.0]), np.array([4.0])])
    >>> w
    [array([-0.6]), array([-0.8])]
    """
    limit = positive("limit", limit)
    return Transform(
        scale_update,
        hyper=per_step(lambda x: (x,), limit),
        no_gradient=scale_update,
        settings={"limit": (positive, limit)},
        sums={"squares": update_square},
        from_sums=norm_clipped,
    )


def not_finite(update, param, state, hyper):
    return 0.0 if update - update == 0.0 else 1.0


def unchanged_update(update, param, state, hyper):
    return update, state


def skipped_if_any(hyper, sums, carried):
    return hyper, carried, sums[0] > 0.0


@factory
def skip_nonfinite() -> Transform:
    """Leave out steps in which an element of the update is NaN or infinite, in any array.

    In front of a chain it is the option ``skip_nonfinite``, but for ``opt.last``; it can stand
    anywhere. Costs one more read of what the chain reads as far as here.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.ones(2)
    >>> opt = fastopt.Optimizer(w, t.skip_nonfinite())
    >>> opt.step(np.array([np.nan, 1.0]))
    >>> w, opt.step_count
    (array([1., 1.]), 0)
    """
    return Transform(
        unchanged_update,
        no_gradient=unchanged_update,
        sums={"nonfinite": not_finite},
        from_sums=skipped_if_any,
    )


def trust_ratio(hyper, sums, carried):
    coefficient, eps = hyper
    param_norm, update_norm = math.sqrt(sums[0]), math.sqrt(sums[1])
    if param_norm == 0.0 or update_norm == 0.0:
        return (1.0,), carried
    return (coefficient * param_norm / (update_norm + eps),), carried


@factory
def scale_by_trust_ratio(coefficient: Setting = 1.0, eps: Setting = 0.0) -> Transform:
    """Scale the update of each array to the size of its parameter.

    ``u = coefficient * |w| / (|u| + eps) * u`` with the Euclidean norms of the array, where neither is
    zero; else ``u`` stays. In `LAMB` it follows Adam and weight decay, in LARS the gradient with
    weight decay.

    Parameters
    ----------
    coefficient : float or schedule
        > 0.
    eps : float or schedule
        >= 0.

    References
    ----------
    Y. You, I. Gitman, B. Ginsburg, "Large batch training of convolutional networks",
    arXiv:1708.03888; Y. You and others, "Large batch optimization for deep learning: training BERT in
    76 minutes", arXiv:1904.00962.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([3.0, 4.0])
    >>> parts = t.scale_by_trust_ratio(), t.scale_by_learning_rate(0.1)
    >>> fastopt.Optimizer(w, fastopt.chain(*parts)).step(np.array([0.0, 100.0]))
    >>> w
    array([3. , 3.5])
    """
    coefficient, eps = positive("coefficient", coefficient), nonnegative("eps", eps)
    return Transform(
        scale_update,
        hyper=per_step(lambda c, e: (c, e), coefficient, eps),
        settings={"coefficient": (positive, coefficient), "eps": (nonnegative, eps)},
        sums={"param": param_square, "update": update_square},
        from_sums=trust_ratio,
        per_array=True,
    )


def clipped_to_param(hyper, sums, carried):
    clipping, eps = hyper
    most = clipping * max(math.sqrt(sums[0]), eps)
    size = math.sqrt(sums[1])
    return (most / size if size > most else 1.0,), carried


@factory
def adaptive_grad_clip(clipping: Setting = 0.01, eps: Setting = 1e-3) -> Transform:
    """Limit the norm of each array's update by that of its parameter.

    ``u = clipping * max(|w|, eps) / |u| * u`` where ``|u| > clipping * max(|w|, eps)``. The paper has
    the norms of rows; here they are of whole arrays.

    Parameters
    ----------
    clipping : float or schedule
        > 0.
    eps : float or schedule
        > 0: what a smaller norm of the parameter counts as, so that zeros can learn.

    References
    ----------
    A. Brock and others, "High-performance large-scale image recognition without normalization",
    arXiv:2102.06171, equation 3.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([3.0, 4.0])
    >>> fastopt.Optimizer(w, t.adaptive_grad_clip(0.1)).step(np.array([0.0, 100.0]))
    >>> w
    array([3. , 3.5])
    """
    clipping, eps = positive("clipping", clipping), positive("eps", eps)
    return Transform(
        scale_update,
        hyper=per_step(lambda c, e: (c, e), clipping, eps),
        settings={"clipping": (positive, clipping), "eps": (positive, eps)},
        sums={"param": param_square, "update": update_square},
        from_sums=clipped_to_param,
        per_array=True,
    )
