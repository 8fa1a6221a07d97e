"""Steps inside the backward pass: of each parameter as soon as its gradient is complete."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import finalize, ref

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import WeakTensorKeyDictionary

from fastopt.interop.torch.base import FastOptimizer
from fastopt.interop.torch.capture import is_capturing
from fastopt.interop.torch.carried import over_all
from fastopt.interop.torch.param_groups import AUTOMATIC_LR
from fastopt.interop.torch.planner import Planner, first_elements, key_of

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

AnyOptimizer = TypeVar("AnyOptimizer", bound=FastOptimizer)

# Smaller parameters are stepped together, once there are gradients for this many elements, 4 MB in
# float32. A step costs 40 us in Python, and so much for AdamW's arithmetic on 2^16 elements of a core:
# layers of 10^5 elements that were stepped two by two took 15 % longer for a training step.
COLLECTED = 1 << 20

# The one that steps a parameter, so that no two do.
_owners: Any = WeakTensorKeyDictionary()


class Bucket:
    """Parameters that are stepped together: a large one, or several small ones.

    Attributes
    ----------
    params : list of Tensor
    ready : list of Tensor
        Those among them whose gradient is there.
    size : int
        The elements of all of them.
    is_open : bool
        Whether parameters may be added.
    stream : torch.cuda.Stream, optional
        The one on which the gradients of `ready` are computed.
    """

    def __init__(self) -> None:
        self.params: list[Tensor] = []
        self.ready: list[Tensor] = []
        self.size, self.is_open = 0, True
        self.stream: Any = None
        self._indices: dict[int, int] = {}
        self.planner = Planner(self._indices)

    def add(self, param: Tensor, index: int) -> None:
        """Add a parameter, given the index of its first element among those of all."""
        self.params.append(param)
        self._indices[id(param)] = index
        self.size += param.numel()

    def remove(self, key: int) -> None:
        """Remove a parameter that is not the optimizer's any more, by its id."""
        self.params = [param for param in self.params if id(param) != key]
        self._indices.pop(key)

    @property
    def is_complete(self) -> bool:
        """Whether no gradient is to be waited for."""
        return self.size >= COLLECTED if self.is_open else len(self.ready) == len(self.params)

    def step(self, optimizer: FastOptimizer, key: object) -> None:
        """Step those that are ready, and free their gradients."""
        self.is_open = False
        self.planner.step(optimizer, key, 1.0, capturing=False)
        for param in self.ready:
            param.grad = None
        self.ready.clear()


