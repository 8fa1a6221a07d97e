"""RMSProp as a CUDA programmer writes it: four float32 at a time, in CUDA C and in Triton."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cuda.clock import Way
from bench.cuda.problems import BETA, EPS, LR

SOURCE = r"""
extern "C" __global__ void rmsprop(float4* w, const float4* g, float4* v, long long groups,
                                   float lr, float beta, float rest, float eps) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= groups) return;
    float4 a = w[i], b = g[i], c = v[i];
#define STEP(x) c.x = beta * c.x + rest * b.x * b.x; a.x = a.x - lr * b.x / (sqrtf(c.x) + eps);
    STEP(x) STEP(y) STEP(z) STEP(w)
    w[i] = a;
    v[i] = c;
}
"""
THREADS = 256


def compiled(architecture: tuple[int, int], fast: bool) -> tuple[bytes, bytes]:
    """The kernel as machine code and PTX, by NVRTC."""
    from cuda.bindings import nvrtc

    def call(function: Any, *arguments: Any) -> Any:
        status, *results = function(*arguments)
        if int(status) != 0:
            raise RuntimeError(f"{function.__name__}: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
        return results[0] if results else None

    options = ["--gpu-architecture=sm_{}{}".format(*architecture).encode()]
    options += [b"--use_fast_math" if fast else b"--fmad=false"]
    program = call(nvrtc.nvrtcCreateProgram, SOURCE.encode(), b"rmsprop.cu", 0, [], [])
    call(nvrtc.nvrtcCompileProgram, program, len(options), options)
    machine = bytearray(call(nvrtc.nvrtcGetCUBINSize, program))
    ptx = bytearray(call(nvrtc.nvrtcGetPTXSize, program))
    call(nvrtc.nvrtcGetCUBIN, program, machine)
    call(nvrtc.nvrtcGetPTX, program, ptx)
    return bytes(machine), bytes(ptx)


def cuda_c(elements: int, sets: int, fast: bool = False) -> Way:
    """The kernel in CUDA C, with prepared arguments, by the bindings of the driver."""
    from numba import cuda

    from fastopt.executors.cuda import device

    if elements % 4:
        raise ValueError("the number of elements must be a multiple of 4")
    code = device.Code("rmsprop", *compiled(device.architecture(), fast))
    handle, groups = device.load(code), elements // 4
    arrays = []
    pointers = []
    for _ in range(sets):
        operands = [cuda.to_device(np.full(elements, x, np.float32)) for x in (1, 1, 0)]
        words = np.array([a.__cuda_array_interface__["data"][0] for a in operands] + [groups], np.int64)
        floats = np.array([LR, BETA, 1.0 - BETA, EPS], np.float32)
        at = [words.ctypes.data + 8 * i for i in range(4)]
        at += [floats.ctypes.data + 4 * i for i in range(4)]
        arrays.append((operands, words, floats))
        pointers.append(np.array(at, np.int64))

    def step(i: int) -> None:
        device.launch(handle, -(-groups // THREADS), THREADS, 0, pointers[i])

    return Way(step, lambda: float(arrays[0][0][0][:1].copy_to_host()[0]))


def triton(elements: int, sets: int) -> Way:
    """The kernel in Triton, over torch's tensors."""
    import torch
    from triton import cdiv

    from bench.cuda.triton_kernel import rmsprop

    params, grads = ([torch.ones(elements, device="cuda") for _ in range(sets)] for _ in range(2))
    squares = [torch.zeros(elements, device="cuda") for _ in range(sets)]
    block = 1024
    grid = (cdiv(elements, block),)

    def step(i: int) -> None:
        rmsprop[grid](params[i], grads[i], squares[i], elements, LR, BETA, 1.0 - BETA, EPS, BLOCK=block)

    return Way(step, lambda: params[0][0].item())
