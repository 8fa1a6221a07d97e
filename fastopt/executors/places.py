"""Registers CUDA as a place of arrays, and checks executor and options against the place."""

from __future__ import annotations

from fastopt.arrays.places import CUDA, Place, load, register


def _load_cuda() -> Place:
    from fastopt.executors.cuda import availability

    availability.require()
    from fastopt.executors.cuda import place

    return place


register(CUDA, _load_cuda)


def check_place(executor: str, place: str | None, capturable: bool, sparse: str | None) -> None:
    """Check that executor and options fit the place of the arrays, its name or None for memory."""
    if sparse is not None and place is not None:
        raise ValueError(f"sparse must be None for arrays on a device, got {sparse!r}")
    if capturable and place != CUDA:
        raise ValueError("capturable=True needs params on a CUDA device, and these are in memory")
    if place is not None and executor not in (executors := load(place).EXECUTORS):
        accepted = ", ".join(executors)
        raise ValueError(f"executor must be one of {accepted} for arrays on a device, got {executor!r}")
    if place is None and executor == "cuda":
        load(CUDA)
        raise ValueError(
            f"executor {executor!r} needs params on a CUDA device, and these are in memory: "
            "numba.cuda.to_device, cupy.asarray or torch's .cuda() copy them there"
        )
