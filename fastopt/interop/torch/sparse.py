"""Sparse gradients, where torch has them: torch's own functions step these parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.sgd import sgd

from fastopt.interop.torch.param_groups import ParamGroup
from fastopt.interop.torch.tensors import State

Sparse: TypeAlias = Callable[[ParamGroup, State, Tensor, Tensor], None]


def sgd_step(group: ParamGroup, state: State, param: Tensor, grad: Tensor) -> None:
    """Gradient descent. The momentum buffer is sparse as long as all gradients were."""
    buffers = [state.get("momentum_buffer")]
    sgd(
        [param],
        [grad],
        buffers,
        has_sparse_grad=True,
        foreach=False,
        fused=False,
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )
    if buffers[0] is not None:
        state["momentum_buffer"] = buffers[0]


def adagrad_step(group: ParamGroup, state: State, param: Tensor, grad: Tensor) -> None:
    """Adagrad: only the elements that the gradient has are touched."""
    adagrad(
        [param],
        [grad],
        [state["sum"]],
        [state["step"]],
        has_sparse_grad=True,
        foreach=False,
        fused=False,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        lr_decay=group["lr_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )
