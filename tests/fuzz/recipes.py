"""What is compiled: an optimizer with its settings, options and formats, from a seed.

Compiling takes longer than a hundred small runs, so many cases share a recipe.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

import fastopt
from fastopt import transforms as t
from tests.fuzz.numbers import at

# The ranges of each optimizer's own numbers: moderate, so that no run overflows by itself.
NUMBERS = {
    "SGD": {"lr": (1e-3, 3e-2)},
    "RMSProp": {"lr": (1e-3, 5e-2), "beta": (0.5, 0.95), "eps": (1e-6, 1e-2)},
    "AdaGrad": {"lr": (1e-3, 5e-2), "eps": (1e-6, 1e-2), "lr_decay": (0.0, 0.5)},
    "Adam": {"lr": (1e-3, 5e-2), "beta1": (0.5, 0.95), "beta2": (0.5, 0.99), "eps": (1e-6, 1e-2)},
    "NAdam": {"lr": (1e-3, 5e-2), "beta2": (0.5, 0.99), "eps": (1e-6, 1e-2)},
}
_AVERAGES = NUMBERS["AdamW"] = NUMBERS["Adam"]
NUMBERS |= {
    "Lion": {"lr": (1e-3, 5e-2), "beta1": (0.5, 0.95), "beta2": (0.5, 0.99)},
    "AdaMax": _AVERAGES,
    "AdaDelta": {"lr": (0.1, 1.0), "rho": (0.5, 0.95), "eps": (1e-6, 1e-2)},
    "RAdam": _AVERAGES | {"beta2": (0.9, 0.99)},
    "AdaBelief": _AVERAGES | {"eps_root": (1e-6, 1e-2)},
    "Yogi": _AVERAGES,
    "QHAdam": _AVERAGES | {"nu1": (0.1, 0.9), "nu2": (0.1, 0.9)},
    "AdEMAMix": _AVERAGES | {"beta3": (0.9, 0.999), "alpha": (1.0, 5.0)},
    "Adan": _AVERAGES | {"beta3": (0.5, 0.99), "eps_root": (1e-6, 1e-2), "look_ahead": (0.1, 0.9)},
    "Rprop": {"lr": (1e-3, 5e-2), "eta_minus": (0.2, 0.9), "eta_plus": (1.1, 2.0)},
    "ASGD": {"lr": (1e-3, 3e-2), "lambd": (1e-4, 0.1), "alpha": (0.3, 1.0), "t0": (0.0, 4.0)},
}

ELEMENTWISE = list(NUMBERS)
# Those whose rates depend on sums over all elements.
NUMBERS |= {
    "LARS": {"lr": (0.1, 1.0), "trust_coefficient": (0.01, 0.3), "eps": (1e-6, 1e-2)},
    "LAMB": _AVERAGES,
    "Prodigy": {
        "lr": (0.3, 1.0),
        "beta1": (0.5, 0.95),
        "beta2": (0.5, 0.99),
        "beta3": (0.5, 0.99),
        "d0": (1e-3, 1e-2),
        "d_coef": (0.5, 2.0),
        "growth_rate": (1.1, 3.0),
    },
    "DoG": {"lr": (0.3, 1.0), "reps_rel": (1e-3, 1e-2), "eps": (1e-6, 1e-2)},
    "AdaptivelyClipped": {"lr": (1e-3, 3e-2), "clipping": (0.05, 0.5)},
    "DampedByTheLast": {"lr": (1e-3, 3e-2), "strength": (0.1, 2.0)},
}
SUMMED = [name for name in NUMBERS if name not in ELEMENTWISE]
AUTOMATIC = [name for name in ELEMENTWISE if name not in ("Rprop", "ASGD")]  # take lr="auto"


class AdaptivelyClipped(fastopt.NamedOptimizer):
    """Momentum of gradients that are clipped by the norm of their parameter."""

    lr: fastopt.Number = fastopt.setting(default=1e-2)
    clipping: fastopt.Number = fastopt.setting(default=0.1)

    def make_parts(self) -> list[fastopt.Transform]:
        return [t.adaptive_grad_clip(self.clipping), t.trace(0.9), *self.decay_and_rate()]


def _damped(update, param, state, hyper):
    return hyper[0] * update, state


def _size(update, param, state, hyper):
    return abs(update) + hyper[0] * param * param


def _by_the_last(hyper, sums, carried):
    return (hyper[0] / (1.0 + sums[0]),), (0.5 * carried[0] + sums[0],)


class DampedByTheLast(fastopt.NamedOptimizer):
    """A rate for each array, or for all, by sums of the step before."""

    lr: fastopt.Number = fastopt.setting(default=1e-2)
    strength: fastopt.Number = fastopt.setting(default=0.5)
    layerwise: fastopt.Flag = fastopt.setting(default=False, kw_only=True)

    def make_parts(self) -> list[fastopt.Transform]:
        damped = fastopt.Transform(
            _damped,
            hyper=(lambda step: (at(self.strength, step),)),
            sums_after={"size": _size},
            from_sums=_by_the_last,
            carried={"sizes": 0.0},
            per_array=self.layerwise,
        )
        return [damped, t.trace(0.9), *self.decay_and_rate()]


def _calmed(update, param, state, hyper):
    factor, keep, mix = hyper
    return factor * update, (keep * state[0] + mix * abs(update),)


def _calmed_no_gradient(update, param, state, hyper):
    return update, (hyper[1] * state[0],)


def _square(update, param, state, hyper):
    return update * update / (1.0 + state[0])


def _absolute(update, param, state, hyper):
    return hyper[0] * abs(update)


def _calm(hyper, sums, carried):
    strength, mix = hyper
    last = 0.5 * carried[0] + sums[1]
    factor = 1.0 / (1.0 + strength * sums[0]) / (1.0 + 0.1 * last)
    return (factor, 1.0 - mix, mix), (last,)


class CalmedRows(fastopt.NamedOptimizer):
    """A rate by sums of this step and the last, to which rows without a gradient add nothing."""

    lr: fastopt.Number = fastopt.setting(default=1e-2)
    strength: fastopt.Number = fastopt.setting(default=0.5)
    layerwise: fastopt.Flag = fastopt.setting(default=False, kw_only=True)

    def make_parts(self) -> list[fastopt.Transform]:
        calmed = fastopt.Transform(
            _calmed,
            state={"size": 0.0},
            hyper=(lambda step: (at(self.strength, step), 0.25)),
            no_gradient=_calmed_no_gradient,
            sums={"squares": _square},
            sums_after={"sizes": _absolute},
            from_sums=_calm,
            carried={"sizes": 0.0},
            per_array=self.layerwise,
        )
        return [calmed, *self.decay_and_rate()]


NUMBERS["CalmedRows"] = {"lr": (1e-3, 3e-2), "strength": (0.1, 2.0)}


def kind_of(recipe: dict[str, Any]) -> Any:
    """The class of a recipe's optimizer."""
    name = recipe["optimizer"]
    return globals()[name] if name in globals() else getattr(fastopt, name)


