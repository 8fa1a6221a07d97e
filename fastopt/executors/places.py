"""The places that arrays can be in, and which executor and options go with each."""

from __future__ import annotations

from fastopt.arrays.places import Place, device_place, register

ON_DEVICE = ("auto", "cuda")


def _load_cuda() -> Place:
    from fastopt.executors.cuda import availability

    availability.require()
    from fastopt.executors.cuda import place

    return place


register(_load_cuda)


def check_home(executor: str, on_device: bool, capturable: bool, sparse: str | None) -> None:
    """An executor and options for where the arrays are."""
    if sparse is not None and on_device:
        raise ValueError(f"sparse must be None for arrays on a device, got {sparse!r}")
    if capturable and not on_device:
        raise ValueError("capturable=True needs params on a CUDA device, and these are in memory")
    if on_device and executor not in ON_DEVICE:
        accepted = ", ".join(ON_DEVICE)
        raise ValueError(f"executor must be one of {accepted} for arrays on a device, got {executor!r}")
    if not on_device and executor == "cuda":
        device_place()
        raise ValueError(
            f"executor {executor!r} needs params on a CUDA device, and these are in memory: "
            "numba.cuda.to_device, cupy.asarray or torch's .cuda() copy them there"
        )
