"""How far fast steps are from precise ones, in ULP."""

import numpy as np

import fastopt
from tests.cases import ADAM, RMSPROP

OPTIMIZERS = {
    "rmsprop": (fastopt.RMSProp, RMSPROP["rates"]),
    "rmsprop-outside": (fastopt.RMSProp, RMSPROP["eps_outside"]),
    "adagrad": (fastopt.AdaGrad, {"lr": 0.03}),
    "adagrad-outside": (fastopt.AdaGrad, {"lr": 0.03, "eps_inside_sqrt": False}),
    "adam": (fastopt.Adam, ADAM["rates"]),
}


def ulps(actual, expected):
    """The largest difference, in ULP of what is expected."""
    scale = np.spacing(np.maximum(np.abs(expected), np.finfo(np.float32).tiny).astype(np.float32))
    return float((np.abs(actual.astype(np.float64) - expected) / scale).max(initial=0))
