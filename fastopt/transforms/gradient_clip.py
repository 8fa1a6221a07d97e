"""What `clip_norm` and `skip_nonfinite` put in front of a chain: a factor from all gradients' norm.

It is a transform with sums of the gradients as they come. What it multiplies by is merged with
``1 / grad_scale``, so that the gradient is multiplied once.
"""

from __future__ import annotations

import math
import sys

from fastopt.transforms.base import Part
from fastopt.transforms.scaling import scale_update
from fastopt.transforms.sums import FromSums, Sums

# Only squares of float64 overflow or vanish: a sum below SMALL may have lost bits, or all of them. Then
# the elements are multiplied by a power of two first.
SMALL, UP, DOWN = 2.0**-960, 2.0**600, 2.0**-550
LARGEST = sys.float_info.max
NAN = math.nan


def square(update, param, state, hyper):
    return update * update if abs(update) <= LARGEST else 0.0


def square_down(update, param, state, hyper):
    update = DOWN * update
    return update * update if abs(update) <= LARGEST else 0.0


def square_up(update, param, state, hyper):
    scaled = UP * update
    return scaled * scaled if abs(update) <= LARGEST else NAN


def square_of_any(update, param, state, hyper):
    return update * update


def nan_if_not_finite(update, param, state, hyper):
    return 0.0 if abs(update) <= LARGEST else NAN


WIDE = {"squares": square, "squares_down": square_down, "squares_up": square_up}
NARROW = {"squares": square, "nan": nan_if_not_finite}


def norm_of_finite(squares, down, up):
    """The norm of the finite elements.

    From the sum of their squares, and where it overflows or vanishes, of those times DOWN or UP. The
    last one is NaN if an element is not finite.
    """
    if not squares <= LARGEST:
        return math.sqrt(down) / DOWN
    if squares < SMALL and up == up:
        return math.sqrt(up) / UP
    return math.sqrt(squares)


def clipped(hyper, sums, carried):
    factor, limit = hyper
    size = norm_of_finite(sums[0], sums[1], sums[2]) * factor
    if size > limit:
        factor = factor * limit / size
    return (factor,), (size if sums[2] == sums[2] else NAN,)


def clipped_or_skipped(hyper, sums, carried):
    decided, norm = clipped(hyper, sums, carried)
    return decided, norm, sums[2] != sums[2]


def narrow_clipped(hyper, sums, carried):
    return clipped(hyper, (sums[0], 0.0, sums[1]), carried)


def narrow_clipped_or_skipped(hyper, sums, carried):
    return clipped_or_skipped(hyper, (sums[0], 0.0, sums[1]), carried)


def gradient_clip(*, skips: bool, wide: bool = True) -> Part:
    """The transform, as compiled code needs it; its sums are those of `summing`.

    ``from_sums`` gets ``1 / grad_scale`` and the limit of the norm, and carries the norm on, NaN where
    not all elements are finite, for `Optimizer.last`. With `skips` a step is then skipped.
    """
    if wide:
        from_sums = clipped_or_skipped if skips else clipped
    else:
        from_sums = narrow_clipped_or_skipped if skips else narrow_clipped
    return _part(_sums(wide, from_sums, 2, skips))


def summing(*, wide: bool) -> Part:
    """The transform for kernels that only add up its sums, which get no hyperparameters.

    Only `wide` gradients, those of float64, have squares that overflow and vanish.
    """
    return _part(_sums(wide, clipped if wide else narrow_clipped, 0))


def _sums(wide: bool, from_sums: FromSums, from_host: int, skips: bool = False) -> Sums:
    summands = WIDE if wide else NARROW
    columns = tuple(summands), tuple(summands.values())
    return Sums(*columns, from_sums, from_host, (0.0,), per_array=False, skips=skips)


def _part(sums: Sums) -> Part:
    return Part(scale_update, (), 1, False, sums)


# For kernels in memory, which add up the squares alone: finite and not too small, they tell that the
# other sums are not needed. Else these are computed in NumPy (`executors.norm.clip_sums`).
SQUARES = _part(Sums(("squares",), (square_of_any,), clipped, 0, (0.0,), per_array=False))
