"""A whole optimizer phase, by fastopt and by NumPy: what the tests of shared options compare."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastopt
from tests import oracle_parts, oracles
from tests.support import assert_same_bits, problem

STEPS = 3
SHAPES = ((5, 7), (), (0,), (66,))
OWN = {"lr": 0.03, "momentum": 0.8}


@dataclass
class Phase:
    """Options and what comes in; gradients of several arrays, the same for every run.

    `bounds` may hold the word "arrays" in the place of either number.
    """

    dtype: Any
    options: dict[str, Any] = field(default_factory=dict)
    scales: tuple[float, ...] = (1.0,) * STEPS
    copy_dtype: Any = None
    spoiled: int | None = None  # the step at which a gradient is infinite

    def __post_init__(self):
        problems = [problem(shape, self.dtype, STEPS) for shape in SHAPES]
        self.start = [w for w, _ in problems]
        self.grads = [[grads[t].copy() for _, grads in problems] for t in range(STEPS)]
        if self.spoiled is not None:
            self.grads[self.spoiled][0][2, 3] = np.inf
        kinds = zip((-0.5, 0.5), self.options.get("bounds") or (None, None), strict=True)
        self.bounds = [self._bound(middle, kind) for middle, kind in kinds]

    def _bound(self, middle, kind):
        if not isinstance(kind, str):
            return [kind] * len(SHAPES)
        rng = np.random.default_rng(7)
        return [np.array(middle + 0.1 * rng.normal(size=shape), self.dtype) for shape in SHAPES]

    def run(self, executor):
        """The optimizer, its copy and the gradients after all steps, with the norms on the way."""
        options = dict(self.options)
        if "bounds" in options:
            pairs = zip(options["bounds"], self.bounds, strict=True)
            options["bounds"] = tuple(bound if isinstance(kind, str) else kind for kind, bound in pairs)
        copy = None
        if self.copy_dtype is not None:
            copy = options["copy_to"] = [np.full(s, np.nan, self.copy_dtype) for s in SHAPES]
        params = [w.copy() for w in self.start]
        grads = [[g.copy() for g in step] for step in self.grads]
        opt = fastopt.RMSProp(params, **OWN, **options, executor=executor)
        last = []
        for grad, scale in zip(grads, self.scales, strict=True):
            opt.step(grad, grad_scale=scale)
            last.append(opt.last)
        return Result(opt, copy, grads, last)

    def check(self, executor):
        """Run, and compare everything with NumPy."""
        result = self.run(executor)
        states, params, taken = [{} for _ in SHAPES], list(self.start), 0
        for t, (grads, scale) in enumerate(zip(self.grads, self.scales, strict=True)):
            skips, factor = self._look(grads, scale, result.last[t], taken)
            cleared = self.options.get("zero_grad", False) and not skips
            for grad, left in zip(grads, result.grads[t], strict=True):
                assert_same_bits(left, np.zeros_like(grad) if cleared else grad, "gradient")
            if skips:
                continue
            for i, g in enumerate(grads):
                params[i], states[i] = self._expected_step(i, params[i], g, states[i], taken, factor)
            taken += 1
        assert result.opt.step_count == taken
        for i, w in enumerate(params):
            assert_same_bits(result.opt.params[i], np.asarray(w), f"params[{i}]")
            for name, arrays in result.opt.state.items():
                assert_same_bits(arrays[i], np.asarray(states[i][name]), f"{name}[{i}]")
            if result.copy is not None:
                with np.errstate(all="ignore"):
                    expected = np.asarray(w).astype(self.copy_dtype)
                assert_same_bits(result.copy[i], expected, f"copy[{i}]")

    def _expected_step(self, i, w, g, state, t, factor):
        settings = OWN | {k: v for k, v in self.options.items() if k not in MEANS}
        settings["bounds"] = [side[i](t) if callable(side[i]) else side[i] for side in self.bounds]
        settings = {k: v(t) if callable(v) else v for k, v in settings.items()}
        with np.errstate(all="ignore"):
            return oracle_parts.whole_step(oracles.rmsprop, w, g, state, t, factor=factor, **settings)

    def _look(self, grads, scale, last, t):
        """Whether this step is left out, and what gradients are multiplied by."""
        clip_norm = self.options.get("clip_norm")
        watches = clip_norm is not None or self.options.get("skip_nonfinite", False)
        assert (last is not None) == watches
        factor = 1 / scale
        if not watches:
            return False, factor
        every = np.concatenate([g.astype(np.float64).reshape(-1) for g in grads])
        size = np.linalg.norm(every[np.isfinite(every)]) * factor
        finite = bool(np.isfinite(every).all())
        skips = self.options.get("skip_nonfinite", False) and not finite
        assert last.skipped == skips
        if finite:
            assert abs(last.norm - size) <= 1e-14 * size
            size = last.norm  # whose last bits depend on the order of the sum
        else:
            assert np.isnan(last.norm)
        if clip_norm is None:
            return skips, factor
        limit = clip_norm(t) if callable(clip_norm) else clip_norm
        return skips, factor * limit / size if size > limit else factor


MEANS = ("clip_norm", "skip_nonfinite", "zero_grad", "bounds")


@dataclass
class Result:
    opt: Any
    copy: Any
    grads: Any
    last: Any
