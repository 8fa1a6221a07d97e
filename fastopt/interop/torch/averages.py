"""The averaged parameters that transforms keep, to evaluate with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from fastopt.arrays.checks import Array
from fastopt.changes import Change, assign, for_now
from fastopt.interop.torch.chained import Chained
from fastopt.interop.torch.master_weights import with_correction
from fastopt.interop.torch.shards import like, part
from fastopt.interop.torch.state_formats import numbers
from fastopt.interop.torch.tensors import State
from fastopt.transforms.base import Chain


class Averaged(Chained):
    """What optimizers have to evaluate with an average of their parameters."""

    _is_exchanged = False

    def averaged_params(self) -> list[Tensor]:
        """Return the averaged parameters: what to evaluate with.

        Those of `schedule_free`, of `average_decay` or of `ASGD`, or of a transform of your own.

        Returns
        -------
        list of Tensor
            New tensors like the parameters, in the order of ``param_groups``. A parameter that has
            taken no step, or whose group keeps no average, is copied as it is.

        Raises
        ------
        ValueError
            No group keeps an average.

        Examples
        --------
        >>> import torch
        >>> from fastopt.interop.torch import SGD
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = SGD([w], lr=1.0, average_decay=0.5)
        >>> w.sum().backward()
        >>> optimizer.step()
        >>> w.item(), optimizer.averaged_params()
        (0.0, [tensor([0.5000])])
        """
        return _averages(self)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the averaged parameters in the model until the ``with`` is left.

        The parameters are kept in memory meanwhile, and come back unchanged. Until then steps, copies
        and pickles of the optimizer are refused; a state dict of the model has the averages.

        Raises
        ------
        ValueError
            No group keeps an average.

        Examples
        --------
        >>> import torch
        >>> from fastopt.interop.torch import SGD
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = SGD([w], lr=1.0, average_decay=0.5)
        >>> w.sum().backward()
        >>> optimizer.step()
        >>> with optimizer.averaged():
        ...     print(w.item())
        0.5
        >>> w.item()
        0.0
        """
        self._check_not_exchanged()
        params = [param for group in self.param_groups for param in group["params"]]
        averages = self.averaged_params()
        copies = [part(param).detach().clone() for param in params]
        new = [part(average) for average in averages]
        forth: list[Change] = [assign(self, "_is_exchanged", True), partial(_exchange, params, new)]
        back: list[Change] = [partial(_exchange, params, copies), assign(self, "_is_exchanged", False)]
        with for_now(forth, back):
            yield

    def _check_not_exchanged(self) -> None:
        if self._is_exchanged:
            raise RuntimeError(
                "the parameters are exchanged for their average: leave the `with` of averaged(), then "
                "step or copy"
            )


def _exchange(params: list[Tensor], numbers: list[Tensor]) -> None:
    # Detached, not within `no_grad`: an interrupt of its end would leave gradients switched off.
    for param, new in zip(params, numbers, strict=True):
        part(param).detach().copy_(new)


def _averages(optimizer: Chained) -> list[Tensor]:
    chains = [optimizer._chain(group, {}) for group in optimizer.param_groups]
    if not any(transform.averaged for chain in chains for transform in chain):
        raise ValueError(
            f"{type(optimizer).__name__} keeps no average of its parameters: make it with "
            "average_decay or schedule_free"
        )
    return [
        _average(param, optimizer.state.get(param, {}), chain)
        for group, chain in zip(optimizer.param_groups, chains, strict=True)
        for param in group["params"]
    ]


def _average(param: Tensor, state: State, chain: Chain) -> Tensor:
    """The average of a parameter, of several in its chain the last, or a copy of the parameter."""
    every, function, names = iter(chain.states()), None, list[str]()
    for transform in chain:
        states = list(islice(every, len(transform.state)))
        if transform.averaged is not None:
            function, names = transform.averaged, states
    if function is None or not all(name in state for name in names):
        return param.detach().clone()
    local = part(param).detach()
    arrays = [_array(numbers(name, part(state[name]), local, chain)) for name in names]
    wide = _array(with_correction(param, state))
    average = torch.from_numpy(np.asarray(function(wide, tuple(arrays))))
    if param.is_complex():
        average = torch.view_as_complex(average)
    return like(torch.empty_like(local).copy_(average), param)


def _array(tensor: Tensor) -> Array:
    """The numbers of a tensor in the dtype of the arithmetic; of complex ones in pairs."""
    on_host = tensor.detach().cpu().resolve_conj().resolve_neg()
    real = torch.view_as_real(on_host) if on_host.is_complex() else on_host
    numbers_ = real if real.dtype == torch.float64 else real.float()
    array: Array = numbers_.contiguous().numpy()
    return array
