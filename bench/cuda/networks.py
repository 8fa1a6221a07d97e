"""A step over a network's parameters in torch: on the device, on the host, replayed from a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.cuda.clock import Maker, Way
from bench.cuda.peers import FUSED, TORCH, needs
from bench.cuda.problems import LR
from bench.models import MODELS, Shape

OPTIMIZERS = "Adam", "RMSProp", "SGD"
STATES = {"Adam": 2, "RMSProp": 1, "SGD": 1}
ONE = "one parameter"
SHAPES: dict[str, Callable[[], list[Shape]]] = {**MODELS, ONE: lambda: [(1024,)]}


def _ones(shapes: list[Shape], device: str = "cuda") -> list[Any]:
    import torch

    return [torch.nn.Parameter(torch.ones(shape, device=device)) for shape in shapes]


def _fresh(params: list[Any]) -> Callable[[int], None]:
    """Gradients in other tensors than before, as after a backward pass."""

    def backward(_: int) -> None:
        import torch

        for param in params:
            param.grad = torch.ones_like(param)

    return backward


def stepping(
    make: Callable[[list[Any]], Any], shapes: list[Shape], fresh: bool, device: str = "cuda"
) -> Maker:
    """Steps with the same gradients, or with fresh ones before each, which are not timed."""

    def maker(elements: int, sets: int) -> Way:
        params = _ones(shapes, device)
        backward = _fresh(params)
        backward(0)
        optimizer = make(params)
        return Way(
            lambda i: optimizer.step(),
            lambda: params[0].flatten()[0].item(),
            setup=backward if fresh else None,
        )

    return maker


def replaying(make: Callable[[list[Any]], Any], shapes: list[Shape]) -> Maker:
    """Replays of a graph that captured a step."""

    def maker(elements: int, sets: int) -> Way:
        import torch

        params = _ones(shapes)
        _fresh(params)(0)
        optimizer = make(params)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.step()
        return Way(lambda i: graph.replay(), lambda: params[0].flatten()[0].item())

    return maker


def makers(kind: str, **options: Any) -> dict[str, Callable[[list[Any]], Any] | str]:
    """From parameters to an optimizer, by peer."""
    name, settings = TORCH[kind]
    settings = {"lr": LR} | settings | options
    reason = needs("torch")

    def fast(params: list[Any]) -> Any:
        import fastopt.interop.torch

        return getattr(fastopt.interop.torch, name)(params, **settings)

    def torch_step(**more: Any) -> Callable[[list[Any]], Any]:
        def make(params: list[Any]) -> Any:
            import torch

            return getattr(torch.optim, name)(params, **settings, **more)

        return make

    peers: dict[str, Callable[[list[Any]], Any] | str] = {"fastopt": reason or fast}
    peers["torch, foreach"] = reason or torch_step(foreach=True)
    if kind in FUSED:
        peers["torch, fused"] = reason or torch_step(fused=True)
    return peers
