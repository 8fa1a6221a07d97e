"""What was meant by an argument that there is not: a misspelling, or another library's name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from string import digits

# Names of torch, Keras, optax and others, and what is called so here.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "alpha": ("beta", "lr"),
    "b1": ("beta1",),
    "b2": ("beta2",),
    "beta_1": ("beta1",),
    "beta_2": ("beta2",),
    "betas": ("beta1", "beta2"),
    "clipnorm": ("clip_norm",),
    "clipvalue": ("clip_value",),
    "decay": ("beta", "weight_decay"),
    "ema_momentum": ("average_decay",),
    "epsilon": ("eps",),
    "eta": ("lr",),
    "global_clipnorm": ("clip_norm",),
    "initial_accumulator_value": ("initial_accumulator",),
    "l2": ("weight_decay",),
    "learning_rate": ("lr",),
    "max_grad_norm": ("clip_norm",),
    "max_norm": ("clip_norm",),
    "rho": ("beta",),
    "step_size": ("lr",),
    "wd": ("weight_decay",),
}


def refusal(unknown: Iterable[str], accepted: Collection[str]) -> str:
    """The unknown names, each with what may be meant by it: ``betas (did you mean beta1, beta2?)``."""
    return ", ".join(f"{name}{suggestion(name, accepted)}" for name in unknown)


def suggestion(name: str, accepted: Collection[str]) -> str:
    """Suggest a known name, if one is close: `` (did you mean lr?)``."""
    from difflib import get_close_matches  # for errors alone

    close = [candidate for candidate in _ELSEWHERE.get(name, ()) if candidate in accepted]
    close = close or [candidate for candidate in accepted if candidate.lower() == name.lower()]
    close = close or get_close_matches(name, list(accepted), 1, 0.75)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def misspelt(name: str, accepted: Collection[str]) -> str:
    """Suggest a known name for one that may be anything, only if no other can be meant; else "".

    A name with a whole known one in it, such as ``max_momentum`` or ``eps2``, means something of its
    own.
    """
    words, elsewhere = f"_{name.rstrip(digits)}_", _ELSEWHERE.get(name, ())
    if not set(elsewhere) <= set(accepted) or any(f"_{known}_" in words for known in accepted):
        return ""
    return suggestion(name, elsewhere or [known for known in accepted if _is_slip(name, known)])


def _is_slip(name: str, meant: str) -> bool:
    """Whether at most one letter is another, missing or too many, or two neighbours are swapped."""
    name, meant = (each.lower().replace("_", "") for each in (name, meant))
    for _ in range(2):  # from either end, leave out what is the same
        same = [one == other for one, other in zip(name, meant, strict=False)]
        start = [*same, False].index(False)
        name, meant = name[start:][::-1], meant[start:][::-1]
    return max(len(name), len(meant)) < 2 or (len(name) == 2 and name == meant[::-1])
