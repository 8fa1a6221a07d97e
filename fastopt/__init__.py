"""fastopt: optimizers that update large flat buffers in place, at the speed of memory.

>>> import numpy as np, fastopt
>>> w = np.array([5.0])
>>> opt = fastopt.RMSProp(w, lr=0.1)
>>> opt.step(2 * w)
>>> w
array([4.68377223])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import fastopt.executors.threads as _threads  # noqa: F401  # to notice every fork from here on

if TYPE_CHECKING:
    from fastopt import schedules, transforms
    from fastopt.executors.cpu.allocate import empty, flatten
    from fastopt.executors.global_norm import global_norm
    from fastopt.executors.threads import get_num_threads, set_num_threads, threads
    from fastopt.minimization.minimize import minimize
    from fastopt.optimizers.adagrad import AdaGrad
    from fastopt.optimizers.adam import Adam, AdamW, NAdam
    from fastopt.optimizers.one_shot import (
        adagrad_step,
        adam_step,
        adamw_step,
        nadam_step,
        rmsprop_step,
        sgd_step,
    )
    from fastopt.optimizers.optimizer import Optimizer
    from fastopt.optimizers.rmsprop import RMSProp
    from fastopt.optimizers.sgd import SGD
    from fastopt.transforms import Chain, Transform, chain

__version__ = "0.1.0"

# Names are imported when they are first used: `import fastopt` is quick and loads no Numba.
_HOMES = {
    "AdaGrad": "fastopt.optimizers.adagrad",
    "Adam": "fastopt.optimizers.adam",
    "AdamW": "fastopt.optimizers.adam",
    "Chain": "fastopt.transforms",
    "NAdam": "fastopt.optimizers.adam",
    "Optimizer": "fastopt.optimizers.optimizer",
    "RMSProp": "fastopt.optimizers.rmsprop",
    "SGD": "fastopt.optimizers.sgd",
    "Transform": "fastopt.transforms",
    "adagrad_step": "fastopt.optimizers.one_shot",
    "adam_step": "fastopt.optimizers.one_shot",
    "adamw_step": "fastopt.optimizers.one_shot",
    "chain": "fastopt.transforms",
    "empty": "fastopt.executors.cpu.allocate",
    "flatten": "fastopt.executors.cpu.allocate",
    "get_num_threads": "fastopt.executors.threads",
    "global_norm": "fastopt.executors.global_norm",
    "minimize": "fastopt.minimization.minimize",
    "nadam_step": "fastopt.optimizers.one_shot",
    "rmsprop_step": "fastopt.optimizers.one_shot",
    "schedules": "",
    "set_num_threads": "fastopt.executors.threads",
    "sgd_step": "fastopt.optimizers.one_shot",
    "threads": "fastopt.executors.threads",
    "transforms": "",
}

__all__ = [
    "AdaGrad",
    "Adam",
    "AdamW",
    "Chain",
    "NAdam",
    "Optimizer",
    "RMSProp",
    "SGD",
    "Transform",
    "adagrad_step",
    "adam_step",
    "adamw_step",
    "chain",
    "empty",
    "flatten",
    "get_num_threads",
    "global_norm",
    "minimize",
    "nadam_step",
    "rmsprop_step",
    "schedules",
    "set_num_threads",
    "sgd_step",
    "threads",
    "transforms",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastopt' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(home), name) if home else import_module(f"fastopt.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
