"""One table of cases that drives all generic tests: a new optimizer is a few new rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import fastopt
from tests import oracles


@dataclass(frozen=True)
class Case:
    """An optimizer with settings, what is assigned before which step, and the oracle for it."""

    name: str
    optimizer: Callable[..., Any]
    oracle: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    assigned: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    def __str__(self):
        return self.name

    def make(self, params, **means):
        return self.optimizer(params, **self.settings, **means)

    def run(self, params, grads, **means):
        """The optimizer after one step for each of the gradients."""
        opt = self.make(params, **means)
        for g in grads:
            self.step(opt, g)
        return opt

    def step(self, opt, g):
        for name, value in self.assigned.get(opt.step_count, {}).items():
            setattr(opt, name, value)
        opt.step(g)

    def expected(self, w, grads):
        """Parameter and states after these steps, by the oracle."""
        state = {}
        for t, g in enumerate(grads):
            w, state = self.expected_step(w, g, state, t)
        return w, state

    def expected_step(self, w, g, state, t):
        settings = dict(self.settings)
        for step, values in self.assigned.items():
            settings |= values if step <= t else {}
        numbers = {name: value(t) if callable(value) else value for name, value in settings.items()}
        with np.errstate(all="ignore"):
            return self.oracle(w, g, state, t, **numbers)


FALLING = {"lr": lambda t: 0.05 / (1 + t), "maximize": True, "clip_value": 30.0}
EVERYTHING_OF_ADAM = FALLING | {"beta1": 0.8, "beta2": 0.7, "eps": 1e-3, "eps_inside_sqrt": True}

# Every setting of RMSProp away from its default; the rows below add weight decay to each.
RMSPROP = {
    "plain": {},
    "rates": {"lr": 0.03, "beta": 0.7, "eps": 1e-2},
    "beta_zero": {"lr": 0.03, "beta": 0.0},
    "eps_outside": {"lr": 0.03, "eps": 1e-2, "eps_inside_sqrt": False},
    "bias_correction": {"lr": 0.03, "bias_correction": True},
    "initial_accumulator": {"lr": 0.03, "initial_accumulator": 0.5},
    "centered": {"lr": 0.03, "centered": True, "eps": 1e-3},
    "centered_corrected": {"centered": True, "bias_correction": True, "eps": 1e-3},
    "centered_eps_outside": {"centered": True, "eps": 1e-2, "eps_inside_sqrt": False},
    "momentum": {"lr": 0.03, "momentum": 0.8},
    "nesterov": {"lr": 0.03, "momentum": 0.8, "nesterov": True},
    "lr_in_momentum": {"lr": lambda t: 0.05 / (1 + t), "momentum": 0.8, "lr_in_momentum": True},
    "maximize": {"lr": 0.03, "maximize": True},
    "clip_value": {"lr": 0.03, "clip_value": 0.7},
    "scheduled": {
        "lr": lambda t: 0.05 / (1 + t),
        "beta": lambda t: 1 - 0.5 / (1 + t),
        "eps": lambda t: 10.0 ** -(t + 2),
        "momentum": lambda t: t / (1 + t),
        "clip_value": lambda t: 2.0 - 0.5 * t,
    },
    "everything": {
        "lr": lambda t: 0.05 / (1 + t),
        "beta": 0.8,
        "eps": 1e-3,
        "eps_inside_sqrt": False,
        "centered": True,
        "momentum": 0.7,
        "nesterov": True,
        "lr_in_momentum": True,
        "bias_correction": True,
        "initial_accumulator": 0.1,
        "maximize": True,
        "clip_value": 30.0,
    },
}

# The same for those that it grew from and into.
SGD = {
    "plain": {"lr": 0.03},
    "momentum": {"lr": 3e-4, "momentum": 0.8},
    "average": {"lr": 3e-3, "momentum": 0.8, "dampening": 0.8},
    "nesterov": {"lr": 3e-4, "momentum": 0.8, "dampening": 0.3, "nesterov": True},
    "scheduled": {
        "lr": lambda t: 0.005 / (1 + t),
        "momentum": lambda t: t / (1 + t),
        "dampening": lambda t: 0.5 / (1 + t),
    },
    "everything": {
        "lr": lambda t: 0.005 / (1 + t),
        "momentum": 0.7,
        "dampening": 0.4,
        "nesterov": True,
        "lr_in_momentum": True,
        "maximize": True,
        "clip_value": 30.0,
    },
}

ADAGRAD = {
    "plain": {},
    "rates": {"lr": 0.03, "eps": 1e-2, "initial_accumulator": 0.5},
    "lr_decay": {"lr": 0.03, "lr_decay": 0.3},
    "guard_zero": {"lr": 0.03, "eps": 0.0, "guard_zero": True},
    "scheduled": {"lr": lambda t: 0.05 / (1 + t), "lr_decay": lambda t: t, "eps": lambda t: 0.1**t},
    "everything": {
        "lr": lambda t: 0.05 / (1 + t),
        "eps": 1e-3,
        "eps_inside_sqrt": False,
        "lr_decay": 0.2,
        "initial_accumulator": 0.1,
        "maximize": True,
        "clip_value": 30.0,
    },
}

ADAM = {
    "plain": {},
    "rates": {"lr": 0.03, "beta1": 0.7, "beta2": 0.8, "eps": 1e-2},
    "beta_zero": {"lr": 0.03, "beta1": 0.0, "beta2": 0.0},
    "uncorrected": {"lr": 0.03, "bias_correction": False},
    "amsgrad": {"lr": 0.03, "beta2": 0.6, "amsgrad": True},
    "scheduled": {
        "lr": lambda t: 0.05 / (1 + t),
        "beta1": lambda t: 0.9 - 0.5 / (1 + t),
        "beta2": lambda t: 1 - 0.5 / (1 + t),
        "eps": lambda t: 0.1 / (1 + t),
    },
    "everything": EVERYTHING_OF_ADAM | {"amsgrad": True},
}

NADAM = {
    "plain": {},
    "keras": {"lr": 0.03, "beta1": 0.8, "beta2": 0.7, "momentum_decay": 1.0},
    "constant": {"lr": 0.03, "beta2": 0.8, "eps": 1e-2, "momentum_decay": None},
    "everything": EVERYTHING_OF_ADAM | {"momentum_decay": 0.1},
}

LION = FALLING | {"beta1": 0.7, "beta2": 0.8}
ADAMAX = FALLING | {"beta1": 0.8, "beta2": 0.7, "eps": 1e-3, "eps_inside_max": False}
ADADELTA = FALLING | {"rho": 0.7, "eps": 1e-3}
RADAM = FALLING | {"beta1": 0.8, "beta2": 0.97, "eps": 1e-3, "threshold": 4.0, "eps_inside_sqrt": True}
ADABELIEF = FALLING | {"beta1": 0.8, "beta2": 0.7, "eps": 1e-3, "eps_root": 1e-2}
YOGI = FALLING | {
    "beta1": 0.8,
    "beta2": 0.7,
    "eps": 1e-2,
    "bias_correction": False,
    "initial_accumulator": 0.5,
    "initial_average": 0.25,
}
QHADAM = FALLING | {"beta1": 0.8, "beta2": 0.7, "eps": 1e-3, "nu1": 0.6, "nu2": 0.8}
ADEMAMIX = FALLING | {
    "beta1": 0.8,
    "beta2": 0.7,
    "eps": 1e-3,
    "beta3": 0.95,
    "alpha": 3.0,
    "warmup_steps": 3,
}
ADAN = FALLING | {
    "beta1": 0.8,
    "beta2": 0.7,
    "beta3": 0.6,
    "eps": 1e-3,
    "eps_root": 1e-2,
    "look_ahead": 0.4,
    "bias_correction": False,
    "proximal": True,
}
RPROP = {
    "lr": 0.05,
    "maximize": True,
    "clip_value": 30.0,
    "eta_minus": 0.3,
    "eta_plus": 2.0,
    "step_size_min": 0.02,
    "step_size_max": 0.08,
}
ASGD = {"lr": lambda t: 1e-3 / (1 + t), "clip_value": 30.0, "lambd": 0.1, "alpha": 0.5, "t0": 0.5}

DECAY = {"weight_decay": 0.05}
COUPLED = {"weight_decay": 0.05, "decoupled_weight_decay": False}
DECOUPLED = {"weight_decay": 0.05, "decoupled_weight_decay": True}


def _rmsprop(name, settings, assigned=None):
    return Case(f"rmsprop-{name}", fastopt.RMSProp, oracles.rmsprop, settings, assigned or {})


def _family(optimizer, table, assigned):
    """The rows of an optimizer; the first and the last with both decays; and with assignments."""
    rows = dict(table)
    for name in (next(iter(table)), "everything"):
        rows |= {f"{name}-decay": table[name] | DECAY, f"{name}-decoupled": table[name] | DECOUPLED}
    kind = optimizer.__name__.lower()
    oracle = getattr(oracles, kind)
    cases = [Case(f"{kind}-{name}", optimizer, oracle, settings) for name, settings in rows.items()]
    last = rows["everything-decay"]
    return [*cases, Case(f"{kind}-all_assigned", optimizer, oracle, last, assigned)]


def _member(optimizer, everything, assigned):
    """Few rows of an optimizer, since each is compiled for two dtypes: as it is, with everything and
    assignments, and with decoupled decay if that is not simply what follows the step.
    """
    kind = optimizer.__name__.lower()
    oracle = getattr(oracles, kind)
    cases = [
        Case(f"{kind}-plain", optimizer, oracle),
        Case(f"{kind}-everything-decay", optimizer, oracle, everything | COUPLED, assigned),
    ]
    if optimizer in (fastopt.Lion, fastopt.Adan, fastopt.Rprop, fastopt.ASGD):
        cases.append(Case(f"{kind}-everything-decoupled", optimizer, oracle, everything | DECOUPLED))
    return cases


CASES = [
    *(_rmsprop(name, settings) for name, settings in RMSPROP.items()),
    *(_rmsprop(f"{name}-decay", settings | DECAY) for name, settings in RMSPROP.items()),
    *(
        _rmsprop(f"{name}-decoupled", RMSPROP[name] | DECOUPLED)
        for name in ("plain", "nesterov", "lr_in_momentum", "everything")
    ),
    _rmsprop("decay_scheduled", {"weight_decay": lambda t: 0.1 * t}),
    _rmsprop("decay_scheduled-lr_in_momentum", RMSPROP["lr_in_momentum"] | {
        "weight_decay": lambda t: 0.1 * t, "decoupled_weight_decay": True,
    }),
    _rmsprop("lr_assigned", RMSPROP["momentum"], {1: {"lr": 0.1}, 2: {"lr": 0.0}}),
    _rmsprop(
        "all_assigned",
        RMSPROP["momentum"] | DECAY | {"clip_value": 0.5},
        {
            1: {"lr": 0.1, "beta": 0.5, "eps": 0.1, "clip_value": 0.2},
            2: {"momentum": 0.3, "weight_decay": 0.2},
        },
    ),
    # A part that is switched off stays in place, at zero strength, and can be switched on again.
    _rmsprop("momentum_off", RMSPROP["momentum"], {1: {"momentum": 0.0}, 2: {"momentum": 0.5}}),
    _rmsprop("decay_off", DECAY, {1: {"weight_decay": 0.0}, 2: {"weight_decay": 0.1}}),
    *_family(fastopt.SGD, SGD, {
        1: {"lr": 0.01, "momentum": 0.5, "dampening": 0.1}, 2: {"clip_value": 0.2, "weight_decay": 0.2},
    }),
    *_family(fastopt.AdaGrad, ADAGRAD, {
        1: {"lr": 0.1, "eps": 0.1, "lr_decay": 0.5}, 2: {"clip_value": 0.2, "weight_decay": 0.2},
    }),
    *_family(fastopt.Adam, ADAM, {
        1: {"lr": 0.1, "beta1": 0.6}, 2: {"beta2": 0.5, "eps": 0.1, "weight_decay": 0.2},
    }),
    *_family(fastopt.NAdam, NADAM, {
        1: {"lr": 0.1, "beta2": 0.5}, 2: {"eps": 0.1, "weight_decay": 0.2, "clip_value": 0.2},
    }),
    Case("adamw-plain", fastopt.AdamW, oracles.adamw),
    Case("adamw-everything", fastopt.AdamW, oracles.adamw, ADAM["everything"] | DECAY),
    Case("adamw-coupled", fastopt.AdamW, oracles.adamw, COUPLED),
    *_member(fastopt.Lion, LION, {1: {"lr": 0.1, "beta1": 0.6}, 2: {"beta2": 0.5}}),
    *_member(fastopt.AdaMax, ADAMAX, {
        1: {"lr": 0.1, "beta1": 0.6}, 2: {"beta2": 0.5, "eps": 0.1, "weight_decay": 0.2},
    }),
    *_member(fastopt.AdaDelta, ADADELTA, {
        1: {"lr": 0.1}, 2: {"rho": 0.5, "eps": 0.1},
    }),
    *_member(fastopt.RAdam, RADAM, {
        1: {"lr": 0.1, "beta1": 0.6}, 2: {"beta2": 0.95, "eps": 0.1},
    }),
    *_member(fastopt.AdaBelief, ADABELIEF, {
        1: {"lr": 0.1, "beta1": 0.6}, 2: {"beta2": 0.5, "eps": 0.1, "eps_root": 0.2},
    }),
    *_member(fastopt.Yogi, YOGI, {
        1: {"lr": 0.1, "beta1": 0.6}, 2: {"beta2": 0.5, "eps": 0.1},
    }),
    *_member(fastopt.QHAdam, QHADAM, {
        1: {"lr": 0.1, "nu1": 0.4}, 2: {"beta2": 0.5, "eps": 0.1, "nu2": 0.9},
    }),
    *_member(fastopt.AdEMAMix, ADEMAMIX, {
        1: {"lr": 0.1, "beta3": 0.9}, 2: {"beta2": 0.5, "alpha": 2.0},
    }),
    *_member(fastopt.Adan, ADAN, {
        1: {"lr": 0.1, "look_ahead": 0.7}, 2: {"beta2": 0.5, "beta3": 0.9, "eps_root": 0.1},
    }),
    *_member(fastopt.Rprop, RPROP, {
        1: {"eta_plus": 1.5}, 2: {"eta_minus": 0.6, "step_size_min": 0.03, "step_size_max": 0.06},
    }),
    *_member(fastopt.ASGD, ASGD, {
        1: {"lr": 0.1, "lambd": 0.2}, 2: {"alpha": 0.7, "t0": 0.0},
    }),
]  # fmt: skip

BY_NAME = {case.name: case for case in CASES}


def every_case(cases=CASES):
    """Run a test with each case."""
    return pytest.mark.parametrize("case", cases, ids=str)


# Few, for tests that try many sizes or inputs: no state, all states, and all options.
SOME = [BY_NAME[f"rmsprop-{name}"] for name in ("plain", "nesterov-decay", "everything-decay")]

# One of each other kind, where RMSProp has been tried enough.
OTHERS = [BY_NAME[name] for name in ("sgd-plain", "adagrad-lr_decay", "adam-amsgrad", "nadam-plain")]

# Of each optimizer the settings farthest from its defaults, if there are any.
FULLEST = {case.optimizer: case.settings for case in CASES if "everything" in case.name}
