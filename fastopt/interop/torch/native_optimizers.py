"""fastopt's optimizers that torch does not have, as optimizers of torch."""

from __future__ import annotations

import fastopt
from fastopt.interop.torch.native import NativeOptimizer


class LARS(NativeOptimizer, of=fastopt.LARS):
    """`fastopt.LARS`: momentum, with a rate for each parameter by its norm.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import LARS
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = LARS([w], lr=1.0, trust_coefficient=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.detach()
    tensor([2.7000, 3.6000])
    """


class LAMB(NativeOptimizer, of=fastopt.LAMB):
    """`fastopt.LAMB`: Adam with a rate for each parameter by its norm.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import LAMB
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = LAMB([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[w])
    ['exp_avg', 'exp_avg_sq', 'step']
    """


class Prodigy(NativeOptimizer, of=fastopt.Prodigy):
    """`fastopt.Prodigy`: Adam that estimates its learning rate.

    Notes
    -----
    ``param_groups[i]["carried"]`` of a state dict has the estimate first.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Prodigy
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = Prodigy([w], lr=1.0)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[w])
    ['exp_avg', 'exp_avg_sq', 'initial_param', 's', 'step']
    """


class DoG(NativeOptimizer, of=fastopt.DoG):
    """`fastopt.DoG`: the rate is the distance from the start over the root of all squares.

    Notes
    -----
    Evaluate with an average: `average_decay` or `schedule_free`, and ``averaged()``.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import DoG
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = DoG([w], reps_rel=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.detach()
    tensor([2.6400, 3.5200])
    """


class Lion(NativeOptimizer, of=fastopt.Lion):
    """`fastopt.Lion`: the sign of an interpolated momentum.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Lion
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = Lion([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.detach()
    tensor([2.9000, 3.9000])
    """


class AdaBelief(NativeOptimizer, of=fastopt.AdaBelief):
    """`fastopt.AdaBelief`: Adam by the deviation of gradients from their average.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import AdaBelief
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = AdaBelief([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[w])
    ['exp_avg', 'exp_avg_var', 'step']
    """


class Yogi(NativeOptimizer, of=fastopt.Yogi):
    """`fastopt.Yogi`: Adam whose second moment changes additively.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Yogi
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = Yogi([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[w])
    ['exp_avg', 'exp_avg_sq', 'step']
    """


class Adan(NativeOptimizer, of=fastopt.Adan):
    """`fastopt.Adan`: Adam with Nesterov's momentum by differences of gradients.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import Adan
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = Adan([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[w])
    ['exp_avg', 'exp_avg_diff', 'exp_avg_sq', 'previous_grad', 'step']
    """


class AdEMAMix(NativeOptimizer, of=fastopt.AdEMAMix):
    """`fastopt.AdEMAMix`: Adam with a second, slow average of gradients.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import AdEMAMix
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = AdEMAMix([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[w])
    ['exp_avg_fast', 'exp_avg_slow', 'exp_avg_sq', 'step']
    """


class QHAdam(NativeOptimizer, of=fastopt.QHAdam):
    """`fastopt.QHAdam`: Adam of weighted means of gradient and average.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import QHAdam
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = QHAdam([w], lr=0.1)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[w])
    ['exp_avg', 'exp_avg_sq', 'step']
    """
