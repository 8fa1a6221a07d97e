"""Hooks and the profiler around a step: torch's own wrapper takes 30 us even if there are none."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.optim import optimizer

Step = Callable[..., Any]


def hooked(step: Step) -> Step:
    """A step that runs torch's hooks where there are any, and tells the profiler of itself.

    Other observers of torch's, which may be on without the profiler, see an event of the same name.
    """
    torchs_step: Any = optimizer.Optimizer.profile_hook_step(step)

    @torch._disable_dynamo  # type: ignore[untyped-decorator]
    @wraps(step)
    def hooked_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or optimizer._global_optimizer_pre_hooks
            or optimizer._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            if getattr(type(self).step, "__code__", None) is torchs_step.__code__:
                return step(self, *args, **kwargs)  # by a subclass's step, around which torch runs them
            return torchs_step(self, *args, **kwargs)
        with torch._C._profiler._RecordFunctionFast(f"Optimizer.step#{type(self).__name__}.step"):
            return step(self, *args, **kwargs)

    hooked_step.hooked = True  # torch does not wrap it again
    wrapped: Step = hooked_step
    return wrapped
