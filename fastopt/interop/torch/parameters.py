"""Parameters that are stepped, with their state in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastopt.arrays.checks import Array
from fastopt.interop.torch.param_groups import ParamGroup, nadam_momentum_of
from fastopt.interop.torch.shards import is_sharded, part
from fastopt.interop.torch.state_formats import array_of
from fastopt.interop.torch.tensors import Reader, State, order, plain, reader
from fastopt.kernels.job import CORRECTION
from fastopt.transforms.base import Chain

# The states that may be a number for all elements.
SCALARS = "step", "mu_product", "eta", "mu"

MakeChain: TypeAlias = Callable[[ParamGroup, dict[int, float]], Chain]


@dataclass(eq=False)
class Row:
    """A parameter that is stepped, with its state."""

    param: Tensor
    group: int
    state: State  # users may have entries in it too, of any name that is not one of the following
    scalars: tuple[str, ...]  # of `SCALARS`, those that its class has
    names: tuple[str, ...]  # of the states that have a number for each of its elements
    fresh: bool  # its momentum starts with the next gradient
    capturable: bool  # its steps are counted on its device
    first: int | None = None  # the index of its first element among all; None counts the rows' own
    count: Array | None = field(init=False)  # the steps that torch counts
    product: Array | None = field(init=False)  # of NAdam's momenta
    rate: Array | None = field(init=False)  # ASGD's, which torch computes a step ahead
    share: Array | None = field(init=False)  # of the coming step in ASGD's average, likewise
    array: Array | Tensor = field(init=False)
    states: State = field(init=False)
    shadow: Tensor | None = field(init=False, default=None)
    read: Reader = field(init=False)
    dimensions: tuple[int, ...] = field(init=False)  # as they follow each other in memory
    part: Tensor = field(init=False)  # what this process has of a sharded parameter, else the parameter

    def __post_init__(self) -> None:
        self.part = part(self.param)
        target = self.part.detach()
        dimensions = order(target)
        if dimensions is None:  # gaps in memory: a copy is stepped, and copied back
            target = self.shadow = target.contiguous()
            dimensions = tuple(range(target.dim()))
        self.dimensions = dimensions
        self.read = reader(target.dtype, dimensions, target.device)
        self.array = self.read(target)
        self.states = {name: array_of(part(self.state[name]), dimensions) for name in self.names}
        self.count, self.product, self.rate, self.share = map(self._number, SCALARS)

    def _number(self, name: str) -> Array | None:
        return self.state[name].numpy() if name in self.scalars and not self.capturable else None

    def read_other(self, grad: Tensor) -> object:
        """A gradient of another dtype than the parameter's, which `Tensor.grad_dtype` allows.

        In float32 it has the digits of all dtypes that a step takes for a narrower parameter too.
        """
        dtype = self.part.dtype
        wide = dtype if dtype.is_complex or dtype == torch.float64 else torch.float32
        return reader(wide, self.dimensions, grad.device)(plain(grad).to(wide))

    def is_fresh(self, momentum_buffer: Tensor) -> bool:
        """Whether this buffer was made here, and no gradient has come yet."""
        return self.fresh and momentum_buffer is self.state["momentum_buffer"]

    @property
    def is_sharded(self) -> bool:
        return is_sharded(self.param)

    @property
    def ahead(self) -> tuple[float, ...]:
        """What torch has computed for the coming step."""
        return tuple(float(x) for x in (self.product, self.rate, self.share) if x is not None)

    @property
    def tracked(self) -> tuple[str, ...]:
        """The names of all states that a step writes."""
        return *self.scalars, *self.names

    def tensors(self) -> list[Tensor]:
        """All tensors whose memory a step uses."""
        return [self.param, *(self.state[name] for name in self.tracked)]


class Section:
    """Rows of one param group that share a chain."""

    def __init__(self, rows: list[Row], group: ParamGroup, make_chain: MakeChain) -> None:
        self.rows, self.group = rows, group
        self.device, self.capturable = rows[0].param.device, rows[0].capturable
        # NAdam's by the step that they include, or ASGD's rate and share of each step.
        self.products: dict[Any, Any] = {}
        self.chain = make_chain(group, self.products)

    def multiply(self) -> bool:
        """Take the next step's momentum into the products; False if some step has two products."""
        first = self.rows[0]
        if not first.ahead:
            return True
        self.products.clear()
        if first.rate is not None:
            numbers = {(int(row.count), row.ahead) for row in self.rows}  # type: ignore[arg-type]
            self.products.update(numbers)
            return len(numbers) == len(self.products)
        number = first.product.dtype.type  # type: ignore[union-attr]  # torch rounds to it too
        for step, product in {(int(row.count), float(row.product)) for row in self.rows}:  # type: ignore[arg-type]
            if step in self.products:
                return False
            momentum = nadam_momentum_of(self.group, step)
            self.products[step] = float(number(product) * number(momentum))
        return True

    def products_after(self, steps: Iterator[int]) -> list[float]:
        """What NAdam's product of each row is after its step of that number, 0 where it has none."""
        now = islice(steps, len(self.rows))
        return [
            0.0 if row.product is None else self.products[step]
            for row, step in zip(self.rows, now, strict=True)
        ]


def sections(rows: list[Row], groups: list[ParamGroup], make_chain: MakeChain) -> list[Section]:
    """A section for each device and group; several where equally many steps have other products.

    On each device those whose steps are counted there come last.
    """
    devices = list(dict.fromkeys(row.param.device for row in rows))
    rows_of: dict[tuple[Any, ...], list[Row]] = {}
    ahead: dict[object, tuple[float, ...]] = {}
    for row in sorted(rows, key=lambda row: (devices.index(row.param.device), row.capturable)):
        steps = None if row.count is None else int(row.count)
        for number in count():
            key = row.param.device, row.group, CORRECTION in row.names, number
            if ahead.setdefault((*key, steps), row.ahead) == row.ahead:
                break
        rows_of.setdefault(key, []).append(row)
    return [Section(part, groups[number], make_chain) for (_, number, *_), part in rows_of.items()]
