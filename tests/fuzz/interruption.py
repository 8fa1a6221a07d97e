"""An exception at every line: a step was taken and counted, or it was not, and the next one is right.

``python -m tests.fuzz.interruption SEED MOST`` raises at no more than so many lines of each action,
drawn by the seed, and writes how many there were, or how to see again what went wrong.
"""

import functools
import random
import sys

import ml_dtypes
import numpy as np

import fastopt
from fastopt.executors import threads
from fastopt.optimizers import checkpoint
from fastopt.steps.stepper import stepper_of
from tests.fuzz import recipes
from tests.lines import Lines
from tests.support import parameters_of

ERRORS = KeyboardInterrupt, MemoryError
# Small numbers with few bits: sums come out the same whenever rows catch up.
GRADS = [np.array([1.0, -0.5, 0.25, 2.0, -1.0, 0.5]) * scale for scale in (1.0, 0.5, -1.0, 0.25)]


def grad(number, shape, dtype=np.float32):
    return GRADS[number % len(GRADS)][: int(np.prod(shape))].reshape(shape).astype(dtype)


def step(*drawn, **options):
    """An action: a step with gradients of these numbers, or (number, dtype), None or rows."""

    def act(opt):
        leaves = parameters_of(opt).leaves
        grads = [
            g
            if g is None or (isinstance(g, tuple) and isinstance(g[0], list))
            else grad(g[0], p.shape, g[1])
            if isinstance(g, tuple)
            else grad(g, p.shape, p.dtype)
            for g, p in zip(drawn, leaves, strict=True)
        ]
        grads = [rows(g, p) if isinstance(g, tuple) else g for g, p in zip(grads, leaves, strict=True)]
        opt.step(grads if isinstance(opt.params, list) else grads[0], **options)

    return act


def rows(description, param):
    which, number = description
    values = grad(number, (1, *param.shape[1:]), param.dtype)
    return np.array(which), np.concatenate([values] * len(which))


def setting(name, value, group=None):
    """An action: an assignment."""
    return lambda opt: setattr(opt if group is None else opt.groups[group], name, value)


def in_pieces(number):
    """An action: a step in parts, of which there is one."""

    def act(opt):
        pieces = stepper_of(opt)()
        pieces.begin(grad(number, opt.params.shape, opt.params.dtype), 1.0)
        if pieces.decide():
            pieces.run(0, opt.params.size)
        pieces.end()

    return act


def falling(count):
    return 0.5 / (1 << min(count, 4))


def one(kind=fastopt.SGD, **settings):
    settings = {"lr": 0.5, "momentum": 0.5, **settings} if kind is fastopt.SGD else settings
    return lambda executor: kind(np.ones(6, np.float32), executor=executor, **settings)


def several(kind=fastopt.SGD, shapes=((6,), (3,), (2, 3)), dtype=np.float32, **settings):
    settings = {"lr": 0.5, "momentum": 0.5, **settings} if kind is fastopt.SGD else settings
    return lambda executor: kind([np.ones(s, dtype) for s in shapes], executor=executor, **settings)


def grouped(executor):
    groups = [{"params": np.ones(6)}, {"params": np.ones(3), "lr": 0.25}]
    return fastopt.SGD(groups, lr=0.5, momentum=0.5, executor=executor)


