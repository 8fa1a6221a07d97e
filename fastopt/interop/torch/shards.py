"""Sharded tensors, `torch.distributed.tensor.DTensor`: the part of each that this process has.

A parameter that is sharded is stepped through its part. States are sharded as the parameter is, those
of 8 bits are plain tensors of this process, since blocks follow the elements of the part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastopt.arrays.checks import loaded
from fastopt.interop.torch.gradient_mode import call_recorded


def is_sharded(tensor: object) -> bool:
    """Whether this is a `DTensor`, replicated ones included."""
    kind = loaded("torch.distributed.tensor", "DTensor")
    return kind is not None and isinstance(tensor, kind)


def part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: of one that is not sharded, the tensor itself."""
    if not is_sharded(tensor):
        return tensor
    local: Tensor = call_recorded(False, tensor.to_local)
    return local


def check_placements(name: str, param: Tensor) -> None:
    """Check that each element of a sharded parameter is here as it is, and not a part of a sum."""
    if any(placement.is_partial() for placement in param.placements):
        raise TypeError(
            f"{name} must be sharded or replicated, but its placements are {param.placements}: no "
            "process has its numbers; redistribute it first"
        )


def like(tensor: Tensor, param: Tensor) -> Tensor:
    """The tensor of which each process has a part, sharded as a parameter; the part if that is not."""
    if not is_sharded(param):
        return tensor
    kind = loaded("torch.distributed.tensor", "DTensor")
    sharded: Tensor = kind.from_local(
        tensor,
        param.device_mesh,
        param.placements,
        run_check=False,
        shape=param.shape,
        stride=param.stride(),
    )
    return sharded


def placed(tensor: Tensor, param: Tensor) -> Tensor:
    """A gradient or a state, whole or sharded, sharded as its parameter is.

    All processes must call this, if one does: where placements differ, they communicate, as in torch's
    own operations.
    """
    if not is_sharded(param):
        return tensor
    mesh, placements = param.device_mesh, param.placements
    sharded: Any = tensor if is_sharded(tensor) else None
    if sharded is not None and (sharded.device_mesh, sharded.placements) == (mesh, placements):
        return tensor
    if tensor.dtype == torch.int16:  # which gloo and NCCL cannot exchange
        return placed(tensor.int(), param).short()
    if sharded is None:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, mesh, placements)
    moved: Tensor = call_recorded(False, sharded.redistribute, mesh, placements)
    return moved


def first_element(param: Tensor) -> int:
    """The index, in the whole parameter, of the first element that this process has."""
    if not is_sharded(param):
        return 0
    chunks = param.__create_chunk_list__()  # as torch.distributed.checkpoint asks for it
    starts = chunks[0].offsets if chunks else ()
    return sum(start * stride for start, stride in zip(starts, param.stride(), strict=False))


class Across:
    """Reductions over the processes among which parameters are sharded, for their global norm.

    Parameters
    ----------
    params : iterable of Tensor

    Raises
    ------
    ValueError
        They are not all sharded among the same processes.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        meshes: dict[Any, list[Tensor]] = {}
        for param in params:
            mesh = param.device_mesh if is_sharded(param) else None
            placements = enumerate(param.placements if mesh else ())
            dims = tuple(dim for dim, placement in placements if placement.is_shard())
            meshes.setdefault((mesh, dims), []).append(param)
        if len(meshes) > 1:
            raise ValueError(
                "clip_norm must be None where parameters are not sharded among the same processes, and "
                f"there are {len(meshes)} ways here: use torch.nn.utils.clip_grad_norm_"
            )
        (mesh, dims), _ = meshes.popitem()
        self._groups = [mesh.get_group(dim) for dim in dims]
        self._device = torch.device(mesh.device_type)

    def _reduced(self, value: float, operation: object) -> float:
        number = torch.tensor(value, dtype=torch.float64, device=self._device)
        for group in self._groups:
            torch.distributed.all_reduce(number, operation, group)
        return float(number)

    def sum(self, value: float) -> float:
        """The sum over all processes."""
        return self._reduced(value, torch.distributed.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """The largest over all processes."""
        return self._reduced(value, torch.distributed.ReduceOp.MAX)
