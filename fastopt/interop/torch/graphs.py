"""Steps that a CUDA graph can replay: their hyperparameters are computed on the device.

The step counts are tensors there, which the graph itself increments. From them the functions of
`Transform.hyper`, which the host calls with floats, compute the kernels' hyperparameters with tensors:
a few torch operations on a scalar for each parameter, captured with the rest.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastopt.arrays.checks import Array
from fastopt.changes import Change
from fastopt.codecs.rounding import whole_phase
from fastopt.executors.cuda.launches import LaunchHyper
from fastopt.interop.torch.param_groups import asgd_ahead, nadam_momentum_of
from fastopt.interop.torch.parameters import SCALARS, Row, Section
from fastopt.interop.torch.tensors import dtype_of
from fastopt.steps.group import Group
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.transforms.base import Chain
from fastopt.validation import DeviceScalar


def _plain(operation: Callable[[Any, Any], Any]) -> Any:
    return lambda scalar, other: TensorScalar(operation(scalar.values, _value(other)))


def _reflected(operation: Callable[[Any, Any], Any]) -> Any:
    return lambda scalar, other: TensorScalar(operation(_value(other), scalar.values))


def _value(operand: object) -> Any:
    return operand.values if isinstance(operand, TensorScalar) else operand


class TensorScalar(DeviceScalar):
    """A scalar of each of some parameters, on the device: a step count, or computed from one.

    Attributes
    ----------
    values : Tensor
        In float64.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    __add__, __radd__ = _plain(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _plain(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _plain(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _plain(operator.truediv), _reflected(operator.truediv)
    __pow__, __rpow__ = _plain(operator.pow), _reflected(operator.pow)

    def if_above(self, limit: float, then: object, otherwise: float) -> Any:
        """One of two numbers for each parameter, whose step count decides."""
        return TensorScalar(torch.where(self.values > limit, _value(then), otherwise))

    def operand(self, value: Any) -> Any:
        """A setting as an operand; each replay reads a tensor on the device again."""
        if isinstance(value, Tensor) and value.is_cuda:
            return TensorScalar(value.detach().double().reshape(()))
        return super().operand(value)


class CountedRows:
    """Rows of one section whose hyperparameters have the same dtype.

    Parameters
    ----------
    section : Section
    rows : sequence of Row
    like : array
        A buffer of `Hyperparameters`, whose content is to be on the device for each row.
    seed : int or None
        Of random bits, where any are needed.

    Attributes
    ----------
    numbers : Tensor
        What the kernel reads of each row.
    """

    def __init__(self, section: Section, rows: Sequence[Row], like: Array, seed: int | None) -> None:
        self._section, self._seed = section, seed
        self._steps = [row.state["step"] for row in rows]
        self._products, self._rates, self._shares = (
            [row.state[name] for row in rows if name in row.scalars] for name in SCALARS[1:]
        )
        shape, dtype = (len(rows), like.size), dtype_of(like.dtype.name)
        self.numbers = rows[0].param.detach().new_zeros(shape, dtype=dtype)

    def write(self, factor: float, has_gradient: Sequence[bool]) -> None:
        """Compute the hyperparameters of the next step, and count it for rows with a gradient."""
        if not any(has_gradient):  # none is stepped, and torch refuses empty lists
            return
        steps = TensorScalar(torch.stack(self._steps).double())
        if self._products:
            self._multiply(steps, has_gradient)
        if self._rates:
            ahead = (
                TensorScalar(torch.stack(scalars).double()) for scalars in (self._rates, self._shares)
            )
            self._section.products.clear()
            self._section.products[steps] = tuple(ahead)
        numbers: list[object] = [factor, self._phase(steps)]
        for part in self._section.chain:
            numbers += part.hyper_at(steps)  # type: ignore[arg-type]  # it computes like a step
        columns = [
            number.values.expand_as(steps.values)
            if isinstance(number, TensorScalar)
            else torch.full_like(steps.values, number)
            for number in numbers
        ]
        self.numbers.copy_(torch.stack(columns, 1))
        if self._rates:
            self._put_ahead(steps, has_gradient)
        torch._foreach_add_(list(compress(self._steps, has_gradient)), 1)

    def _put_ahead(self, steps: TensorScalar, has_gradient: Sequence[bool]) -> None:
        """Compute ASGD's rates and shares of the step after this one."""
        numbers = asgd_ahead(self._section.group, steps + 1.0)
        for tensors, number in zip((self._rates, self._shares), numbers, strict=True):
            values = number.values.expand_as(steps.values).to(tensors[0].dtype)
            stepped = list(compress(values.unbind(), has_gradient))
            torch._foreach_copy_(list(compress(tensors, has_gradient)), stepped)

    def _phase(self, steps: TensorScalar) -> Any:
        if self._seed is None:
            return 0.0
        return TensorScalar(whole_phase(self._seed, steps.values.long()).double())

    def _multiply(self, steps: TensorScalar, has_gradient: Sequence[bool]) -> None:
        """Multiply NAdam's products by the momenta of this step, rounded as in torch."""
        products_before = torch.stack(self._products)
        momenta: Any = nadam_momentum_of(self._section.group, steps)  # type: ignore[arg-type]
        products = products_before * momenta.values.to(products_before.dtype)
        self._section.products.clear()
        self._section.products[steps] = TensorScalar(products.double())
        new = list(compress(products.unbind(), has_gradient))
        torch._foreach_copy_(list(compress(self._products, has_gradient)), new)


class DeviceHyper(LaunchHyper):
    """Hyperparameters of each of some arrays, in device memory.

    Parameters
    ----------
    values : Tensor
        A row for each array.
    indices : sequence of int
        Which arrays these are.
    """

    def __init__(self, values: Tensor, indices: Sequence[int]) -> None:
        self._values = values
        bytes_of_row = values.stride(0) * values.element_size()
        self._addresses = {
            index: values.data_ptr() + bytes_of_row * row for row, index in enumerate(indices)
        }

    def arguments(self, indices: Sequence[int]) -> tuple[None, Sequence[int]]:
        """No hyperparameters are kernel arguments."""
        return None, ()

    @property
    def are_in_rows(self) -> bool:
        """Whether each of several arrays has its own, whose address is in its row of the table."""
        return True

    def address(self, rows: Sequence[int] = ()) -> list[int]:
        """The argument with their device address, in the launch of one array."""
        return [self._addresses[row] for row in rows] if len(rows) == 1 else []

    def addresses(self, rows: Sequence[int]) -> Array:
        """For each array, what its row has: the device address."""
        return np.array([[self._addresses[row]] for row in rows], np.int64)

    def send(self, stream: int) -> None:
        """Nothing to copy."""


class GraphHyperparameters(Hyperparameters):
    """Hyperparameters that the device computes from its step counts.

    Each array has its own, whose address is in its row of the table of a launch.

    Parameters
    ----------
    sections : sequence of Section
    groups, seed
        As of `Hyperparameters`.
    """

    is_on_device = True

    def __init__(self, sections: Sequence[Section], groups: Sequence[Group], seed: int | None) -> None:
        super().__init__(groups)
        super().filled(0, 1.0)  # raises if a constant is invalid
        members: dict[int, list[tuple[int, Section, Row]]] = {}
        rows = ((section, row) for section in sections for row in section.rows)
        for index, (section, row) in enumerate(rows):
            members.setdefault(id(super().of(index)), []).append((index, section, row))
        self._counted: list[tuple[list[int], CountedRows]] = []
        self._launched: dict[int, DeviceHyper] = {}
        for together in members.values():
            indices, (first, *_), counted_rows = zip(*together, strict=True)
            counted = CountedRows(first, counted_rows, super().of(indices[0]), seed)
            self._counted.append((list(indices), counted))
            self._launched.update(dict.fromkeys(indices, DeviceHyper(counted.numbers, indices)))
        self._settled: tuple[float, float] | None = None

    def of(self, row: int) -> Any:
        """The hyperparameters of the launch of one row."""
        return self._launched[row]

    def vary(self, chains: Sequence[Chain] | None = None) -> bool:
        """False: the host has no hyperparameters that vary."""
        return False

    def filled(
        self, step: int, grad_scale: float, chains: Sequence[Chain] | None = None
    ) -> list[Change]:
        """No changes on the host: see `write`."""
        return []

    def write(self, has_gradient: Sequence[bool], grad_scale: float, limit: float) -> None:
        """Compute and count the next step on the device, or record that in a graph."""
        if not torch.cuda.is_current_stream_capturing():
            self._settled = grad_scale, limit
        elif math.isfinite(limit) and self._settled != (grad_scale, limit):
            raise RuntimeError(
                f"clip_norm was changed to {limit} since the last step: take one step with it, then "
                "capture the next"
            )
        for indices, counted in self._counted:
            counted.write(1.0 / grad_scale, [has_gradient[index] for index in indices])
