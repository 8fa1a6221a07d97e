"""`fastopt.global_norm` of arrays on a device."""

from __future__ import annotations

from collections.abc import Sequence

from fastopt.arrays.device_array import DeviceArray
from fastopt.codecs.formats import name_of
from fastopt.executors.cuda import device
from fastopt.executors.cuda.clip_decision import ClipDecision
from fastopt.executors.norm import blocks


def global_norm(leaves: Sequence[DeviceArray]) -> float:
    """The norm of all arrays, which are on one device; NaN if an element is not finite."""
    with device.on(device.ordinal(leaves[0])):
        device.synchronize()  # the arrays may still be written, on any stream
        decision = ClipDecision(blocks([leaf.size for leaf in leaves]), False, False)
        decision.measure([(str(name_of(leaf.dtype)), leaf.address, leaf.size) for leaf in leaves])
        return decision.control.read()[0]