FLAGS = {
    "Prodigy": ("bias_correction", "safeguard_warmup"),
    "DoG": ("layerwise",),
    "DampedByTheLast": ("layerwise",),
    "CalmedRows": ("layerwise",),
    "LARS": ("nesterov",),
    "RMSProp": ("centered", "bias_correction"),
    "Adam": ("amsgrad",),
    "AdamW": ("amsgrad",),
    "Adan": ("proximal",),
}
INSIDE = ("RMSProp", "AdaGrad", "Adam", "AdamW", "NAdam", "RAdam")  # have eps_inside_sqrt
FIXED = {"Rprop": ("lr",)}  # neither scheduled nor assigned

# What sparse="exact" takes, if need be with beta1=0.
SQUARES = ("Adam", "AdamW", "NAdam", "RAdam", "Yogi", "QHAdam")
CLOSED = ("SGD", "RMSProp", "AdaGrad", "AdaDelta", "CalmedRows", *SQUARES)


def number(rng: Random, low: float, high: float, schedules: bool = True) -> Any:
    """One between these, or a schedule that goes from one to the other."""
    value = round(low + (high - low) * rng.random(), 6)
    if schedules and rng.random() < 0.2:
        return rng.choice(["falling", "rising"]), low, value
    return value


def own_settings(rng: Random, optimizer: str) -> dict[str, Any]:
    """The optimizer's own settings; some stay at their defaults."""
    settings = {
        name: number(rng, *ends, schedules=name not in FIXED.get(optimizer, ()))
        for name, ends in NUMBERS[optimizer].items()
        if name == "lr" or rng.random() < 0.6
    }
    settings |= {name: True for name in FLAGS.get(optimizer, ()) if rng.random() < 0.4}
    if optimizer in ("SGD", "RMSProp") and rng.random() < 0.5:
        settings["momentum"] = number(rng, 0.3, 0.9)
        settings |= {name: True for name in ("nesterov", "lr_in_momentum") if rng.random() < 0.4}
        if optimizer == "SGD" and rng.random() < 0.5:
            settings["dampening"] = number(rng, 0.0, 0.9)
    if optimizer in ("RMSProp", "AdaGrad") and rng.random() < 0.4:
        settings["initial_accumulator"] = number(rng, 0.05, 0.5, schedules=False)
    if optimizer in INSIDE and rng.random() < 0.4:
        settings["eps_inside_sqrt"] = rng.random() < 0.5
    if optimizer == "NAdam":
        settings["momentum_decay"] = rng.choice([None, 0.004, 0.1, 1.0])
    return settings


