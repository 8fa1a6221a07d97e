"""Who steps a buffer on a GPU: fastopt, a copy of as many bytes, the libraries that are installed."""

from __future__ import annotations

import os
import warnings
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

import fastopt
from bench.cuda import handwritten
from bench.cuda.clock import Maker, Way
from bench.cuda.problems import BETA, EPS, LR, Problem

# The class in torch, and its settings for those of `problems`; in bitsandbytes by the problem's name.
TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "RMSProp": ("RMSprop", {"alpha": BETA, "eps": EPS}),
    "Adam": ("Adam", {}),
    "SGD": ("SGD", {"momentum": 0.9}),
    "AdaGrad": ("Adagrad", {}),
}
FUSED = "Adam", "SGD", "AdaGrad"
SAME = "centered", "momentum", "weight_decay"  # settings of one name
BITSANDBYTES = {
    "Adam": "Adam32bit",
    "RMSProp, 8-bit state": "RMSprop8bit",
    "RMSProp, bfloat16, 8-bit state": "RMSprop8bit",
    "Adam, 8-bit states": "Adam8bit",
    "Adam, bfloat16, 8-bit states": "Adam8bit",
}


@cache
def torch_problem() -> str:
    """Why torch cannot be measured, an empty text if it can."""
    if find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return "" if torch.cuda.is_available() else "torch has no CUDA"


