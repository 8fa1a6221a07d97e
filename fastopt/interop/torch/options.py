"""The arguments that all optimizers have beyond torch's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from fastopt.interop.torch.state_formats import TensorFormats
from fastopt.optimizers.suggestions import misspelt, refusal
from fastopt.transforms.schedule_free import schedule_free as transform
from fastopt.validation import decay_rate, flag, positive


class Added(TypedDict, total=False):
    """Options that torch's optimizers do not have. They can be assigned between steps.

    Parameters
    ----------
    clip_norm : float, optional
        Scale all gradients down, within the step, so that the norm of all of them together is at
        most this. The norm is then in ``last``.
    average_decay : float, optional
        Keep ``a = average_decay * a + (1 - average_decay) * w`` in ``state[p]["average"]``, in
        float32 beside parameters of 16 bits.
    schedule_free : float, optional
        In (0, 1], usually 0.9. Take gradients between a point that steps, ``state[p]["z"]``, and its
        average, instead of momentum and a falling rate: see `fastopt.transforms.schedule_free`.
        ``averaged_params()`` and ``averaged()`` have the point to evaluate with.
    stats : sequence of str, optional
        Statistics to be added up in the same pass, such as ``("grad_norm", "update_norm")``, which
        ``stats`` then has: see `fastopt.Stats`. Its ``per_array`` is by parameter. It cannot be
        assigned.
    state_dtype : torch.dtype, "8bit" or mapping of str to these, optional
        How states are stored, for all or by name; by default like the parameters. States of 8 bits
        are tensors of uint8 with a row for each 256 elements; parameters with fewer than 4096
        elements, or in another order in memory than C's, have states of float32 then.
    master_bits : {24, 32}, optional
        Keep parameters of 16 bits as numbers of so many bits: what the parameter itself does not hold
        is in ``state[p]["correction"]``, a tensor of int8 or int16. Other states are float32 then
        unless `state_dtype` says otherwise. Parameters of float32 and float64 stay as they are.
        ``master_state_dict`` and ``load_master_state_dict`` give and take models in float32.
    stochastic_rounding : bool, optional
        Stochastic, unbiased rounding of formats of less than 32 bits, so that updates
        smaller than its precision are not lost; by default 8-bit states only.

    Examples
    --------
    >>> import torch
    >>> from fastopt.interop.torch import AdamW
    >>> w = torch.nn.Parameter(torch.ones(3))
    >>> optimizer = AdamW([w], clip_norm=1.0, average_decay=0.99)
    >>> w.sum().backward()
    >>> optimizer.step()
    >>> round(optimizer.last.norm, 4), sorted(optimizer.state[w])
    (1.7321, ['average', 'exp_avg', 'exp_avg_sq', 'step'])
    """

    clip_norm: float | None
    average_decay: float | None
    schedule_free: float | None
    stats: Sequence[str]
    state_dtype: torch.dtype | str | Mapping[str, torch.dtype | str] | None
    master_bits: int | None
    stochastic_rounding: bool | None


def torch_arguments(arguments: dict[str, object], *left_out: str) -> dict[str, Any]:
    """From ``locals()`` at the start of an ``__init__``: what torch's own one takes."""
    others = "self", "params", "added", "__class__", *left_out
    return {name: value for name, value in arguments.items() if name not in others}


def unknown_arguments(kind: type, names: Collection[str], known: Iterable[str]) -> TypeError:
    """The error for arguments that a class does not have; `known` are those beside `Added`."""
    accepted = [*known, *Added.__annotations__]
    return TypeError(
        f"{kind.__name__} has no argument {refusal(names, accepted)}; it takes {', '.join(accepted)}"
    )


def _check_schedule_free(name: str, value: Any) -> None:
    transform(value)  # checks it


# The options that can be assigned, with what checks them; formats are checked together.
OPTIONS: dict[str, Callable[[str, Any], Any] | None] = {
    "clip_norm": positive,
    "average_decay": decay_rate,
    "schedule_free": _check_schedule_free,
    "state_dtype": None,
    "master_bits": None,
    "stochastic_rounding": flag,
}


class Options:
    """Options as attributes, which are checked when they are assigned."""

    _is_made = False

    clip_norm: float | None
    average_decay: float | None
    schedule_free: float | None
    state_dtype: object
    master_bits: int | None
    stochastic_rounding: bool | None

    if not TYPE_CHECKING:  # checkers would allow any attribute

        def __setattr__(self, name, value):
            # Schedulers set a private name in each step.
            if name[:1] != "_":
                if name in OPTIONS:
                    self._check_option(name, value)
                elif self._is_made and name not in self.__dict__:
                    _check_attribute(type(self), name)
            self._set_attribute(name, value)

        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
            # Found once: super() in `__setattr__` took longer than all else in it.
            cls._set_attribute = super().__setattr__

    def _check_option(self, name: str, value: Any) -> None:
        check = OPTIONS[name]
        if check is not None and value is not None:
            check(name, value)
        if check is None and self._is_made:
            formats = "state_dtype", "master_bits"
            TensorFormats(*(value if each == name else getattr(self, each) for each in formats))


@cache
def _check_attribute(kind: type, name: str) -> None:
    """Raise AttributeError for a misspelt option; any other attribute may be set."""
    if not hasattr(kind, name) and (hint := misspelt(name, OPTIONS)):
        raise AttributeError(f"{kind.__name__} has no option {name!r}{hint}")


def check_entries(names: Iterable[Any], settings: Collection[str]) -> None:
    """Raise TypeError for a misspelt setting in a param group, which may have any other entry."""
    known = {"params", "param_names", "fused", *settings}
    for name in names:
        if isinstance(name, str) and name not in known and (hint := misspelt(name, settings)):
            raise TypeError(
                f"a param group has no entry {name!r}{hint}; its settings are {', '.join(settings)}"
            )