class BackwardSteps:
    """The hooks of an optimizer that steps inside the backward pass.

    Buckets are made in the first backward pass, from parameters in the order in which their gradients
    come. In later ones each is stepped when the last of its gradients has come, and `end` steps what
    is left, because a parameter was not used.

    Neither this object nor the hooks, whose references the garbage collector does not see, keep the
    optimizer. The hooks are removed when it is gone.
    """

    def __init__(self, optimizer: FastOptimizer) -> None:
        self._reference = ref(optimizer)
        self._handles: dict[int, RemovableHandle] = {}  # by the parameter's id
        self._buckets: dict[int, Bucket] = {}
        self._open: dict[torch.device, Bucket] = {}
        self._indices: dict[int, int] = {}  # of first elements
        self._taken: set[int] = set()  # parameters whose gradients have come since the last `end`
        self._key: object = None
        self._graph_task = -1
        self._lock = Lock()  # each device has a thread of its own in a backward pass
        self._is_checked = False
        self.attach()
        finalize(optimizer, _remove, self._handles)

    @property
    def _optimizer(self) -> FastOptimizer:
        """The optimizer, which whoever calls this object keeps for so long."""
        optimizer = self._reference()
        if optimizer is None:
            raise AssertionError("the optimizer is gone")
        return optimizer

    def _params(self) -> Iterator[Tensor]:
        return (param for group in self._optimizer.param_groups for param in group["params"])

    def planners(self) -> list[Planner]:
        """Those of all parameters."""
        return [bucket.planner for bucket in {id(b): b for b in self._buckets.values()}.values()]

    def attach(self) -> None:
        """Put hooks on all parameters that the optimizer has now, or raise and change nothing."""
        _check_transforms(self._optimizer)
        current = {id(param): param for param in self._params()}
        owners = {_owners.get(param, lambda: None)() for param in current.values()}
        if owners - {None, self._optimizer}:
            raise ValueError(
                "parameters are stepped in the backward pass by another optimizer already: call its "
                "remove_hooks first"
            )
        # As in a step of all parameters.
        self._indices |= first_elements(self._optimizer.param_groups)
        for key in self._handles.keys() - current.keys():
            self._handles.pop(key).remove()
            if (bucket := self._buckets.pop(key, None)) is not None:
                bucket.remove(key)
        for key, param in current.items():
            if param.requires_grad and key not in self._handles:
                _owners[param] = self._reference
                self._handles[key] = param.register_post_accumulate_grad_hook(_hook(self._reference))

    def detach(self) -> None:
        """Remove all hooks."""
        _remove(self._handles)
        for param in self._params():
            if _owners.get(param, lambda: None)() is self._optimizer:
                del _owners[param]

    def on_gradient(self, param: Tensor) -> None:
        """Step a parameter whose gradient is complete, or collect it."""
        with self._lock:
            task = torch._C._current_graph_task_id()
            if task != self._graph_task:
                _check_not_nested()
                self._graph_task = task
            self._take(param)

    def _take(self, param: Tensor) -> None:
        if not self._taken:
            self._begin()
        if id(param) in self._taken:
            raise RuntimeError(
                f"a second gradient has come for a parameter of shape {tuple(param.shape)} before "
                "step() ended the iteration: each gradient is used up in the backward pass, so they "
                "cannot be accumulated; call step() after each backward pass"
            )
        bucket = self._buckets.get(id(param)) or self._put(param)
        if param.is_cuda:
            stream = torch.cuda.current_stream(param.device)
            if bucket.ready and stream != bucket.stream:
                with torch.cuda.stream(bucket.stream):
                    self._step(bucket)
            bucket.stream = stream
        self._taken.add(id(param))
        bucket.ready.append(param)
        if bucket.is_complete:
            self._step(bucket)

    def _begin(self) -> None:
        """Check, at the first gradient of an iteration, what is the same for all of them."""
        optimizer = self._optimizer
        _check_needs_all(optimizer)
        if is_capturing(optimizer):
            raise RuntimeError(
                "steps inside the backward pass cannot be captured in a CUDA graph: call remove_hooks, "
                "and capture the pass and step() one after the other"
            )
        key = key_of(optimizer)
        if key != self._key:
            self.attach()
        if not self._is_checked:
            _check_no_averaging(self._handles.keys())
            self._is_checked = True
        self._key = key

    def _put(self, param: Tensor) -> Bucket:
        """Put a parameter into a bucket that is open, or into one of its own."""
        is_large = param.numel() >= COLLECTED
        bucket = Bucket() if is_large else self._open.setdefault(param.device, Bucket())
        bucket.add(param, self._indices[id(param)])
        self._buckets[id(param)] = bucket
        return bucket

    def _step(self, bucket: Bucket) -> None:
        if bucket is self._open.get(bucket.params[0].device):
            self._open.pop(bucket.params[0].device)
        bucket.step(self._optimizer, self._key)

    def end(self, closure: Callable[[], object] | None) -> None:
        """Step what is left, and begin a new iteration."""
        optimizer = self._optimizer
        if closure is not None:
            raise RuntimeError(
                "closure must be None with step_in_backward: parameters have been stepped when the "
                "closure's backward pass is over"
            )
        if any(getattr(optimizer, name, None) is not None for name in ("found_inf", "grad_scale")):
            raise RuntimeError(
                "step_in_backward cannot be used with a GradScaler: parameters were stepped with "
                "gradients that are still multiplied by its scale; use bfloat16, which needs no scale"
            )
        with self._lock:
            for param in self._params():
                if param.grad is not None and id(param) not in self._taken:
                    self._take(param)
            for bucket in {id(bucket): bucket for bucket in self._buckets.values()}.values():
                if bucket.ready:
                    self._step(bucket)
            for param in self._params():
                param.grad = None
            self._taken.clear()
            self._graph_task = -1


def _hook(reference: Callable[[], FastOptimizer | None]) -> Callable[[Tensor], None]:
    def on_gradient(param: Tensor) -> None:
        optimizer = reference()
        if optimizer is not None and optimizer._backward is not None:
            optimizer._backward.on_gradient(param)

    return on_gradient


def _remove(handles: dict[int, RemovableHandle]) -> None:
    for handle in handles.values():
        handle.remove()
    handles.clear()


