"""Whether a step is being captured in a CUDA graph, and whether it can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from fastopt.interop.torch.base import FastOptimizer

# Under its present name or its former one.
_torchs_check: Any = getattr(
    torch.optim.Optimizer,
    "_accelerator_graph_capture_health_check",
    getattr(torch.optim.Optimizer, "_cuda_graph_capture_health_check", None),
)


def is_capturing(optimizer: FastOptimizer) -> bool:
    """Whether a graph is being captured on torch's current stream.

    Raises
    ------
    RuntimeError
        A step of this optimizer cannot be captured.
    """
    if optimizer._on_cuda is None:
        groups = optimizer.param_groups
        optimizer._on_cuda = any(param.is_cuda for group in groups for param in group["params"])
    if not optimizer._on_cuda:
        return False
    capturable = [bool(group.get("capturable")) for group in optimizer.param_groups]
    if all(capturable):  # torch warns once where there is no capture
        _torchs_check(optimizer)
    capturing: bool = torch.cuda.is_current_stream_capturing()
    if capturing and not all(capturable):
        raise RuntimeError(
            f"a step of {type(optimizer).__name__} cannot be captured in a CUDA graph without "
            "capturable=True in all param_groups, which SGD and Adagrad do not have"
        )
    return capturing


def check_unscaled(found_inf: object, grad_scale: object) -> None:
    """Check that no GradScaler takes part in a step that is captured, or raise RuntimeError."""
    if found_inf is not None or grad_scale is not None:
        raise RuntimeError(
            "a step with a GradScaler cannot be captured in a CUDA graph: the host reads its "
            "scale and at found_inf; capture the passes, and step outside of the graph"
        )
