"""Settings are declared once, as fields of an optimizer's class, and everything else follows from them.

A field is an argument of the class, in the order of the declarations; an attribute with the types to
read and to assign; for a setting, what a group can have of its own, and what is saved. Type checkers
read the same declarations (`typing.dataclass_transform`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import Parameter, Signature
from numbers import Real
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    dataclass_transform,
    overload,
)

from fastopt.optimizers.automatic import auto
from fastopt.optimizers.suggestions import refusal
from fastopt.validation import Setting

Read = TypeVar("Read", covariant=True)
Write = TypeVar("Write", contravariant=True)
Values: TypeAlias = dict[str, Any]

REQUIRED = Parameter.empty


class Field(Generic[Read, Write]):
    """An argument of an optimizer, and its attribute: what it reads as, and what it can be set to."""

    shared = False  # whether every optimizer has it

    def __init__(
        self,
        default: object = REQUIRED,
        *,
        kw_only: bool = False,
        fixed: bool = False,
        init: bool = True,
    ) -> None:
        self.default, self.kw_only, self.fixed, self.init = default, kw_only, fixed, init
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Read: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance._options[self.name]

    def __set__(self, instance: object, value: Write) -> None:
        if self.fixed:
            raise AttributeError(f"{self.name} is fixed once an optimizer is made: make a new one")
        self.write(instance, value)

    def write(self, instance: Any, value: object) -> None:
        """Assign the attribute of a field that is not fixed."""
        instance._assign(self.name, value)

    @property
    def parameter(self) -> Parameter:
        """As an argument."""
        kind = Parameter.KEYWORD_ONLY if self.kw_only else Parameter.POSITIONAL_OR_KEYWORD
        return Parameter(self.name, kind, default=self.default)


class SettingField(Field[Read, Write]):
    """A field that says what is computed: each group of parameters can have its own."""

    if not TYPE_CHECKING:  # the types are those of `Field`

        def __get__(self, instance, owner=None):
            return self if instance is None else instance._settings.shared(self.name)


class ArgumentField(Field[Read, Write]):
    """A field that is kept elsewhere than in the settings and options, where `read` finds it."""

    def __init__(
        self,
        read: Callable[[Any], object],
        write: Callable[[Any, Any], object] | None = None,
        **how: Any,
    ) -> None:
        super().__init__(fixed=write is None, **how)
        self.read, self.write = read, write  # type: ignore[assignment,method-assign]

    if not TYPE_CHECKING:

        def __get__(self, instance, owner=None):
            return self if instance is None else self.read(instance)


def setting(
    *, default: object = REQUIRED, kw_only: bool = False, fixed: bool = False, init: bool = True
) -> Any:
    """Declare a setting in the body of an optimizer's class: ``beta: Number = setting(default=0.9)``.

    Parameters
    ----------
    default
        Without one the argument is required.
    kw_only : bool, optional
        Whether it can only be given by its name.
    fixed : bool, optional
        Whether it cannot be assigned once the optimizer is made, such as what a state starts with.
    init : bool, optional
        False takes an argument of a base class away.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> class SignedMomentum(fastopt.NamedOptimizer):
    ...     lr: fastopt.Number = fastopt.setting(default=0.1)
    ...     momentum: fastopt.Number = fastopt.setting(default=0.9, kw_only=True)
    ...
    ...     def make_parts(self):
    ...         return [t.trace(self.momentum), t.clip_by_value(1.0), *self.decay_and_rate()]
    >>> SignedMomentum(np.zeros(3), momentum=0.5).momentum
    0.5
    """
    return SettingField(default, kw_only=kw_only, fixed=fixed, init=init)


def option(*, default: object = REQUIRED, kw_only: bool = False) -> Any:
    """Declare what concerns a step as a whole, and cannot be assigned."""
    return Field(default, kw_only=kw_only, fixed=True)


def argument(
    read: Callable[[Any], object],
    write: Callable[[Any, Any], object] | None = None,
    *,
    default: object = REQUIRED,
    kw_only: bool = False,
    init: bool = True,
) -> Any:
    """Declare an argument whose attribute something else answers."""
    return ArgumentField(read, write, default=default, kw_only=kw_only, init=init)


AnyField: TypeAlias = Field[Any, Any]
# A number can be computed with when it is read, unless it is a schedule.
Number: TypeAlias = SettingField[float | Any, Setting]
Rate: TypeAlias = SettingField[float | Any, Setting | Literal["auto"] | auto]
OptionalNumber: TypeAlias = SettingField[float | Any, Setting | None]
Flag: TypeAlias = SettingField[bool, bool]


@dataclass_transform(field_specifiers=(setting, option, argument))
class Declared(ABC):
    """Arguments are the fields that a class and its bases declare.

    A field that is declared again keeps its position.
    """

    __slots__ = ()

    _fields: ClassVar[Mapping[str, AnyField]] = {}
    _setting_names: ClassVar[tuple[str, ...]] = ()
    _positional: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[Values] = {}
    _required: ClassVar[tuple[str, ...]] = ()
    _assignable: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._make(self._bound(arguments, named))

    @abstractmethod
    def _make(self, values: Values) -> None:
        """Make what is declared, from the values of all fields."""

    def __init_subclass__(cls, *, shared: bool = False, **kwargs: object) -> None:
        """Collect the fields. With `shared` those that are new are options of all subclasses."""
        super().__init_subclass__(**kwargs)
        declared = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        for name in cls._fields.keys() & vars(cls).keys() - declared.keys():
            raise TypeError(
                f"{cls.__name__}.{name} must be declared: {name}: Number = setting(default=...)"
            )
        for field in declared.values():
            field.shared = shared and field.kw_only
        fields = [field for field in {**cls._fields, **declared}.values() if field.init]
        fields.sort(key=lambda field: (field.kw_only, field.shared))
        cls._fields = {field.name: field for field in fields}
        cls._defaults = {field.name: field.default for field in fields}
        cls._required = tuple(field.name for field in fields if field.default is REQUIRED)
        cls._positional = tuple(field.name for field in fields if not field.kw_only)
        cls._setting_names = tuple(f.name for f in fields if isinstance(f, SettingField))
        cls._assignable = frozenset(n for n in cls._setting_names if not cls._fields[n].fixed)
        parameters = [field.parameter for field in fields if not field.shared]
        parameters.append(Parameter("shared", Parameter.VAR_KEYWORD))
        cls.__signature__ = Signature(parameters)  # type: ignore[attr-defined]

    @classmethod
    def _bound(cls, arguments: tuple[object, ...], named: Values) -> Values:
        """The value of every field, of these arguments and of defaults."""
        if len(arguments) > len(cls._positional):
            raise TypeError(
                f"{cls.__name__} takes the arguments {', '.join(cls._positional)} by position, "
                f"but got {len(arguments)}"
            )
        cls._refuse_unknown(named, cls._fields)
        values = dict(zip(cls._positional, arguments, strict=False))
        if twice := values.keys() & named.keys():
            raise TypeError(f"{cls.__name__} got two values for {', '.join(sorted(twice))}")
        values |= named
        if missing := [name for name in cls._required if name not in values]:
            raise TypeError(f"{cls.__name__} needs the argument {', '.join(missing)}")
        return {**cls._defaults, **values}

    @classmethod
    def _refuse_unknown(cls, names: Iterable[str], accepted: Collection[str]) -> None:
        if unknown := [name for name in names if name not in accepted]:
            if common := [name for name in unknown if name in cls._fields]:
                raise TypeError(
                    f"{', '.join(common)} is for all groups alike: pass it to {cls.__name__} itself"
                )
            if {"hess", "hessp"} <= set(unknown):
                raise TypeError(
                    f"{cls.__name__} is no method of scipy.optimize.minimize: "
                    f"pass method=fastopt.interop.scipy.method(fastopt.{cls.__name__})"
                )
            raise TypeError(
                f"{cls.__name__} has no argument {refusal(unknown, accepted)}; "
                f"it takes {', '.join(accepted)}"
            )


def arguments_of(kind: type[Declared]) -> Collection[str]:
    """The names of a class's arguments."""
    return kind._fields.keys()


def settings_of(kind: type[Declared]) -> dict[str, AnyField]:
    """The settings of a class, by name."""
    return {name: kind._fields[name] for name in kind._setting_names}


def bound(kind: type[Declared], arguments: tuple[object, ...], named: Values) -> Values:
    """The value of every argument of a class, of these and of defaults."""
    return kind._bound(arguments, named)


def is_number(value: object) -> bool:
    """Whether a setting is a plain number."""
    return type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))
