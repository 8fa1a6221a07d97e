"""The optimizers: torch's arguments, and those that fastopt adds."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

import fastopt
from fastopt.interop.torch.base import FastOptimizer
from fastopt.interop.torch.options import Added, torch_arguments
from fastopt.interop.torch.param_groups import Rate
from fastopt.interop.torch.sparse import adagrad_step, sgd_step
from fastopt.interop.torch.tensors import Params


class SGD(FastOptimizer, torch.optim.SGD):
    """`torch.optim.SGD`, stepped by fastopt.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov, maximize
        As in torch.
    foreach, fused
        Accepted as torch accepts them: there is one way to step here.
    differentiable
        Must be False.
    **added
        `clip_norm`, `average_decay`, `state_dtype`, `stochastic_rounding`: see `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import SGD
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = SGD([w], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     opt.zero_grad()
    ...     (w**2).sum().backward()
    ...     opt.step()
    >>> round(w.item(), 4)
    2.3
    """

    _optimizer = fastopt.SGD
    _counts = {}  # noqa: RUF012  # declared in the base class
    _sparse = (sgd_step,)

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)


class RMSprop(FastOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, stepped by fastopt.

    Parameters
    ----------
    params, lr, alpha, eps, weight_decay, momentum, centered, maximize
        As in torch.
    capturable, foreach, differentiable
        As in `SGD`; `capturable` lets steps be captured in CUDA graphs.
    fused
        torch has none here. True announces to `GradScaler` that the step unscales gradients, as with
        the other optimizers.
    **added
        See `Added`.

    Notes
    -----
    With `centered` the variance is clamped at zero, where torch takes the root of what rounding has
    made negative and gives NaN.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import RMSprop
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = RMSprop([w], lr=0.1, alpha=0.5)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> opt.state[w]["square_avg"]
    tensor([50.])
    """

    _optimizer = fastopt.RMSProp

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals(), "fused"), fused=fused, **added)


class Adagrad(FastOptimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad`, stepped by fastopt.

    Parameters
    ----------
    params, lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize
        As in torch.
    foreach, fused, differentiable
        As in `SGD`.
    **added
        See `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Adagrad
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = Adagrad([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> opt.state[w]["sum"]
    tensor([100.])
    """

    _optimizer = fastopt.AdaGrad
    _sparse = (adagrad_step,)

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)


class Adam(FastOptimizer, torch.optim.Adam):
    """`torch.optim.Adam`, stepped by fastopt.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay
        As in torch.
    foreach, capturable, differentiable, fused
        As in `SGD` and `RMSprop`.
    **added
        See `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Adam
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = Adam([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> sorted(opt.state[w])
    ['exp_avg', 'exp_avg_sq', 'step']
    """

    _optimizer = fastopt.Adam

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)


class AdamW(FastOptimizer, torch.optim.AdamW):
    """`torch.optim.AdamW`, stepped by fastopt.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize
        As in torch.
    foreach, capturable, differentiable, fused
        As in `SGD` and `RMSprop`.
    **added
        See `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import AdamW
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = AdamW([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> round(w.item(), 4)
    4.895
    """

    _optimizer = fastopt.AdamW

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals()), **added)


class NAdam(FastOptimizer, torch.optim.NAdam):
    """`torch.optim.NAdam`, stepped by fastopt.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, maximize
        As in torch.
    foreach, capturable, differentiable, fused
        As in `SGD` and `RMSprop`.
    **added
        See `Added`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import NAdam
    >>> w = torch.nn.Parameter(torch.tensor([5.0]))
    >>> opt = NAdam([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> opt.step()
    >>> sorted(opt.state[w])
    ['exp_avg', 'exp_avg_sq', 'mu_product', 'step']
    """

    _optimizer = fastopt.NAdam
    _counts = {"step": 0.0, "mu_product": 1.0}  # noqa: RUF012  # declared in the base class

    def __init__(
        self,
        params: Params,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **added: Unpack[Added],
    ) -> None:
        super().__init__(params, torch_arguments(locals(), "fused"), fused=fused, **added)
