"""What the named optimizers have in common: a chain that is made from settings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

from fastopt.optimizers.automatic import Held, check_is_no_other_word, is_automatic, with_automatic_rate
from fastopt.optimizers.chains import read_chain
from fastopt.optimizers.dialects import Dialect, translate
from fastopt.optimizers.group_settings import SettingValues, are_groups
from fastopt.optimizers.optimizer import Optimizer
from fastopt.optimizers.settings import Field, Number, argument, setting
from fastopt.optimizers.shared_options import check_decoupled_decay, decoupled_decay
from fastopt.transforms.base import Transform
from fastopt.transforms.scaling import scale_by_learning_rate


class NamedOptimizer(Optimizer):
    """The base of all optimizers that make their chain from settings: `RMSProp`, or one of your own.

    A subclass declares its settings, and says in `make_parts` which transforms they ask for. All the
    rest follows: groups of parameters, schedules, assignment, options, saving, `fastopt.one_shot`,
    `fastopt.minimize` and methods for SciPy.

    Parameters
    ----------
    params : array, or nested lists, tuples and dicts of arrays
        What to optimize, updated in place. Or groups with settings of their own:
        ``[{"params": ..., "lr": ...}, ...]``.
    lr : float or schedule, default 1e-3
        Learning rate, >= 0.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    usual_lr : float, "curvature" or None
        Of the class: where the learning rate of `fastopt.minimize` starts, if none is given.
    has_automatic_lr : bool
        Of the class: whether ``lr="auto"`` makes sense. It does where steps are proportional to `lr`.
    usual_settings : mapping
        Of the class: the settings that have other defaults then.
    dialects : mapping
        Of the class: other libraries -> functions from their arguments to settings, for `like`.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> class Sum(fastopt.NamedOptimizer):
    ...     lr: fastopt.Number = fastopt.setting(default=0.5)
    ...     keep: fastopt.Number = fastopt.setting(default=0.5)
    ...
    ...     def make_parts(self):
    ...         return [t.trace(self.keep), *self.decay_and_rate()]
    >>> w = np.array([5.0])
    >>> opt = Sum([w], clip_value=3.0)
    >>> opt.step([np.array([8.0])])
    >>> w
    array([3.5])
    """

    __slots__ = ()

    usual_lr: ClassVar[float | Literal["curvature"] | None] = None
    has_automatic_lr: ClassVar[bool] = True
    usual_settings: ClassVar[Mapping[str, Any]] = {}
    dialects: ClassVar[Mapping[str, Dialect]] = {}

    chain: Field[Any, Any] = argument(read_chain, init=False)  # made from settings
    lr: Number = setting(default=1e-3)

    @abstractmethod
    def make_parts(self) -> Iterable[Transform]:
        """The transforms for these settings, from the gradient to what is subtracted.

        `self` has the settings of one group, and nothing else of an optimizer.
        """

    def decay_and_rate(self) -> list[Transform]:
        """The usual end of a chain: decoupled weight decay, if it is on, and the learning rate."""
        return [*decoupled_decay(self), scale_by_learning_rate(self.lr)]

    def _parts(self, index: int) -> Iterable[Transform]:
        lr = self.lr
        if self.has_automatic_lr:
            check_is_no_other_word(lr)
        if is_automatic(lr) or isinstance(lr, Held):
            self._settings = SettingValues({**self._settings.common, "lr": 1.0}, None, ())
        parts = list(self.make_parts())
        check_decoupled_decay(self, parts, "make_parts must end with *self.decay_and_rate()")
        if lr is self.lr:
            return parts
        if not self.has_automatic_lr:
            raise ValueError(f"lr must be a number or a schedule for {type(self).__name__}, not 'auto'")
        by_gradient = self.usual_lr == "curvature"
        return with_automatic_rate(type(self).__name__, parts, lr, by_gradient)

    @classmethod
    def like(cls, dialect: str, params: object, **their_names: object) -> Self:
        """The same optimizer with the algebra, defaults and argument names of another library.

        Parameters
        ----------
        dialect : str
            ``"torch"``, ``"keras"``, ``"optax"`` and, where they have one of their own,
            ``"tensorflow1"``, ``"timm"``, ``"qhoptim"`` and ``"graves"``.
        params
            As always.
        **their_names
            That library's arguments, such as ``alpha`` or ``rho``; and fastopt's shared options.

        Raises
        ------
        ValueError
            There is no such dialect, or a setting has no equivalent.
        TypeError
            An argument that the library does not have.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.array([1.0])
        >>> opt = fastopt.RMSProp.like("torch", w, lr=0.1, alpha=0.99, weight_decay=0.01)
        >>> opt.beta, opt.eps_inside_sqrt
        (0.99, False)
        """
        shared = Optimizer._fields
        settings = translate(cls.__name__, cls.dialects, dialect, their_names, shared)
        if are_groups(params):  # a default of the library has no part where every group has its own
            everywhere = set.intersection(*map(set, params)) - their_names.keys()
            settings = {name: value for name, value in settings.items() if name not in everywhere}
        return cls(params, **settings)
