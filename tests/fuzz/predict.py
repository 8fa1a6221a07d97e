"""What a case must hold after each step, by the oracles: typed from the formulas, without the package.

Numbers of 32 and 64 bits must have the oracle's bits. What is stored in 16 bits must be the nearest
number to the oracle's, or with stochastic rounding one of its two neighbours. 8-bit codes have the
relative budget of `docs/codecs.md`. Each step is predicted from what was stored before it.
"""

import math
from typing import Any

import ml_dtypes
import numpy as np

from tests import oracle_parts, oracles
from tests.fuzz import numbers
from tests.fuzz.compare import assert_same
from tests.fuzz.play import gradient, to_dense, touched_rows
from tests.fuzz.recipes import ELEMENTWISE
from tests.fuzz.stories import arrange

ORACLES = {name: getattr(oracles, name.lower()) for name in ELEMENTWISE}


class Prediction:
    """Follows a trace of a case and compares every step of it."""

    def __init__(self, case: dict[str, Any], bounds: list[list[Any]]) -> None:
        self.case, self.recipe, self.bounds = case, case["recipe"], bounds
        self.options = dict(self.recipe["options"])
        self.compute = np.dtype(np.float64 if self.recipe["dtype"] == "float64" else np.float32)
        self.taken = [0] * len(case["shapes"])  # steps of each array
        self.count = 0
        groups = case["groups"] or [{}]
        self.settings = [dict(self.recipe["settings"]) for _ in groups]
        self.overrides = [dict(settings) for settings in groups]

    def group_of(self, i: int) -> int:
        if not self.case["groups"]:
            return 0
        first, _ = arrange("groups", list(range(len(self.case["shapes"]))))
        return 0 if i in first else 1

    def check(self, trace: list[dict[str, Any]]) -> None:
        """Compare each event of the trace with what it must do."""
        with np.errstate(all="ignore"):
            self._check(trace)

    def _check(self, trace: list[dict[str, Any]]) -> None:
        for index, event in enumerate(self.case["steps"]):
            previous, after = trace[index], trace[index + 1]
            if event[0] == "assign":
                self.assign(*event[1:])
            if event[0] == "step":
                self.check_step(index, event[2], previous, after)
            else:
                for name in ("params", "states", "copies"):
                    assert_same(after[name], previous[name], f"event {index} changed {name}")
            assert after["count"] == self.count, f"event {index}: step_count {after['count']}"

    def assign(self, group: int | None, name: str, value: float) -> None:
        if name == "clip_norm":
            self.options[name] = value
            return
        for i, settings in enumerate(self.overrides):
            if group == i:
                settings[name] = value
            elif group is None:
                self.settings[i][name] = value

    def check_step(self, index: int, scale: float, previous: Any, after: Any) -> None:
        grads = [gradient(self.case, index, i) for i in range(len(self.case["shapes"]))]
        dense = [
            g if g is None or isinstance(g, np.ndarray) else to_dense(g, shape)
            for g, shape in zip(grads, self.case["shapes"], strict=True)
        ]
        skipped, factors = self.look(dense, scale, after["last"])
        cleared = self.options.get("zero_grad", False) and not skipped
        for i, (grad, left) in enumerate(zip(grads, after["grads"], strict=True)):
            if grad is not None and isinstance(grad, (tuple, np.ndarray)):
                grad = grad[1] if isinstance(grad, tuple) else grad
                assert_same(left, np.zeros_like(grad) if cleared else grad, f"gradient {i}")
        if skipped:
            for name in ("params", "states", "copies"):
                assert_same(
                    after[name], previous[name], f"event {index}: a skipped step changed {name}"
                )
            return
        factors = [self.compute.type(f) for f in factors]
        self.check_any(factors, index, grads, dense, previous, after)
        self.count += 1
        self.taken = [n + (g is not None) for n, g in zip(self.taken, grads, strict=True)]

    def check_any(self, factors: list[Any], *step: Any) -> None:
        """The step is the one with one of these factors."""
        for factor in dict.fromkeys(factors):
            try:
                self.check_arrays(float(factor), *step)
            except AssertionError as error:
                difference = error
            else:
                return
        raise difference

    def check_arrays(
        self, factor: float, index: int, grads: list[Any], dense: list[Any], previous: Any, after: Any
    ) -> None:
        for i, g in enumerate(dense):
            what = f"event {index}, array {i}"
            if g is None:
                for name in ("params", "copies"):
                    assert_same(after[name][i : i + 1], previous[name][i : i + 1], f"{what}: {name}")
                continue
            is_dense = isinstance(grads[i], np.ndarray)
            rows = ... if is_dense else touched_rows(grads[i])
            self.check_array(i, rows, g, factor, previous, after, what)

    def look(self, dense: list[Any], scale: float, last: Any) -> tuple[bool, list[float]]:
        """Whether the step is left out, and what gradients may be multiplied by.

        That is one number, unless the norm is not told (it is NaN) and its last bits are open.
        """
        clip_norm = self.options.get("clip_norm")
        watches = clip_norm is not None or self.options.get("skip_nonfinite", False)
        assert (last is not None) == watches, f"last is {last}"
        factor = 1 / scale
        if not watches:
            return False, [factor]
        flat = [np.asarray(g, np.float64).ravel() for g in dense if g is not None]
        every = np.concatenate([np.zeros(0), *flat])
        finite = bool(np.isfinite(every).all())
        size = norm(every[np.isfinite(every)]) * factor
        skips = bool(self.options.get("skip_nonfinite", False)) and not finite
        assert last.skipped == skips, f"skipped is {last.skipped}"
        if finite:
            few = 1e-322 * max(1.0, factor)  # of the smallest numbers
            is_close = math.isclose(last.norm, size, rel_tol=1e-13, abs_tol=few)
            assert is_close, f"norm {last.norm}, not {size}"
            size = last.norm  # its last bits depend on the order of the sum
        else:
            assert math.isnan(last.norm), f"norm {last.norm} with numbers that are not finite"
        if clip_norm is None:
            return skips, [factor]
        limit = numbers.at(clip_norm, self.count)
        factor = factor * limit / size if size > limit else factor
        last_bits = [0] if finite or size <= limit else range(-16, 17)
        return skips, [factor + k * math.ulp(factor) for k in last_bits]

    def check_array(
        self, i: int, rows: Any, g: np.ndarray, factor: float, previous: Any, after: Any, what: str
    ) -> None:
        group = self.group_of(i)
        settings = {**self.settings[group], **self.overrides[group]}
        settings = {k: numbers.at(v, self.taken[i]) for k, v in settings.items()}
        settings["bounds"] = [
            self.bound(side[i], self.taken[i], rows, inwards)
            for side, inwards in zip(self.bounds, (np.inf, -np.inf), strict=True)
        ]
        stored = previous["decoded"] or previous["states"]
        w = np.asarray(previous["params"][i])[rows].astype(self.compute)
        states = {k: np.asarray(v[i])[rows].astype(self.compute) for k, v in stored.items()}
        if not self.taken[i] and all(
            states[i].dtype == self.compute for states in previous["states"].values()
        ):
            states = {}  # the oracle knows where states start; low-precision storage has rounded that
        with np.errstate(all="ignore"):
            oracle = ORACLES[self.recipe["optimizer"]]
            new, states = oracle_parts.whole_step(
                oracle, w, np.asarray(g)[rows].astype(self.compute), states, self.taken[i],
                factor=factor, **settings,
            )  # fmt: skip
        random = self.options.get("stochastic_rounding")
        self.compare(previous["params"][i], after["params"][i], rows, new, random, f"{what}: params")
        for copied, left in zip(previous["copies"][i : i + 1], after["copies"][i : i + 1], strict=True):
            self.compare(copied, left, rows, new, False, f"{what}: copy")
        for name in after["states"]:
            actual = after["states"][name][i]
            if actual.dtype.names:
                check_codes(after["decoded"][name][i], states[name], random, f"{what}: {name}")
                continue
            old = previous["states"][name][i]
            self.compare(old, actual, rows, states[name], random, f"{what}: {name}")

    def bound(self, side: Any, step: int, rows: Any, inwards: float) -> Any:
        if isinstance(side, np.ndarray):
            return side[rows].astype(self.compute)
        limit = side(step) if callable(side) else side
        dtype = numbers.DTYPES[self.recipe["dtype"]]
        return None if limit is None else oracle_parts.inside(dtype, limit, inwards)

    def compare(
        self, old: np.ndarray, actual: np.ndarray, rows: Any, new: Any, random: Any, what: str
    ) -> None:
        """The rows that were touched have the new numbers, as stored; the others the old ones."""
        expected = np.array(old)
        if random and actual.dtype.itemsize == 2:
            check_neighbours(np.asarray(actual)[rows], np.asarray(new), what)
            expected[rows] = actual[rows]
        else:
            with np.errstate(all="ignore"):
                expected[rows] = np.asarray(new).astype(actual.dtype)
        assert_same(actual, expected, what)


