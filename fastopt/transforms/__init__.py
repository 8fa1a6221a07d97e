"""The building blocks of optimizers: scalar functions and what they need to remember."""

from fastopt.transforms.base import Chain, Transform, chain
from fastopt.transforms.decay import add_decayed_weights
from fastopt.transforms.momentum import trace
from fastopt.transforms.rms import scale_by_rms, scale_by_stddev
from fastopt.transforms.scaling import clip_by_value, scale, scale_by_learning_rate

__all__ = [
    "Chain",
    "Transform",
    "add_decayed_weights",
    "chain",
    "clip_by_value",
    "scale",
    "scale_by_learning_rate",
    "scale_by_rms",
    "scale_by_stddev",
    "trace",
]
