"""fastopt: optimizers that update large arrays in place, in one compiled pass.

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
from fastopt.optimizers.registry import MODULES as _MODULES
from fastopt.optimizers.registry import ONE_SHOT as _ONE_SHOT

if TYPE_CHECKING:
    from fastopt import schedules as schedules
    from fastopt import transforms as transforms
    from fastopt.executors.cpu.allocate import empty as empty
    from fastopt.executors.cpu.allocate import flatten as flatten
    from fastopt.executors.global_norm import global_norm as global_norm
    from fastopt.executors.threads import get_num_threads as get_num_threads
    from fastopt.executors.threads import set_num_threads as set_num_threads
    from fastopt.executors.threads import threads as threads
    from fastopt.minimization.minimize import minimize as minimize
    from fastopt.optimizers.adabelief import AdaBelief as AdaBelief
    from fastopt.optimizers.adadelta import AdaDelta as AdaDelta
    from fastopt.optimizers.adagrad import AdaGrad as AdaGrad
    from fastopt.optimizers.adam import Adam as Adam
    from fastopt.optimizers.adam import AdamW as AdamW
    from fastopt.optimizers.adam import NAdam as NAdam
    from fastopt.optimizers.adamax import AdaMax as AdaMax
    from fastopt.optimizers.adan import Adan as Adan
    from fastopt.optimizers.ademamix import AdEMAMix as AdEMAMix
    from fastopt.optimizers.asgd import ASGD as ASGD
    from fastopt.optimizers.automatic import auto as auto
    from fastopt.optimizers.dog import DoG as DoG
    from fastopt.optimizers.lamb import LAMB as LAMB
    from fastopt.optimizers.lars import LARS as LARS
    from fastopt.optimizers.lion import Lion as Lion
    from fastopt.optimizers.named import NamedOptimizer as NamedOptimizer
    from fastopt.optimizers.one_shot import OneShot as _OneShot
    from fastopt.optimizers.one_shot import one_shot as one_shot
    from fastopt.optimizers.optimizer import Optimizer as Optimizer
    from fastopt.optimizers.prodigy import Prodigy as Prodigy
    from fastopt.optimizers.qhadam import QHAdam as QHAdam
    from fastopt.optimizers.radam import RAdam as RAdam
    from fastopt.optimizers.rmsprop import RMSProp as RMSProp
    from fastopt.optimizers.rprop import Rprop as Rprop
    from fastopt.optimizers.settings import Flag as Flag
    from fastopt.optimizers.settings import Number as Number
    from fastopt.optimizers.settings import setting as setting
    from fastopt.optimizers.sgd import SGD as SGD
    from fastopt.optimizers.yogi import Yogi as Yogi
    from fastopt.steps.stats import Stats as Stats
    from fastopt.transforms import Chain as Chain
    from fastopt.transforms import Transform as Transform
    from fastopt.transforms import chain as chain

    adabelief_step: _OneShot
    adadelta_step: _OneShot
    adagrad_step: _OneShot
    adamax_step: _OneShot
    adan_step: _OneShot
    ademamix_step: _OneShot
    asgd_step: _OneShot
    lion_step: _OneShot
    qhadam_step: _OneShot
    radam_step: _OneShot
    rprop_step: _OneShot
    yogi_step: _OneShot
    adam_step: _OneShot
    adamw_step: _OneShot
    lamb_step: _OneShot
    lars_step: _OneShot
    nadam_step: _OneShot
    rmsprop_step: _OneShot
    sgd_step: _OneShot

__version__ = "0.1.0"

# Names are imported when they are first used: `import fastopt` is quick and loads no Numba.
_HOMES = {
    **_MODULES,
    **{f"{name}_step": "fastopt.optimizers.one_shot" for name in _ONE_SHOT},
    "Chain": "fastopt.transforms",
    "Flag": "fastopt.optimizers.settings",
    "NamedOptimizer": "fastopt.optimizers.named",
    "Number": "fastopt.optimizers.settings",
    "Optimizer": "fastopt.optimizers.optimizer",
    "Stats": "fastopt.steps.stats",
    "Transform": "fastopt.transforms",
    "auto": "fastopt.optimizers.automatic",
    "chain": "fastopt.transforms",
    "empty": "fastopt.executors.cpu.allocate",
    "flatten": "fastopt.executors.cpu.allocate",
    "get_num_threads": "fastopt.executors.threads",
    "global_norm": "fastopt.executors.global_norm",
    "minimize": "fastopt.minimization.minimize",
    "one_shot": "fastopt.optimizers.one_shot",
    "schedules": "",
    "set_num_threads": "fastopt.executors.threads",
    "setting": "fastopt.optimizers.settings",
    "threads": "fastopt.executors.threads",
    "transforms": "",
}

__all__ = sorted(_HOMES)

if not TYPE_CHECKING:  # so that a name that is not there is an error to type checkers too

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            from fastopt.optimizers.suggestions import suggestion

            raise AttributeError(
                f"module 'fastopt' has no attribute {name!r}{suggestion(name, __all__)}"
            )
        home = _HOMES[name]
        value = getattr(import_module(home), name) if home else import_module(f"fastopt.{name}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
