"""torch's optimizers with fastopt's step: change the import, keep the script."""

try:
    import torch as _torch  # noqa: F401  # first, so that an error says what is missing
except ImportError as error:
    raise ImportError(
        "fastopt.interop.torch needs PyTorch 2.7 or newer: pip install 'torch>=2.7'"
    ) from error

from fastopt.interop.torch.backward_steps import step_in_backward
from fastopt.interop.torch.more_optimizers import ASGD, Adadelta, Adamax, RAdam, Rprop
from fastopt.interop.torch.native import ChainOptimizer, NativeOptimizer
from fastopt.interop.torch.native_optimizers import (
    LAMB,
    LARS,
    AdaBelief,
    Adan,
    AdEMAMix,
    DoG,
    Lion,
    Prodigy,
    QHAdam,
    Yogi,
)
from fastopt.interop.torch.optimizers import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
from fastopt.interop.torch.options import Added as Added


def __getattr__(name: str) -> object:
    from fastopt.optimizers.suggestions import suggestion

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggestion(name, __all__)}")


__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "step_in_backward",
    "ChainOptimizer",
    "NativeOptimizer",
    "LARS",
    "LAMB",
    "Prodigy",
    "DoG",
    "Lion",
    "AdaBelief",
    "Yogi",
    "Adan",
    "AdEMAMix",
    "QHAdam",
]
