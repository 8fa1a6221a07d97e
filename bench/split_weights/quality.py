"""The losses of a character model after the same batches, for each way and seed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.split_weights.grammar import text
from bench.split_weights.model import Shape, Transformer
from bench.split_weights.ways import QUALITY, Way
from fastopt import schedules
from fastopt.interop.torch import AdamW

SEEDS = range(5)
TUNED_ON = 100  # the seed on which the rate is chosen, with float32
RATES = 1e-3, 3e-3, 1e-2, 3e-2
VALIDATION = 32_768  # characters at the end of the text that no batch is taken from


class Training(NamedTuple):
    """What is trained and how long. The rate rises for a tenth of the steps and falls to zero."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    context: int = 64
    batch: int = 16
    steps: int = 400


@cache
def tokens() -> tuple[Tensor, int]:
    """The text as numbers, and how many letters there are."""
    letters = text()
    alphabet = {letter: number for number, letter in enumerate(sorted(set(letters)))}
    return torch.tensor([alphabet[letter] for letter in letters]), len(alphabet)


def batches(training: Training, seed: int) -> Iterator[Tensor]:
    """Random stretches of the text."""
    numbers, _ = tokens()
    generator = torch.Generator().manual_seed(seed)
    last = len(numbers) - VALIDATION - training.context - 1
    for _ in range(training.steps):
        starts = torch.randint(last, (training.batch,), generator=generator)
        yield torch.stack([numbers[start : start + training.context + 1] for start in starts])


@torch.no_grad()
def validation_loss(model: Transformer, context: int) -> float:
    """The mean loss of the characters that are not trained on."""
    numbers, _ = tokens()
    rows = numbers[-VALIDATION:].unfold(0, context + 1, context)
    losses = [model.loss(part) * len(part) for part in rows.split(128)]
    return float(sum(losses) / len(rows))


def final_losses(way: Way, training: Training, lr: float, seed: int) -> dict[str, float]:
    """The losses of the model as it is trained, and in float32 with the optimizer's numbers."""
    torch.manual_seed(seed)
    shape = Shape(training.layers, training.width, training.heads, tokens()[1], training.context)
    wide = Transformer(shape)
    start = {name: value.clone() for name, value in wide.state_dict().items()}
    model = Transformer(shape).to(getattr(torch, way.dtype))
    optimizer = AdamW(model.parameters(), lr=lr, **way.settings)
    load(model, optimizer, way, start)
    rate = schedules.warmup_cosine(0.0, lr, training.steps // 10, training.steps)
    for step, batch in enumerate(batches(training, seed)):
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    wide.load_state_dict(optimizer.master_state_dict(model))
    return {
        "model": validation_loss(model, training.context),
        "wide": validation_loss(wide, training.context),
    }


def load(model: nn.Module, optimizer: Any, way: Way, start: dict[str, Tensor]) -> None:
    """Have a model start from float32 numbers, to the precision that its way has."""
    if "master_bits" in way.settings:
        optimizer.load_master_state_dict(model, start)
    else:
        model.load_state_dict(start)


def measured() -> dict[str, Any]:
    """The rate, and the final losses of each way by seed."""
    training, threads = Training(), torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small
    try:
        rates = {lr: final_losses(QUALITY["float32"], training, lr, TUNED_ON)["model"] for lr in RATES}
        best = min(rates, key=lambda lr: rates[lr])
        losses: dict[str, dict[str, list[float]]] = {
            name: {"model": [], "wide": []} for name in QUALITY
        }
        for seed in SEEDS:
            for name, way in QUALITY.items():
                final = final_losses(way, training, best, seed)
                for which, loss in final.items():
                    losses[name][which].append(loss)
                print(f"seed {seed}, {name}: {final}", flush=True)
    finally:
        torch.set_num_threads(threads)
    return {
        "training": training._asdict() | {"letters": tokens()[1]},
        "rates": list(rates.items()),
        "lr": best,
        "losses": losses,
    }
