"""The whole optimizer phase as people write it in eager torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.peers import Step
from bench.problems import Array

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


def step_of(
    arrays: Mapping[str, Array], settings: Mapping[str, Any], grad_scale: float, threads: int
) -> Step | None:
    """Unscale, check for NaN and infinity, clip, step, average, copy and clear, in these arrays."""
    if torch is None:
        return None
    torch.set_num_threads(threads)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return step_of_tensors(tensors, settings, grad_scale)


def step_of_tensors(tensors: Mapping[str, Any], settings: Mapping[str, Any], grad_scale: float) -> Step:
    """The same in tensors, on any device."""
    param, grad = tensors["param"].requires_grad_(), tensors["grad"]
    param.grad = grad
    average, copy = tensors["average"], tensors["copy"]
    optimizer = torch.optim.RMSprop(
        [param],
        lr=settings["lr"],
        alpha=settings["beta"],
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
        foreach=True,
    )
    optimizer.state[param] = {"step": torch.zeros(()), "square_avg": tensors["square_avg"]}

    def phase() -> None:
        grad.mul_(1.0 / grad_scale)
        if not torch.isfinite(grad).all():
            return
        torch.nn.utils.clip_grad_norm_([param], settings["clip_norm"])
        optimizer.step()
        average.lerp_(param, 1.0 - settings["average_decay"])
        copy.copy_(param)
        optimizer.zero_grad(set_to_none=False)

    return torch.no_grad()(phase)  # type: ignore[no-any-return]
