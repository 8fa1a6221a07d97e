"""torch's optimizers with fastopt's step: change the import, keep the script."""

from fastopt.interop.torch.added import Added as Added
from fastopt.interop.torch.optimizers import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "NAdam", "RMSprop"]