def _check_not_nested() -> None:
    """Raise if this backward pass runs inside the backward of a function: gradients may be partial."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code is BackwardCFunction.apply.__code__:
            raise RuntimeError(
                "step_in_backward cannot be used with a backward pass inside another one, as "
                "torch.utils.checkpoint runs with use_reentrant=True: its gradients may be partial; "
                "pass use_reentrant=False"
            )
        frame = frame.f_back


_CLIP_NORM = (
    "clip_norm must be None with step_in_backward: the norm of all gradients is known only after the "
    "first parameters have been stepped; clip_value may be what you want, on the gradients' own hooks"
)
_ALL = "its sums over all parameters are known only after the first ones have been stepped"
_AVERAGING = (
    "step_in_backward cannot be used with DistributedDataParallel: a parameter may be stepped before "
    "its gradient is averaged over the processes, which would then have different parameters"
)


def _check_needs_all(optimizer: FastOptimizer) -> None:
    """Raise ValueError if a step needs the gradients of all parameters."""
    if optimizer.clip_norm is not None:
        raise ValueError(_CLIP_NORM)
    if optimizer._stats:
        raise ValueError("stats must be empty with step_in_backward: no step has all gradients")
    for group in optimizer.param_groups:
        if group.get(AUTOMATIC_LR) is not None:
            raise ValueError("lr must be a number with step_in_backward, not 'auto': " + _ALL)


def _check_transforms(optimizer: FastOptimizer) -> None:
    """Raise ValueError if a transform has sums over all parameters."""
    for group in optimizer.param_groups:
        for transform in over_all(optimizer._chain(group, {})):
            raise ValueError(f"step_in_backward cannot be used with {transform.label}: {_ALL}")


def _check_no_averaging(params: Iterable[Tensor]) -> None:
    """Raise if DistributedDataParallel has one of these parameters, given by their ids."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    # Once in the life of an optimizer: nothing else tells.
    wrappers = [
        wrapper for wrapper in gc.get_objects() if issubclass(type(wrapper), DistributedDataParallel)
    ]
    if any(id(param) in params for wrapper in wrappers for param in wrapper.parameters()):
        raise RuntimeError(_AVERAGING)


def step_in_backward(
    model_or_params: Any, optimizer_class: type[AnyOptimizer], **settings: Any
) -> AnyOptimizer:
    """Make an optimizer that steps each parameter in the backward pass, and frees its gradient.

    A parameter is stepped as soon as its gradient is complete, so that only the gradients of a few
    layers are held at any time. Small parameters are collected until they have 2^20 elements. The
    results are those of the same optimizer after the backward pass, bit for bit.

    Parameters
    ----------
    model_or_params : torch.nn.Module, or iterable of Tensor, of named ones, or of dict
        The parameters, as torch's optimizers take them, or a module that has them.
    optimizer_class : type
        Any of the optimizers of `fastopt.interop.torch`.
    **settings
        Its arguments.

    Returns
    -------
    optimizer
        Of this class. Call its ``step()`` once after each backward pass, as schedulers expect it too:
        it steps what is left, and ends the iteration. ``remove_hooks()`` turns it into an ordinary
        optimizer, and so do copies and pickles. State dicts are those of one. The hooks last as long
        as it does.

    Raises
    ------
    ValueError
        With `clip_norm`, `stats`, ``lr="auto"`` and other sums over all parameters, which need all
        gradients first, or if another optimizer steps some of these
        parameters in the backward pass.
    RuntimeError
        With what averages or completes gradients after the hooks have run or between two of them:
        `torch.nn.parallel.DistributedDataParallel`, accumulation, `torch.utils.checkpoint` with
        ``use_reentrant=True``; with `torch.amp.GradScaler`, with a closure, and in a capture of a CUDA
        graph. Where that cannot be known before, it is raised by the backward pass or by ``step()``.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import RMSprop, step_in_backward
    >>> model = torch.nn.Linear(4, 1)
    >>> opt = step_in_backward(model, RMSprop, lr=1e-3)
    >>> for _ in range(2):
    ...     model(torch.ones(8, 4)).sum().backward()  # steps, and frees gradients
    ...     opt.step()
    >>> model.weight.grad is None
    True
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, FastOptimizer)):
        raise TypeError(
            "optimizer_class must be a class of fastopt.interop.torch, such as RMSprop, "
            f"not {optimizer_class!r}"
        )
    if settings.get("clip_norm") is not None:
        raise ValueError(_CLIP_NORM)
    params = model_or_params
    if isinstance(params, Module):
        if any(isinstance(module, DistributedDataParallel) for module in params.modules()):
            raise RuntimeError(_AVERAGING)
        params = params.parameters()
    optimizer = optimizer_class(params, **settings)
    _check_needs_all(optimizer)
    optimizer._step_supports_amp_scaling = True  # a GradScaler leaves its scale, and is refused by that
    optimizer._backward = BackwardSteps(optimizer)
    return optimizer
