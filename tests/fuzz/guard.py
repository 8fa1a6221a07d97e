"""Buffers between pages that nobody may touch: one byte beside them, read or written, is a crash."""

import ctypes
import mmap
from typing import Any

import numpy as np
import scipy.sparse

from tests.fuzz import numbers, stories
from tests.fuzz.compare import assert_same_trace
from tests.fuzz.play import Player
from tests.fuzz.steps import ways

_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE


def forbid(address: int, size: int) -> None:
    """Make pages inaccessible (PROT_NONE)."""
    if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), 0):
        raise OSError(ctypes.get_errno(), "mprotect")


class Guarded:
    """Puts each array next to a page that cannot be touched, in front of it or behind it."""

    def __init__(self, seed: Any) -> None:
        self._random = numbers.choose(seed, "guard")

    def put(self, content: np.ndarray) -> np.ndarray:
        array = self.empty(content.shape, content.dtype)
        array[...] = content
        return array

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        inner = -(-size // _PAGE) * _PAGE
        region = mmap.mmap(-1, inner + 2 * _PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(region))
        offset = _PAGE + (inner - size if self._random.random() < 0.7 else 0)
        # The array keeps the region, and the system takes it back with its forbidden pages.
        array = np.ndarray(shape, dtype, buffer=region, offset=offset)
        forbid(address, _PAGE)
        forbid(address + _PAGE + inner, _PAGE)
        return array

    def get(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def fill(self, array: np.ndarray, content: np.ndarray) -> None:
        array[...] = content


class GuardedPlayer(Player):
    """A case whose states are guarded too, and the arrays of CSR gradients."""

    def make(self, params: list[Any], copies: list[Any] | None, **others: Any) -> Any:
        like = super().make([np.array(w) for w in params], copies)
        states = {
            name: self.arrange([self.place.put(np.array(s)) for s in self.pick(states)])
            for name, states in like.state.items()
        }
        return super().make(params, copies, state=states)

    def gradients(self, index: int, drawn: list[tuple[Any, ...]]) -> list[Any]:
        return [self._guard(grad) for grad in super().gradients(index, drawn)]

    def _guard(self, grad: Any) -> Any:
        if not scipy.sparse.issparse(grad) or grad.format != "csr":
            return grad
        parts = [self.place.put(part) for part in (grad.data, grad.indices, grad.indptr)]
        return scipy.sparse.csr_array(tuple(parts), shape=grad.shape)


def draw(seed: int) -> dict[str, Any]:
    """Every other recipe with sparse gradients."""
    return stories.draw(seed, sparse=bool(seed // stories.SHARED % 2))


def try_case(case: dict[str, Any]) -> None:
    """Nothing outside is touched, and the results are those without guards."""
    base = Player(case).trace()
    for executor, resumes, _ in ways(case)[:2]:
        place = Guarded(case["seed"])
        trace = GuardedPlayer(case, executor, resumes=resumes, place=place).trace()
        assert_same_trace(trace, base, f"guarded, {executor}")