def norm(values: np.ndarray) -> float:
    """The root of the sum of squares, which neither overflow nor vanish."""
    largest = float(abs(values).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    with np.errstate(all="ignore"):
        return float(largest * np.sqrt(math.fsum((values / largest) ** 2)))


def check_neighbours(actual: np.ndarray, exact: np.ndarray, what: str) -> None:
    """Each number is the one that can be stored just below the exact one, or just above."""
    dtype = actual.dtype
    with np.errstate(all="ignore"):
        nearest = exact.astype(dtype)
        numbers_ = nearest.astype(exact.dtype)
        aim = np.where(numbers_ > exact, -np.inf, np.inf).astype(dtype)
        other = np.nextafter(nearest, aim)
        is_same = (actual == nearest) | (np.isnan(actual) & np.isnan(exact))
        good = is_same | ((actual == other) & (numbers_ != exact))
        # Beyond the largest number, an infinity is no nearer than that.
        good |= (abs(exact) > float(ml_dtypes.finfo(dtype).max)) & (np.sign(actual) == np.sign(exact))
    bad = np.argwhere(~np.atleast_1d(good))
    assert not bad.size, f"{what}: no neighbour of the exact number at {bad[:3].tolist()}"


def check_codes(actual: np.ndarray, exact: np.ndarray, random: Any, what: str) -> None:
    """Within 1/8 of the number (1/4 with stochastic rounding) and 5e-6 of the block's largest."""
    actual, exact = np.asarray(actual).reshape(-1), np.asarray(exact).reshape(-1).astype(np.float32)
    bad = np.isnan(actual) != np.isnan(exact)
    for start in range(0, exact.size, 256):
        wanted, other = exact[start : start + 256].astype(np.float64), actual[start : start + 256]
        finite = np.isfinite(wanted) & np.isfinite(other)
        largest = abs(wanted[finite]).max(initial=0.0)
        part = 0.126 if random is False else 0.251
        # A scale has its least value too: blocks of nothing but numbers below 1e-34 are zero.
        budget = part * abs(wanted) + 5e-6 * largest + 1e-34
        with np.errstate(all="ignore"):
            bad[start : start + 256] |= finite & (abs(wanted - other) > budget)
    places = np.flatnonzero(bad)[:3].tolist()
    assert not places, f"{what}: {actual[places]} for {exact[places]} at {places}"
