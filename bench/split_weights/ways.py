"""The ways to keep weights that are compared, without torch, so that a report needs none."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Way(NamedTuple):
    """The dtype of a model and the settings of its optimizer.

    Attributes
    ----------
    dtype : str
        The name of torch's dtype of parameters and gradients.
    settings : mapping
        Arguments of fastopt's optimizers for torch.
    is_torch : bool
        Whether torch's own optimizer steps.
    in_backward : bool
        Whether steps are taken inside the backward pass.
    """

    dtype: str
    settings: Mapping[str, Any] = MappingProxyType({})
    is_torch: bool = False
    in_backward: bool = False


BITS_8 = {"state_dtype": "8bit"}
SPLIT_24 = Way("bfloat16", {**BITS_8, "master_bits": 24})

# The first is what the others are compared with.
QUALITY = {
    "float32": Way("float32"),
    "float32, 8-bit states": Way("float32", BITS_8),
    "split 32, 8-bit states": Way("bfloat16", {**BITS_8, "master_bits": 32}),
    "split 24, 8-bit states": SPLIT_24,
    "bfloat16, stochastic rounding, 8-bit states": Way(
        "bfloat16", {**BITS_8, "stochastic_rounding": True}
    ),
    "bfloat16, nearest rounding, 8-bit states": Way("bfloat16", BITS_8),
}
MEMORY = {
    "torch, float32": Way("float32", is_torch=True),
    "fastopt, float32": Way("float32"),
    "split 24, 8-bit states": SPLIT_24,
    "split 24, 8-bit states, step in backward": SPLIT_24._replace(in_backward=True),
}
