"""Tensors that move to other memory between steps: nothing reads what they left."""

import os

from tests.interop.torch_pairs import SETTINGS
from tests.subprocesses import run

# Everything lies in pages that nobody may touch once their tensor has moved: who reads them is killed.
SCRIPT = """
import ctypes
import mmap

import torch

import fastopt.interop.torch as fast
from tests.fuzz.guard import forbid

PAGES = []


def on_pages(tensor):
    PAGES.append(mmap.mmap(-1, max(1, tensor.nbytes)))
    moved = torch.frombuffer(PAGES[-1], dtype=tensor.dtype, count=tensor.numel())
    return moved.view(tensor.shape).copy_(tensor)


def leave():
    for pages in PAGES:
        forbid(ctypes.addressof(ctypes.c_char.from_buffer(pages)), len(pages))
    PAGES.clear()


def train(name, settings, moves):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 5), (7,), ())]
    optimizer = getattr(fast, name)(params, **settings)
    for step in range(6):
        for param in params:
            state = optimizer.state[param]
            if moves and step in (2, 4):
                param.data = on_pages(param.data)
                for key in state:
                    state[key] = on_pages(state[key])
            if moves and step == 3:
                for tensor in (param.data, *state.values()):
                    tensor.share_memory_()
            if moves and step == 5:
                for tensor in (param, *state.values()):
                    tensor.data = tensor.detach().clone()
            param.grad = torch.randn(param.shape)
        if step in (3, 5):
            leave()
        optimizer.step()
    return params


for name, settings in {settings}.items():
    print(name, flush=True)  # the last one is at fault
    for moved, stayed in zip(*(train(name, settings, moves) for moves in (True, False)), strict=True):
        assert torch.equal(moved, stayed), name
"""


def test_memory_that_tensors_left_is_not_touched(tmp_path):
    cache = os.environ.get("FASTOPT_CACHE_DIR", tmp_path)
    run(SCRIPT.replace("{settings}", repr(SETTINGS)), cache)
