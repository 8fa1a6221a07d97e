"""Playing a case with fastopt: what it holds at every moment, in one way of running it."""

import contextlib
import copy
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from tests.fuzz import numbers
from tests.fuzz.numbers import DTYPES, array, setting
from tests.fuzz.recipes import kind_of
from tests.fuzz.stories import arrange, pick


class Memory:
    """Where arrays are put: at an offset into a buffer that is larger."""

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset

    def put(self, content: np.ndarray) -> Any:
        buffer = np.zeros(content.size + 2 * self._offset, content.dtype)
        array = buffer[self._offset : self._offset + content.size].reshape(content.shape)
        array[...] = content
        return array

    def get(self, array: Any) -> np.ndarray:
        return np.array(array)

    def fill(self, array: Any, content: np.ndarray) -> None:
        array[...] = content


class Player:
    """A case at work.

    Parameters
    ----------
    case : dict
    executor : str
        Or "fast": with ``fast=True``, whatever the executor.
    resumes : bool
        Where the case says so, go on with a copy that was saved, pickled or copied.
    place : Memory
    dense : bool
        Make the sparse gradients dense.
    looks : bool
        Note everything after each event; at the end anyway.
    """

    def __init__(
        self,
        case: dict[str, Any],
        executor: str = "serial",
        *,
        resumes: bool = False,
        place: Any = None,
        dense: bool = False,
        looks: bool = True,
    ) -> None:
        self.case, self.executor, self.resumes, self.dense = case, executor, resumes, dense
        self.recipe = case["recipe"]
        self.place = place or Memory(case["offset"])
        self.looks = looks
        dtype, seed = self.recipe["dtype"], case["seed"]
        start = [
            array((seed, "param", i), shape, dtype, case["mood"])
            for i, shape in enumerate(case["shapes"])
        ]
        self.bounds = [self._bound(side) for side in (0, 1)]
        self.grads: dict[int, Any] = {}
        self.has_stats = True  # of all arrays: a copy has none of those before
        self.adopt(self.make([self.place.put(w) for w in start], self._new_copies()))

    # Making it, and what belongs to it.

    def _bound(self, side: int) -> list[Any]:
        limit = (self.recipe["settings"].get("bounds") or (None, None))[side]
        if limit != "arrays":
            return [setting(limit)] * len(self.case["shapes"])
        middle, seed = (-0.5, 0.5)[side], self.case["seed"]
        limit = [
            array((seed, "bound", side, i), s, "float64") for i, s in enumerate(self.case["shapes"])
        ]
        dtype = DTYPES[self.recipe["dtype"]]
        return [self.place.put(np.array(middle + 0.1 * np.tanh(b)).astype(dtype)) for b in limit]

    def _new_copies(self) -> list[Any] | None:
        if "copy_dtype" not in self.recipe:
            return None
        dtype, seed = self.recipe["copy_dtype"], self.case["seed"]
        shapes = enumerate(self.case["shapes"])
        return [self.place.put(array((seed, "copy", i), s, dtype)) for i, s in shapes]

    def arrange(self, leaves: list[Any]) -> Any:
        return arrange(self.case["structure"], leaves)

    def pick(self, container: Any) -> list[Any]:
        return pick(self.case["structure"], len(self.case["shapes"]), container)

    def _with_arrays(self, copies: list[Any] | None) -> list[dict[str, Any]]:
        """Settings with arrays in them, for each group; or for all, if there are none."""
        settings: dict[str, Any] = {}
        if "bounds" in self.recipe["settings"]:
            sides = [self.arrange(b) if isinstance(b[0], np.ndarray) or _is_foreign(b[0]) else b[0]
                     for b in self.bounds]  # fmt: skip
            settings["bounds"] = tuple(sides)
        if copies is not None:
            settings["copy_to"] = self.arrange(copies)
        if not self.case["groups"]:
            return [settings]
        split = []
        for i in range(2):
            bounds = {k: tuple(b[i] if isinstance(b, list) else b for b in v)
                      for k, v in settings.items() if k == "bounds"}  # fmt: skip
            split.append(bounds | {k: v[i] for k, v in settings.items() if k == "copy_to"})
        return split

    def _where(self) -> dict[str, Any]:
        return {"fast": True} if self.executor == "fast" else {"executor": self.executor}

    def make(self, params: list[Any], copies: list[Any] | None, **others: Any) -> Any:
        """An optimizer of the case over these arrays."""
        settings = {k: setting(v) for k, v in self.recipe["settings"].items() if k != "bounds"}
        options = {k: setting(v) for k, v in self.recipe["options"].items()}
        container, extra = self.arrange(params), self._with_arrays(copies)
        if self.case["groups"]:
            container = [
                {"params": params, **{k: setting(v) for k, v in group.items()}, **extras}
                for params, group, extras in zip(container, self.case["groups"], extra, strict=True)
            ]
        else:
            settings |= extra[0]
        kind = kind_of(self.recipe)
        with self.guarded_arithmetic():
            return kind(container, **settings, **options, **self._where(), **others)

    def adopt(self, opt: Any) -> None:
        """Go on with this optimizer."""
        self.opt = opt
        self.params = self.pick(opt.params)
        self.copies = None
        if "copy_dtype" in self.recipe:
            groups = opt.groups if self.case["groups"] else [opt]
            targets = [group.copy_to for group in groups]
            self.copies = self.pick(targets if self.case["groups"] else targets[0])

    def guarded_arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        return np.errstate(all="raise") if self.case["strict"] else contextlib.nullcontext()

    # What happens.

    def play(self) -> Iterator[dict[str, Any]]:
        """What there is before the first event, and after each."""
        yield self.note() if self.looks else {}
        for index, event in enumerate(self.case["steps"]):
            kind, *arguments = event
            grads = None
            with self.guarded_arithmetic():
                if kind == "step":
                    grads, count = self.gradients(index, arguments[0]), self.opt.step_count
                    self.opt.step(self.arrange(grads), grad_scale=arguments[1])
                    was_taken = self.opt.step_count > count
                    self.has_stats |= was_taken and all(grad is not None for grad in grads)
                else:
                    self.has_stats &= kind != "resume"
                    getattr(self, f"_{kind}")(*arguments)
            is_last = index == len(self.case["steps"]) - 1
            if self.looks or is_last:
                yield self.note(grads)
            else:
                yield {}

    def trace(self) -> list[dict[str, Any]]:
        return list(self.play())

    def gradients(self, index: int, drawn: list[tuple[Any, ...]]) -> list[Any]:
        """The gradients of a step."""
        grads = []
        for i, (kind, *_) in enumerate(drawn):
            if kind == "none":
                grads.append(None)
                continue
            content = gradient(self.case, index, i)
            if isinstance(content, np.ndarray):
                grads.append(self._dense(i, content))
            elif self.dense:
                grads.append(self.place.put(to_dense(content, self.case["shapes"][i])))
            elif isinstance(content, tuple):
                grads.append((content[0], self.place.put(content[1])))
            else:
                grads.append(content)
        return grads

    def _dense(self, i: int, content: np.ndarray) -> Any:
        array = self.grads.get(i)
        if self.case["reuse"] and array is not None and array.dtype == content.dtype:
            self.place.fill(array, content)
        else:
            array = self.grads[i] = self.place.put(content)
        return array

    def _assign(self, group: int | None, name: str, value: float) -> None:
        try:
            setattr(self.opt if group is None else self.opt.groups[group], name, value)
        except ValueError as error:  # the values say whether it is so
            if group is not None or "every group has its own" not in str(error):
                raise

    def _look(self, what: str, seed: int) -> None:
        if what == "rows":
            rng = np.random.default_rng(seed)
            shapes = self.case["shapes"]
            self.opt.catch_up(self.arrange([rng.integers(0, s[0], 3) for s in shapes]))
        else:
            getattr(self.opt, what)

    def _resume(self, how: str) -> None:
        if how == "deepcopy":
            other = copy.deepcopy(self.opt)
        elif how == "pickle":
            other = pickle.loads(pickle.dumps(self.opt))
        else:
            self.opt.catch_up()
            copies = self.copies and [self.place.put(self.place.get(c)) for c in self.copies]
            other = self.make([self.place.put(self.place.get(w)) for w in self.params], copies)
            if how == "save":
                with tempfile.TemporaryDirectory() as folder:
                    self.opt.save(Path(folder) / "opt.npz")
                    other.load(Path(folder) / "opt.npz")
            else:
                other.load_state_dict(copy.deepcopy(self.opt.state_dict()))
        if self.resumes:
            self.adopt(other)

    def note(self, grads: list[Any] | None = None) -> dict[str, Any]:
        """Everything, as copies."""
        get, state = self.place.get, self.opt.state
        decodes = self.recipe["options"].get("state_dtype") == "8bit"
        return {
            "params": [get(w) for w in self.pick(self.opt.params)],
            "states": {name: [get(s) for s in self.pick(states)] for name, states in state.items()},
            "decoded": {
                name: [get(s) for s in self.pick(self.opt.decoded(name))] for name in state if decodes
            },
            "copies": [get(c) for c in self.copies or ()],
            "grads": [_content(g, get) for g in grads or ()],
            "last": None if grads is None else self.opt.last,  # of a step, and no part of a checkpoint
            "stats": repr(self.opt.read_stats()) if grads is not None and self.has_stats else None,
            "count": self.opt.step_count,
        }