def shared_settings(rng: Random, optimizer: str) -> dict[str, Any]:
    """Shared options that are part of the chain, with numbers or "arrays" for bounds."""
    options: dict[str, Any] = {}
    if rng.random() < 0.2:
        options["maximize"] = True
    if rng.random() < 0.25:
        options["clip_value"] = number(rng, 0.5, 2.0)
    if rng.random() < 0.4:
        options["weight_decay"] = number(rng, 0.01, 0.2)
        options["decoupled_weight_decay"] = rng.random() < 0.5
    if rng.random() < 0.25:
        low = rng.choice([None, -0.5, "arrays", ("falling", -1.0, -0.5)])
        high = rng.choice([0.5, "arrays", ("falling", 0.5, 1.0)])
        options["bounds"] = (low, high)
    if rng.random() < 0.25:
        options["average_decay"] = number(rng, 0.5, 0.95)
    return options


def means(rng: Random) -> dict[str, Any]:
    """Options that concern the step as a whole."""
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["clip_norm"] = number(rng, 0.3, 3.0)
    if rng.random() < 0.3:
        options["skip_nonfinite"] = True
    if rng.random() < 0.3:
        options["zero_grad"] = True
    return options


def draw(rng: Random, sparse: bool = False, optimizers: Sequence[str] = ELEMENTWISE) -> dict[str, Any]:
    """A recipe; with `sparse` one that takes gradients of some rows."""
    optimizer = rng.choice(optimizers)
    dtype = rng.choice(["float32", "float32", "float64", "float64", "float16", "bfloat16"])
    recipe: dict[str, Any] = {
        "optimizer": optimizer,
        "dtype": dtype,
        "grad_dtypes": [dtype],
        "settings": own_settings(rng, optimizer) | shared_settings(rng, optimizer),
        "options": means(rng),
        "scaled": rng.random() < 0.3,
        "fast": rng.random() < 0.1,  # also with fast=True
    }
    if dtype != "float64" and rng.random() < 0.3:
        recipe["grad_dtypes"].append(rng.choice(["float16", "bfloat16", "float32"]))
    if rng.random() < 0.25:
        formats = ["float32", "float64"] + ([] if dtype == "float64" else ["float16", "bfloat16"])
        recipe["copy_dtype"] = rng.choice(formats)
    if sparse:
        recipe["options"]["sparse"] = "lazy"
        if optimizer in CLOSED and rng.random() < 0.6:
            recipe["options"]["sparse"] = "exact"
            _give_closed_form(recipe, rng)
    elif dtype != "float64":
        if rng.random() < 0.4:
            recipe["options"]["state_dtype"] = rng.choice(["8bit", "bfloat16", "float32"])
        if rng.random() < 0.4:
            recipe["options"]["stochastic_rounding"] = rng.random() < 0.7
            recipe["options"]["seed"] = rng.randrange(2**32)
    return recipe


def add_statistics(recipe: dict[str, Any], rng: Random) -> None:
    """Ask for some of which rows without a gradient have none, as docs/sparse.md lists them."""
    names = ["grad_norm", "grad_mean", "grad_nonfinite"]
    if recipe["options"]["sparse"] == "lazy":
        names += ["update_rms", "update_mean"]
    names += ["clipped_share"] if "clip_value" in recipe["settings"] else []
    recipe["options"]["stats"] = rng.sample(names, rng.randint(1, len(names)))


def _give_closed_form(recipe: dict[str, Any], rng: Random) -> None:
    """Leave out what sparse="exact" refuses, as docs/sparse.md lists it."""
    settings, optimizer = recipe["settings"], recipe["optimizer"]
    if optimizer in SQUARES:
        settings["beta1"] = 0.0
        settings["weight_decay"] = 0.0
        settings.pop("decoupled_weight_decay", None)
    elif optimizer != "SGD" and "weight_decay" in settings:
        settings["decoupled_weight_decay"] = True
    moves = "momentum" in settings or settings.get("weight_decay")
    if "bounds" in settings:
        if moves:
            del settings["bounds"]
        else:
            settings["bounds"] = (rng.choice([None, -0.5]), 0.5)
    if settings.get("centered"):
        settings["eps"] = 10.0  # docs/sparse.md: not small against the averages' difference