def needs(*modules: str) -> str:
    """Why what needs these modules cannot be measured, an empty text if it can."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        return f"{' and '.join(missing)} is not installed"
    return torch_problem() if "torch" in modules else ""


def _nvrtc() -> str:
    """Why NVRTC cannot compile CUDA C, an empty text if it can."""
    if os.environ.get("GPU_EMULATOR"):
        return "NVRTC needs NVIDIA's driver, and this one is emulated"
    return needs("cuda.bindings")


def fastopt_buffer(problem: Problem, elements: int, sets: int, fast: bool = False) -> Way:
    """fastopt."""
    options = {"state_dtype": problem.state_dtype, "fast": fast or None}
    options = {name: value for name, value in options.items() if value}
    if problem.dtype == "bfloat16":
        params = _tensors(elements, sets, problem.dtype)
        grads = [param.grad for param in params]
        params = [param.detach() for param in params]

        def first() -> float:
            return float(params[0][0])
    else:
        from numba import cuda

        ones = np.ones(elements, problem.dtype)
        grads, params = ([cuda.to_device(ones) for _ in range(sets)] for _ in range(2))

        def first() -> float:
            return float(params[0][:1].copy_to_host()[0])

    opts = [getattr(fastopt, problem.kind)(w, **problem.settings, **options) for w in params]
    return Way(lambda i: opts[i].step(grads[i]), first)


def copy(bytes_: float, elements: int, sets: int) -> Way:
    """A copy on the device that reads and writes as many bytes as a step moves."""
    from numba import cuda

    words = max(1, int(bytes_ * elements / 8))
    pairs = [[cuda.device_array(words, np.float32) for _ in range(2)] for _ in range(sets)]
    return Way(lambda i: pairs[i][0].copy_to_device(pairs[i][1]))


def _tensors(elements: int, sets: int, dtype: str = "float32", device: str = "cuda") -> list[Any]:
    import torch

    how = {"device": device, "dtype": getattr(torch, dtype)}
    params = [torch.ones(elements, **how).requires_grad_() for _ in range(sets)]
    for param in params:
        param.grad = torch.ones(elements, **how)
    return params


def tensor_step(
    kind: Any, elements: int, sets: int, dtype: str = "float32", device: str = "cuda", **options: Any
) -> Way:
    """An optimizer of torch, or of a library whose classes take the same arguments."""
    params = _tensors(elements, sets, dtype, device)
    opts = [kind([param], **options) for param in params]
    return Way(lambda i: opts[i].step(), lambda: params[0][0].item())


def torch_compiled(elements: int, sets: int, device: str = "cuda") -> Way:
    """RMSProp's formula, compiled once for all sets: compiled optimizers would be as many programs."""
    import torch

    def update(param: Any, grad: Any, square: Any) -> None:
        square.mul_(BETA).addcmul_(grad, grad, value=1.0 - BETA)
        param.addcdiv_(grad, square.sqrt().add_(EPS), value=-LR)

    arrays = [
        (p.detach(), p.grad, torch.zeros_like(p.detach()))
        for p in _tensors(elements, sets, device=device)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch about its own future
        compiled = torch.compile(update)
        compiled(*(array.clone() for array in arrays[0]))
    return Way(lambda i: compiled(*arrays[i]), lambda: arrays[0][0][0].item())


def cupy_kernel(elements: int, sets: int) -> Way:
    """A kernel that CuPy makes of the formula."""
    import cupy

    update = cupy.ElementwiseKernel(
        "float32 g, float32 lr, float32 beta, float32 rest, float32 eps",
        "float32 v, float32 w",
        "v = beta * v + rest * g * g; w = w - lr * g / (sqrt(v) + eps)",
        "rmsprop",
    )
    grads, params = ([cupy.ones(elements, np.float32) for _ in range(sets)] for _ in range(2))
    squares = [cupy.zeros(elements, np.float32) for _ in range(sets)]

    def step(i: int) -> None:
        update(grads[i], LR, BETA, 1.0 - BETA, EPS, squares[i], params[i])

    return Way(step, lambda: float(params[0][0]))


def optax_step(elements: int, sets: int, platform: str = "gpu") -> Way:
    """optax under jit, old buffers donated to the new ones; jax has streams of its own."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else jax takes all memory
    import jax
    import optax

    where = jax.devices(platform)[0]
    with jax.default_device(where):
        grads, params = ([jax.numpy.ones(elements, np.float32) for _ in range(sets)] for _ in range(2))
    optimizer = optax.rmsprop(LR, decay=BETA, eps=EPS, eps_in_sqrt=False)
    states = [optimizer.init(param) for param in params]

    def update(param: Any, state: Any, grad: Any) -> tuple[Any, Any]:
        change, state = optimizer.update(grad, state, param)
        return optax.apply_updates(param, change), state

    jitted = jax.jit(update, donate_argnums=(0, 1))

    def step(i: int) -> None:
        params[i], states[i] = jitted(params[i], states[i], grads[i])

    return Way(step, lambda: float(params[0][0]), lambda: jax.block_until_ready((params, states)))


def _of_torch(problem: Problem) -> dict[str, Maker]:
    reason = needs("torch")
    name, settings = TORCH[problem.kind]
    settings = {"lr": LR} | settings
    settings |= {key: problem.settings[key] for key in SAME if key in problem.settings}

    def maker(**options: Any) -> Maker:
        def make(elements: int, sets: int) -> Way:
            import torch

            kind = getattr(torch.optim, name)
            return tensor_step(kind, elements, sets, problem.dtype, **settings, **options)

        return reason or make

    peers = {"torch, foreach": maker(foreach=True)}
    if problem.kind in FUSED:
        peers["torch, fused"] = maker(fused=True)
    return peers


def _library(module: str, kind: str, problem: Problem, settings: dict[str, Any]) -> Maker:
    def make(elements: int, sets: int) -> Way:
        optimizer = getattr(import_module(module), kind)
        return tensor_step(optimizer, elements, sets, problem.dtype, lr=LR, **settings)

    return needs("torch", module.partition(".")[0]) or make


def peers(problem: Problem) -> dict[str, Maker]:
    """All who step this problem, by name; a text says why one cannot."""
    reason = needs("torch") if problem.dtype == "bfloat16" else ""
    makers: dict[str, Maker] = {"fastopt": reason or partial(fastopt_buffer, problem)}
    makers["copy"] = partial(copy, problem.bytes)
    plain = problem.name == "RMSProp"
    if plain:
        makers["fastopt, fast"] = partial(fastopt_buffer, problem, fast=True)
        makers["CUDA C, float4"] = _nvrtc() or handwritten.cuda_c
        makers["CUDA C, float4, fast"] = _nvrtc() or partial(handwritten.cuda_c, fast=True)
        makers["Triton"] = needs("torch", "triton") or handwritten.triton
        makers["CuPy"] = needs("cupy") or cupy_kernel
        makers["torch, compiled"] = needs("torch") or torch_compiled
        makers["optax"] = needs("optax", "jax") or optax_step
    if problem.state_dtype is None:
        makers |= _of_torch(problem)
    if kind := BITSANDBYTES.get(problem.name):
        settings = {"alpha": BETA, "eps": EPS} if kind.startswith("RMS") else {}
        makers["bitsandbytes"] = _library("bitsandbytes.optim", kind, problem, settings)
    if problem.kind == "Adam" and problem.state_dtype == "8bit" and problem.dtype == "bfloat16":
        how = {"weight_decay": 0.0}
        makers["FlashOptim, 24-bit weights"] = _library("flashoptim", "FlashAdamW", problem, how)
    return makers