def _is_foreign(array: Any) -> bool:
    return hasattr(array, "__cuda_array_interface__")


def _content(grad: Any, get: Any) -> np.ndarray | None:
    if grad is None:
        return None
    if isinstance(grad, tuple):
        return get(grad[1])
    return grad.toarray() if scipy.sparse.issparse(grad) else get(grad)


def gradient(case: dict[str, Any], index: int, i: int) -> Any:
    """What array `i` gets in an event: an array, a pair (rows, values) or an array of SciPy."""
    kind, *how = case["steps"][index][1][i]
    if kind == "none":
        return None
    shape, seed = case["shapes"][i], (case["seed"], "grad", index, i)
    if kind == "dense":
        return array(seed, shape, *how)
    dtype, mood, touched = how
    rows = np.random.default_rng(numbers.choose(seed).randrange(2**32)).integers(0, shape[0], touched)
    if kind == "pair":
        return rows, array(seed, (touched, *shape[1:]), dtype, mood)
    columns = np.random.default_rng(touched).integers(0, shape[1], touched)
    with np.errstate(all="ignore"):
        values = array(seed, (touched,), dtype, mood)
        whole = scipy.sparse.coo_array((values, (rows, columns)), shape=shape)
        whole.sum_duplicates()
        return whole.asformat(kind)


def to_dense(grad: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The same with zeros in the other rows; duplicates summed from left to right."""
    if not isinstance(grad, tuple):
        return np.ascontiguousarray(grad.toarray())
    rows, values = grad
    wide = np.float64 if values.dtype == np.float64 else np.float32
    whole, seen = np.zeros(shape, wide), set()
    with np.errstate(all="ignore"):
        for row, value in zip(rows.tolist(), values.astype(wide), strict=True):
            whole[row] = whole[row] + value if row in seen else value
            seen.add(row)
    return whole


def touched_rows(grad: Any) -> np.ndarray:
    """Which rows a sparse gradient has."""
    if isinstance(grad, tuple):
        return np.unique(grad[0])
    return np.unique(grad.tocoo().row)
