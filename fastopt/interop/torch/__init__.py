"""torch's optimizers with fastopt's step: change the import, keep the script."""

from fastopt.interop.torch.optimizers import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
from fastopt.interop.torch.options import Added as Added

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "NAdam", "RMSprop"]
