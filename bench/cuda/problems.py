"""What is stepped on a GPU: optimizers, formats, and the bytes that a step must move."""

from __future__ import annotations

from typing import Any, NamedTuple

LR, BETA, EPS = 1e-3, 0.9, 1e-8
RMSPROP = {"lr": LR, "beta": BETA, "eps": EPS, "eps_inside_sqrt": False}
ADAM = {"lr": LR}
EVERYTHING = RMSPROP | {"centered": True, "momentum": 0.9, "weight_decay": 1e-2}

# Bytes of a state in blocks of 256 codes with a scale: read and written.
EIGHT_BITS = 2 * 260 / 256


class Problem(NamedTuple):
    """A step of one optimizer over one buffer.

    Attributes
    ----------
    name : str
        As reports have it.
    kind : str
        The class in fastopt; torch's is found by it.
    settings : dict
        Of fastopt's class.
    dtype : str
        Of parameter and gradient.
    state_dtype : str or None
    states : int
    """

    name: str
    kind: str
    settings: dict[str, Any]
    states: int
    dtype: str = "float32"
    state_dtype: str | None = None

    @property
    def bytes(self) -> float:
        """What a step reads and writes, an element."""
        size = 2 if self.dtype in ("float16", "bfloat16") else 4
        state = EIGHT_BITS if self.state_dtype == "8bit" else 2 * size
        return 3 * size + self.states * state


SGD = {"lr": LR, "momentum": 0.9}
RMS = Problem("RMSProp", "RMSProp", RMSPROP, 1)
CORE = [
    RMS,
    Problem("RMSProp, centered, momentum, decay", "RMSProp", EVERYTHING, 3),
    Problem("Adam", "Adam", ADAM, 2),
    Problem("SGD, momentum", "SGD", SGD, 1),
    Problem("AdaGrad", "AdaGrad", {"lr": LR}, 1),
]
CODECS = [
    Problem("RMSProp, bfloat16", "RMSProp", RMSPROP, 1, "bfloat16"),
    Problem("RMSProp, float16", "RMSProp", RMSPROP, 1, "float16"),
    Problem("RMSProp, 8-bit state", "RMSProp", RMSPROP, 1, "float32", "8bit"),
    Problem("RMSProp, bfloat16, 8-bit state", "RMSProp", RMSPROP, 1, "bfloat16", "8bit"),
    Problem("Adam, 8-bit states", "Adam", ADAM, 2, "float32", "8bit"),
    Problem("Adam, bfloat16, 8-bit states", "Adam", ADAM, 2, "bfloat16", "8bit"),
]
