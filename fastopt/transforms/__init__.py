"""The building blocks of optimizers: scalar functions and their states."""

from fastopt.transforms.adadelta import scale_by_adadelta
from fastopt.transforms.adam import scale_by_adam, scale_by_nadam
from fastopt.transforms.adamax import scale_by_adamax
from fastopt.transforms.adan import scale_by_adan
from fastopt.transforms.ademamix import scale_by_ademamix
from fastopt.transforms.after import at_least, at_most, average_params, copy_params
from fastopt.transforms.asgd import average_evenly
from fastopt.transforms.automatic import follow_automatically
from fastopt.transforms.base import Chain, Transform, chain, factory
from fastopt.transforms.belief import scale_by_belief
from fastopt.transforms.decay import add_decayed_weights
from fastopt.transforms.dog import scale_by_dog
from fastopt.transforms.layerwise import (
    adaptive_grad_clip,
    clip_by_global_norm,
    scale_by_trust_ratio,
    skip_nonfinite,
)
from fastopt.transforms.momentum import trace
from fastopt.transforms.prodigy import scale_by_prodigy
from fastopt.transforms.qhadam import scale_by_qhadam
from fastopt.transforms.radam import scale_by_radam
from fastopt.transforms.rms import scale_by_rms, scale_by_stddev
from fastopt.transforms.rprop import step_by_rprop
from fastopt.transforms.rss import scale_by_rss
from fastopt.transforms.scaling import clip_by_value, scale, scale_by_learning_rate
from fastopt.transforms.schedule_free import schedule_free
from fastopt.transforms.sign import scale_by_lion
from fastopt.transforms.states import START_FROM_PARAM
from fastopt.transforms.yogi import scale_by_yogi

__all__ = [
    "START_FROM_PARAM",
    "Chain",
    "Transform",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "at_least",
    "at_most",
    "average_evenly",
    "average_params",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "copy_params",
    "factory",
    "follow_automatically",
    "scale",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_belief",
    "scale_by_dog",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_prodigy",
    "scale_by_nadam",
    "scale_by_qhadam",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "schedule_free",
    "skip_nonfinite",
    "step_by_rprop",
    "trace",
]