HALF, BRAIN = np.float16, ml_dtypes.bfloat16
MATRIX = {"shapes": ((6, 1), (3,)), "dtype": np.float64}
SCENARIOS = {
    "format": (one(), [step(0), step((1, HALF)), step((2, BRAIN)), step(3)]),
    "formats": (
        several(),
        [step(0, 1, 2), step((0, HALF), 1, (2, BRAIN)), step(0, (1, HALF), 2), step(1, 2, 3)],
    ),
    "grad_scale": (
        one(),
        [step(0), step(1, grad_scale=2.0), step(2, grad_scale=4.0), step(3), step(0)],
    ),
    "grad_scale and schedule": (several(lr=falling), [step(0, 1, 2, grad_scale=2.0), step(1, 2, 3)]),
    "none": (
        several(lr=falling),
        [step(0, 1, 2), step(1, None, 2), step(None, None, 0), step(2, 3, 0)],
    ),
    "none and formats": (
        several(fastopt.Adam),
        [step(0, 1, None), step((1, HALF), None, 2), step(1, 2, 3)],
    ),
    "constant and none": (several(), [step(0, None, 1), step(1, 2, 3), step(None, 1, 2)]),
    "exact": (
        several(sparse="exact", **MATRIX),
        [
            step(([1, 3], 0), 1),
            step(([2], 1), None),
            step(0, 2),
            step(([5, 0], 2), 1),
            step(([1], 0), 0),
        ],
    ),
    "exact with a schedule": (
        several(sparse="exact", lr=falling, **MATRIX),
        [step(([1], 0), ([0], 1)), step(([1, 2], 1), 2), step(([4], 2), None), step(1, 1)],
    ),
    "lazy": (
        several(sparse="lazy", zero_grad=False, **MATRIX),
        [step(([1, 3], 0), 1), step(([2, 1], 1), None), step(2, 0)],
    ),
    "statistics of rows": (
        several(sparse="exact", stats=["grad_norm", "grad_mean"], **MATRIX),
        [step(([1, 3], 0), 1), step(0, 2), step(([1], 1), None), step(1, 0)],
    ),
    "sums over rows": (
        several(recipes.CalmedRows, sparse="lazy", stats=["grad_norm"], **MATRIX),
        [step(([1, 3], 0), 1), step(([2], 0), ([0], 2)), step(0, ([1], 2)), step(([1], 1), None)],
    ),
    "clip_norm": (
        one(clip_norm=1.0),
        [step(0), step(1, grad_scale=2.0), setting("clip_norm", 0.5), step(2)],
    ),
    "clip_norm and rows": (
        several(sparse="lazy", clip_norm=1.0, **MATRIX),
        [step(([1, 3], 0), 1), step(([1], 1), 2), step(2, 0)],
    ),
    "zero_grad": (several(zero_grad=True), [step(0, 1, 2), step(1, None, 2), step((0, HALF), 1, 2)]),
    "settings": (one(), [step(0), setting("lr", 0.25), step(1), setting("lr", falling), step(2)]),
    "groups": (grouped, [step(0, 1), setting("lr", 0.125), setting("lr", 0.5, 1), step(1, 2)]),
    "random bits": (
        one(fastopt.Adam, state_dtype=HALF, stochastic_rounding=True),
        [step(0), step((1, HALF)), step(2)],
    ),
    "pieces": (one(lr=falling), [in_pieces(0), in_pieces(1), in_pieces(2)]),
}


def outcome(opt):
    """What can be read of an optimizer, its counts and its settings."""
    states = [array.tobytes() for _, _, array in (opt.state, *checkpoint.arrays(opt))[1:]]
    leaves = parameters_of(opt).leaves
    params = opt.params if isinstance(opt.params, list) else [leaves]
    described = checkpoint.description(opt)
    counts = opt.step_count, tuple(described["lags"]), described.get("sums"), described.get("carried")
    return [leaf.tobytes() for leaf in leaves], states, counts, repr((opt, opt.stats)), len(params)


def history(make, actions, executor):
    """What there is at the start and after each action, and how many lines that had."""
    opt = make(executor)
    outcomes, lines = [outcome(opt)], []
    for act in actions:
        with Lines() as counted:
            act(opt)
        lines.append(counted.count)
        outcomes.append(outcome(opt))
    return outcomes, lines


@functools.cache
def uninterrupted(scenario, executor):
    """The history when everything is compiled."""
    history(*SCENARIOS[scenario], executor)
    return history(*SCENARIOS[scenario], executor)


def interrupted(scenario, executor, index, line):
    """Where it was interrupted, and what went wrong, if anything did."""
    make, actions = SCENARIOS[scenario]
    expected, _ = uninterrupted(scenario, executor)
    opt = make(executor)
    for act in actions[:index]:
        act(opt)
        outcome(opt)
    lines = Lines(line, ERRORS[line % 2]())
    try:
        with lines:
            actions[index](opt)
    except ERRORS:
        pass
    if threads._running.locked():
        # Only a trace can raise between the body of a `with` and its end: Python serves nothing there.
        if lines.text != "with turn:":
            return lines.place, "no step is parallel any more"
        threads._running.release()
    now = outcome(opt)
    if now not in expected[index : index + 2]:
        return lines.place, "neither taken nor left"
    for number in range(index + (now == expected[index + 1]), len(actions)):
        actions[number](opt)
        if outcome(opt) != expected[number + 1]:
            return lines.place, f"another result after action {number}"
    return lines.place, ""


def play(seed, most):
    """How many interrupts there were; raises at the first that did harm."""
    rng, played = random.Random(seed), 0
    for executor in ("serial", "parallel", "reference"):
        for scenario in SCENARIOS:
            _, counts = uninterrupted(scenario, executor)
            for index, count in enumerate(counts):
                for line in rng.sample(range(1, count + 1), min(most, count)):
                    place, wrong = interrupted(scenario, executor, index, line)
                    case = scenario, executor, index, line
                    assert not wrong, f"interrupted{case} at {place}: {wrong}"
                    played += 1
    return played


if __name__ == "__main__":
    sys.stdout.write(f"{play(*map(int, sys.argv[1:]))} interrupts\n")
