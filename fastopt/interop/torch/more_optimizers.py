"""More of torch's optimizers: its arguments, and those that fastopt adds."""

from __future__ import annotations

from typing import Unpack

import torch

import fastopt
from fastopt.interop.torch.base import FastOptimizer
from fastopt.interop.torch.options import Added, torch_arguments
from fastopt.interop.torch.param_groups import Rate
from fastopt.interop.torch.tensors import Params


class Adadelta(FastOptimizer, torch.optim.Adadelta):
    """`torch.optim.Adadelta`, stepped by fastopt: torch has no fused one.

    Parameters
    ----------
    params, lr, rho, eps, weight_decay, maximize
        As in torch.
    capturable, foreach, differentiable
        As in `SGD` and `RMSprop`.
    **added
        See `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Adadelta
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = Adadelta([w], rho=0.5)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> sorted(opt.state[w])
    ['acc_delta', 'square_avg', 'step']
    """

    _optimizer = fastopt.AdaDelta

    def __init__(
        self,
        params: Params,
        lr: Rate = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)


class Adamax(FastOptimizer, torch.optim.Adamax):
    """`torch.optim.Adamax`, stepped by fastopt: torch has no fused one.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, maximize
        As in torch.
    capturable, foreach, differentiable
        As in `SGD` and `RMSprop`.
    **added
        See `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Adamax
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = Adamax([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> opt.state[w]["exp_inf"]
    tensor([10.])
    """

    _optimizer = fastopt.AdaMax

    def __init__(
        self,
        params: Params,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)


class RAdam(FastOptimizer, torch.optim.RAdam):
    """`torch.optim.RAdam`, stepped by fastopt: torch has no fused one.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, decoupled_weight_decay, maximize
        As in torch.
    capturable, foreach, differentiable
        As in `SGD` and `RMSprop`.
    **added
        See `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import RAdam
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = RAdam([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> round(w.item(), 4)
    4.0
    """

    _optimizer = fastopt.RAdam

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)


class Rprop(FastOptimizer, torch.optim.Rprop):
    """`torch.optim.Rprop`, stepped by fastopt: torch has no fused one.

    Parameters
    ----------
    params, lr, etas, step_sizes, maximize
        As in torch.
    capturable, foreach, differentiable
        As in `SGD` and `RMSprop`.
    **added
        See `Added`.

    Notes
    -----
    Signs are compared, where torch takes the sign of a product, which can underflow to zero.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Rprop
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = Rprop([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> opt.state[w]["step_size"]
    tensor([0.1000])
    """

    _optimizer = fastopt.Rprop

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)


class ASGD(FastOptimizer, torch.optim.ASGD):
    """`torch.optim.ASGD`, stepped by fastopt: torch has no fused one.

    Parameters
    ----------
    params, lr, lambd, alpha, t0, weight_decay, maximize
        As in torch: a changed rate acts a step later.
    capturable, foreach, differentiable
        As in `SGD` and `RMSprop`.
    **added
        See `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import ASGD
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = ASGD([w], lr=0.1, t0=0)
    >>> for _ in range(2):
    ...     opt.zero_grad()
    ...     (w**2).sum().backward()
    ...     opt.step()
    >>> sorted(opt.state[w])
    ['ax', 'eta', 'mu', 'step']
    """

    _optimizer = fastopt.ASGD
    _counts = {"step": 0.0, "eta": "lr", "mu": 1.0}  # noqa: RUF012  # declared in the base class

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)
