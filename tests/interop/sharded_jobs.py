"""What the processes of tests/interop/test_torch_sharded.py do: all of them run each job together."""

import copy
import os
import re
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import fastopt.interop.torch as fast
from tests.test_readme import blocks

SETTINGS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "dampening": 0.25, "weight_decay": 0.01},
    "RMSprop": {"lr": 0.01, "alpha": 0.8, "momentum": 0.5, "centered": True, "weight_decay": 0.01},
    "Adagrad": {"lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.3},
    "Adam": {"lr": 0.01, "betas": (0.7, 0.9), "amsgrad": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "NAdam": {"lr": 0.01, "momentum_decay": 0.02},
    "Adadelta": {"lr": 0.5, "rho": 0.8},
    "Adamax": {"lr": 0.01, "weight_decay": 0.01},
    "RAdam": {"lr": 0.01, "betas": (0.7, 0.9)},
    "Rprop": {"lr": 0.01, "etas": (0.4, 1.3)},
}
# With two and three processes: equal parts, others, and some that are empty.
SHAPES = (12, 5), (7, 3), (1, 4), (2,)


def numbers(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def sharded(tensors, mesh, placements):
    return [distribute_tensor(tensor, mesh, placements) for tensor in tensors]


def both(name, mesh, placements, dtype=torch.float32, **settings):
    """The optimizer over whole tensors, and over the same ones in shards."""
    whole = [torch.nn.Parameter(tensor) for tensor in numbers(0, dtype)]
    parts = [torch.nn.Parameter(p) for p in sharded(numbers(0, dtype), mesh, placements)]
    make = getattr(fast, name)
    return make(whole, **settings), make(parts, **settings)


def params(optimizer):
    return optimizer.param_groups[0]["params"]


def full(tensor):
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.dtype == torch.int16:  # which gloo cannot gather
        return tensor.int().full_tensor().short()
    return tensor.full_tensor()


def step(seed, whole, parts, dtype=torch.float32):
    """A step of both, the second parameter without a gradient in the third one."""
    for optimizer in (whole, parts):
        for i, (param, grad) in enumerate(zip(params(optimizer), numbers(seed, dtype), strict=True)):
            if isinstance(param, DTensor):
                grad = distribute_tensor(grad, param.device_mesh, param.placements)
            param.grad = None if (seed, i) == (3, 1) else grad
        optimizer.step()


def check_same(whole, parts):
    for i, (param, part) in enumerate(zip(params(whole), params(parts), strict=True)):
        assert torch.equal(param, full(part).detach()), i
        states = parts.decoded(part)
        assert whole.state[param].keys() == states.keys()
        for name, state in whole.state[param].items():
            assert torch.equal(state, full(states[name])), (i, name)


def mesh_of(*sizes):
    return init_device_mesh("cpu", sizes)


def every_class():
    """Parameters and states have the bits of those that are not sharded."""
    mesh = mesh_of(dist.get_world_size())
    for name, settings in SETTINGS.items():
        whole, parts = both(name, mesh, [Shard(0)], average_decay=0.9, **settings)
        for seed in range(1, 5):
            for optimizer in (whole, parts):
                optimizer.param_groups[0]["lr"] *= 0.9
            step(seed, whole, parts)
        check_same(whole, parts)
        kinds = {type(state) for state in parts.state[params(parts)[0]].values() if state.dim()}
        assert kinds == {DTensor}


def placements():
    """Columns, copies, a mesh of two dimensions, and gradients that are placed otherwise."""
    n = dist.get_world_size()
    for mesh, placed in [
        (mesh_of(n), [Replicate()]),
        (mesh_of(n, 1), [Shard(0), Replicate()]),
        (mesh_of(1, n), [Replicate(), Shard(0)]),
    ]:
        whole, parts = both("RMSprop", mesh, placed, lr=0.01)
        step(1, whole, parts)
        step(2, whole, parts)
        check_same(whole, parts)
    w, g = numbers(0)[0], numbers(1)[0]
    param = torch.nn.Parameter(distribute_tensor(w, mesh_of(n), [Shard(1)]))
    whole, parts = torch.nn.Parameter(w), fast.Adam([param])
    whole.grad = g
    param.grad = distribute_tensor(g, mesh_of(n), [Shard(0)])
    reference = fast.Adam([whole])
    reference.step()
    parts.step()
    check_same(reference, parts)


def random_bits():
    """They are those of the whole tensor where shards begin at multiples of 256 elements."""
    mesh = mesh_of(dist.get_world_size())
    for name in ("RMSprop", "AdamW"):
        w = torch.linspace(-1, 1, 6 * 256).reshape(6, 256).to(torch.bfloat16)
        g = torch.full_like(w, 0.3)
        whole = torch.nn.Parameter(w.clone())
        part = torch.nn.Parameter(distribute_tensor(w, mesh, [Shard(0)]))
        pair = [getattr(fast, name)([p], lr=1e-3, stochastic_rounding=True) for p in (whole, part)]
        whole.grad, part.grad = g, distribute_tensor(g, mesh, [Shard(0)])
        for _ in range(3):
            for optimizer in pair:
                optimizer.step()
        check_same(*pair)
        assert not torch.equal(whole, w)


def split_weights():
    """Corrections are sharded as the weights are."""
    mesh = mesh_of(dist.get_world_size())
    for bits in (24, 32):
        pair = both("AdamW", mesh, [Shard(0)], torch.bfloat16, lr=0.01, master_bits=bits)
        for seed in range(1, 4):
            step(seed, *pair, torch.bfloat16)
        check_same(*pair)
        assert isinstance(pair[1].state[params(pair[1])[0]]["correction"], DTensor)

        saved = pair[1].state_dict()  # gathered as torch.distributed.checkpoint does
        for key, states in saved["state"].items():
            gathered = {n: s.full_tensor() if isinstance(s, DTensor) else s for n, s in states.items()}
            saved["state"][key] = gathered
        other = both("AdamW", mesh, [Shard(0)], torch.bfloat16, lr=0.01, master_bits=bits)
        for optimizer, resumed in zip(pair, other, strict=True):
            resumed.load_state_dict(copy.deepcopy(saved))
            with torch.no_grad():
                for param, value in zip(params(resumed), params(optimizer), strict=True):
                    param.copy_(value)
        for each in (pair, other):
            step(4, *each, torch.bfloat16)
            check_same(*each)
        check_same(pair[0], other[1])


def norms():
    """The norm is that of all processes, those without elements of their own included."""
    mesh = mesh_of(dist.get_world_size())
    for placed in ([Shard(0)], [Replicate()]):
        whole, parts = both("Adam", mesh, placed, lr=0.01, clip_norm=0.5)
        for seed in range(1, 4):
            step(seed, whole, parts)
            np.testing.assert_allclose(parts.last.norm, whole.last.norm, rtol=1e-13)
        for param, part in zip(params(whole), params(parts), strict=True):
            np.testing.assert_allclose(full(part).detach(), param.detach(), rtol=0, atol=2**-23)
    for param in params(parts):
        param.grad = distribute_tensor(torch.full(param.shape, 1e30), mesh, placed)
    parts.step()
    count = sum(param.numel() for param in params(parts))
    np.testing.assert_allclose(parts.last.norm, 1e30 * count**0.5, rtol=1e-6)


def model(seed=0):
    torch.manual_seed(seed)
    layers = torch.nn.Linear(5, 96), torch.nn.Tanh(), torch.nn.Linear(96, 64), torch.nn.Linear(64, 1)
    built = torch.nn.Sequential(*layers)
    fully_shard(built, mesh=mesh_of(dist.get_world_size()))
    return built


def train(built, optimizer, seeds):
    for seed in seeds:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        built(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()


def fsdp():
    """torch's optimizer over a model of `fully_shard` comes to the same."""
    for name, settings in SETTINGS.items():
        if name == "Rprop":  # torch's own ends in an error about an operation
            continue
        models = model(), model()
        reference = getattr(torch.optim, name)(models[0].parameters(), **settings)
        ours = getattr(fast, name)(models[1].parameters(), **settings)
        for built, optimizer in zip(models, (reference, ours), strict=True):
            train(built, optimizer, range(3))
        for a, b in zip(*(built.parameters() for built in models), strict=True):
            np.testing.assert_allclose(full(a).detach(), full(b).detach(), rtol=0, atol=1e-6)


def in_backward():
    models = model(), model()
    ordinary = fast.AdamW(models[0].parameters(), lr=0.01)
    inside = fast.step_in_backward(models[1], fast.AdamW, lr=0.01)
    for built, optimizer in zip(models, (ordinary, inside), strict=True):
        train(built, optimizer, range(3))
    for a, b in zip(*(built.parameters() for built in models), strict=True):
        assert torch.equal(full(a), full(b))


def page():
    """The code of docs/torch.md runs."""
    path = Path(__file__).parents[2] / "docs" / "torch.md"
    (code,) = (code for code in blocks(path, "py") if "fully_shard" in code)
    built = torch.nn.Linear(64, 65)
    scope = {"model": built, "AdamW": fast.AdamW}
    exec(compile(code, str(path), "exec"), scope)
    train(torch.nn.Sequential(torch.nn.Linear(5, 64), built), scope["optimizer"], range(2))
    assert all(isinstance(param, DTensor) for param in scope["optimizer"].state)


def checkpoints():
    """`torch.distributed.checkpoint` saves and loads all states, those of 8 bits as float32."""
    for settings in ({}, {"state_dtype": "8bit"}, {"state_dtype": torch.bfloat16}):
        built = model()
        optimizer = fast.Adam(built.parameters(), lr=0.01, **settings)
        train(built, optimizer, range(3))
        folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(folder)
        saved = get_optimizer_state_dict(built, optimizer)
        dcp.save({"optimizer": saved, "model": built.state_dict()}, checkpoint_id=folder[0])

        other = model(seed=1)
        resumed = fast.Adam(other.parameters(), lr=0.5, **settings)
        content = {
            "optimizer": get_optimizer_state_dict(other, resumed),
            "model": other.state_dict(),
        }
        dcp.load(content, checkpoint_id=folder[0])
        other.load_state_dict(content["model"])
        set_optimizer_state_dict(other, resumed, content["optimizer"])
        for a, b in zip(built.parameters(), other.parameters(), strict=True):
            for name, state in optimizer.decoded(a).items():
                assert torch.equal(full(state), full(resumed.decoded(b)[name])), name
        assert resumed.param_groups[0]["lr"] == 0.01
        for each in ((built, optimizer), (other, resumed)):
            train(*each, range(3, 5))
        # Encoded once more, numbers of 8 bits change by the rounding of their scales at most.
        close = 1e-3 if settings.get("state_dtype") == "8bit" else 0
        for a, b in zip(built.parameters(), other.parameters(), strict=True):
            np.testing.assert_allclose(full(a).detach(), full(b).detach(), rtol=0, atol=close)


def whole_states():
    """A state dict of tensors that are not sharded is loaded into shards, and the other way round."""
    mesh = mesh_of(dist.get_world_size())
    whole, parts = both("Adam", mesh, [Shard(0)], lr=0.01)
    step(1, whole, parts)
    parts.load_state_dict(copy.deepcopy(whole.state_dict()))
    step(2, whole, parts)
    check_same(whole, parts)
    gathered = parts.state_dict()
    for key, states in gathered["state"].items():
        gathered["state"][key] = {name: full(state).clone() for name, state in states.items()}
    whole.load_state_dict(gathered)
    step(3, whole, parts)
    check_same(whole, parts)


def refused(kind, text, call):
    with pytest.raises(kind, match=re.escape(text)):
        call()


def refusals():
    """Before any state is made."""
    mesh = mesh_of(dist.get_world_size())

    def one(param, make=fast.Adam, **settings):
        optimizer = make([param], **settings)
        param.grad = torch.ones_like(param)
        return optimizer

    partial = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    summed = one(torch.nn.Parameter(partial))
    refused(TypeError, "['params'][0] must be sharded or replicated", summed.step)
    placed = torch.nn.Parameter(distribute_tensor(torch.ones(6), mesh, [Shard(0)]))
    graphs = one(placed, capturable=True)
    refused(RuntimeError, "capturable must be False for sharded parameters", graphs.step)
    plain = torch.nn.Parameter(torch.ones(3))
    plain.grad = torch.ones(3)
    clipped = fast.SGD([placed, plain], lr=0.1, momentum=0.5, clip_norm=1.0)
    refused(ValueError, "clip_norm must be None where parameters are not sharded among", clipped.step)
    assert not any(optimizer.state for optimizer in (summed, graphs, clipped))
    assert full(placed).tolist() == [1.0] * 6

    packed, parts = both("Adam", mesh, [Shard(0)], lr=0.01, state_dtype="8bit")
    large = torch.nn.Parameter(torch.ones(64, 64))
    large.grad = torch.ones(64, 64)
    packed = fast.Adam([large], state_dtype="8bit")
    packed.step()
    shards = torch.nn.Parameter(distribute_tensor(torch.ones(64, 64), mesh, [Shard(0)]))
    parts = one(shards, state_dtype="8bit")
    refused(ValueError, "decoded_state_dict", lambda: parts.load_state_dict(packed.state_dict()))
    parts.load_state_dict(packed.decoded_state_dict())
    parts.step()


JOBS = {
    job.__name__: job
    for job in (
        every_class,
        placements,
        random_bits,
        split_weights,
        norms,
        fsdp,
        in_backward,
        page,
        checkpoints,
        whole_states,
        refusals,
    )
}


def run(rank, size, folder, names):
    """One process: run these jobs, and write down what went wrong."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    for name in names:
        error = ""
        try:
            JOBS[name]()
        except Exception:
            error = traceback.format_exc()
        errors = [None] * size
        dist.all_gather_object(errors, error)  # a process that failed is waited for
        if rank == 0:
            Path(folder, name).write_text("\n".join(filter(None, errors)), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)
