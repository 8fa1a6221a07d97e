"""The part of an optimizer that steps arrays on a CUDA device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt.layouts.arrays import Array, Range
from fastopt.optimizers.readable import Readable
from fastopt.optimizers.sparse import RowSteps
from fastopt.optimizers.watch import Last
from fastopt.optimizers.work import Work

# As in `executors.cuda.source`: for so many steps numbers are kept on the device.
KEPT = 1024

if TYPE_CHECKING:
    from fastopt.executors.cuda.steps import DeviceSteps


class OnDevice(Readable):
    """Steps on a device: nothing is copied and nobody waits, unless an answer is asked for."""

    __slots__ = ("_capturable", "_device", "_scales", "_since", "_skipped", "_unsettled")

    _device: DeviceSteps | None  # None where the arrays are in memory
    _capturable: bool
    _skipped: int  # steps left out, as far as is known
    _since: int  # steps since that was looked at
    _unsettled: bool  # the last steps may have been left out, which only the device knows

    _guarded: list[Range]
    _work: Work
    _leaves: list[Array]
    _scales: bool  # a factor for the gradients is compiled in
    _varies: bool

    def _set_grad_scale(self, grad_scale: Any) -> None:
        raise NotImplementedError

    def _prepare_device(self) -> None:
        """Get ready for the first step."""
        from fastopt.executors.cuda.steps import DeviceSteps

        self._scales = False
        self._skipped, self._since, self._unsettled = 0, 0, False
        self._device = DeviceSteps(
            self._params,
            self._work,
            self._guarded,
            watched=self._watch.is_on,
            skips=self._watch.skip_nonfinite,
            zero_grad=self._zero_grad,
            fast=self._executor == "cuda-fast",
            capturable=self._capturable,
        )
        table = np.zeros((0, 0), np.int64)
        self._row_steps = RowSteps(None, self._work, self._hyper, table, self._executor, False)
        self._use_device_kernels()

    def _use_device_kernels(self) -> None:
        """Prepare the launches for the hyperparameters and the scaling of now."""
        if self._device is not None:
            self._device.arrange(self._hyper.of, self._scales)

    def _step_elsewhere(self, grads: Any, grad_scale: Any, stream: Any) -> None:
        """`step`, where arrays are on a device."""
        device = self._device
        if device is None:
            raise ValueError(
                f"stream must be None for arrays in memory, got {stream!r}: only a device has streams"
            )
        if type(grad_scale) is not float or grad_scale != self._grad_scale:
            self._settle()
            self._set_grad_scale(grad_scale)
        elif self._varies or self._watch.varies:
            if self._capturable or self._since >= KEPT - 1:
                self._settle()
            self._hyper.fill(self._step_count, grad_scale)
        device.bind(grads)
        limit = self._watch.limit_at(self._step_count)
        device.expect(self._step_count, self._skipped)
        if not device.start(stream, 1.0 / self._grad_scale, limit):
            return  # recorded for a graph, which counts when it is replayed
        self._count_on_device(device)

    def _count_on_device(self, device: DeviceSteps) -> None:
        self._step_count += 1
        self._unsettled = self._watch.skip_nonfinite
        self._since += 1
        if device.leaves_out:
            skipped = self._unsettled and device.decided()[1]
            self._settle()
            if not skipped:
                lags = [lag + own for lag, own in zip(self._hyper.lags, device.left_out, strict=True)]
                self._arrange(lags)

    def advance(self, *, stream: Any = None) -> None:
        """Get ready for the next replay of a CUDA graph that a step was captured in.

        A captured launch cannot be given other arguments. With ``capturable=True`` the numbers of a
        step (learning rate, bias corrections, the limit of `clip_norm`) are in the memory of the
        device; this puts those of the next step there and counts it. Call it before each replay.

        Parameters
        ----------
        stream : stream, optional
            As for `step`: the one that the graph is launched on.

        Raises
        ------
        ValueError
            The optimizer was made without ``capturable=True``.
        """
        if self._device is None or not self._capturable:
            raise ValueError("advance is for an optimizer made with capturable=True, on a device")
        self._settle()
        self._hyper.fill(self._step_count, self._grad_scale)
        limit = self._watch.limit_at(self._step_count)
        self._device.advance(stream, 1.0 / self._grad_scale, limit)
        self._step_count += 1
        self._unsettled = self._watch.skip_nonfinite

    def _settle(self) -> None:
        """Count only the steps that were taken; waits for the device if that is not known."""
        if self._device is not None and self._unsettled:
            skipped = self._device.decided()[2]
            self._step_count -= skipped - self._skipped
            self._skipped, self._since, self._unsettled = skipped, 0, False

    def _last_on_device(self) -> Last | None:
        if self._device is None or not self._watch.is_on or not self._device.has_started:
            return None
        return Last(*self._device.decided()[:2])
