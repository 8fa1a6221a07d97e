"""Zero-gradient steps of a chain as a linear map, so that k of them are one matrix.

``sparse="exact"`` applies zero-gradient steps to lagging rows lazily. That needs a closed form of many
steps, and linear maps have one, their product: averages decay by ``beta**k``, a momentum carries its
parameter on. `Transform.no_gradient` says what a transform does; its function
is called with linear forms (`LinearForm`) in place of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.codecs.base import DType
from fastopt.kernels.specialize import specialize
from fastopt.transforms.base import ONCE, Chain, Transform
from fastopt.validation import Hyper

PARAM = 0  # the first variable; the others are what the chain writes, in the order of the table


class LinearForm:
    """A linear combination of variables.

    A coefficient that is the integer 1 was never multiplied: this distinguishes what a step leaves
    unchanged from what happens to keep its value, as with a momentum of 1.0.
    """

    __slots__ = ("terms",)
    __array_ufunc__ = None  # NumPy scalars leave the arithmetic to this class

    def __init__(self, terms: Mapping[int, float]) -> None:
        self.terms = dict(terms)

    def is_just(self, variable: int) -> bool:
        """Whether this is the variable itself, whatever the hyperparameters are."""
        return self.terms == {variable: 1} and type(self.terms[variable]) is int

    def __add__(self, other: object) -> LinearForm:
        if not isinstance(other, LinearForm):
            return NotImplemented
        terms = dict(self.terms)
        for variable, number in other.terms.items():
            terms[variable] = terms[variable] + float(number) if variable in terms else number
        return LinearForm(terms)

    def __mul__(self, factor: Any) -> LinearForm:
        if isinstance(factor, LinearForm):
            return NotImplemented
        return LinearForm({variable: float(factor) * number for variable, number in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> LinearForm:
        if isinstance(divisor, LinearForm):
            return NotImplemented
        return LinearForm(
            {variable: number / float(divisor) for variable, number in self.terms.items()}
        )

    def __neg__(self) -> LinearForm:
        return -1.0 * self

    def __sub__(self, other: object) -> LinearForm:
        return self + -other if isinstance(other, LinearForm) else NotImplemented


class ZeroGradientStep(NamedTuple):
    """What a zero-gradient step does."""

    forms: list[LinearForm]  # the parameter and all that the step writes, after it
    seen: list[LinearForm]  # what each transform gets: the update, or the new parameter
    update: LinearForm  # what is subtracted from the parameter


def zero_gradient_step(
    chain: Chain, functions: Sequence[object], numbers: Sequence[Hyper], dtype: DType
) -> ZeroGradientStep:
    """A zero-gradient step in linear forms.

    Parameters
    ----------
    chain : Chain
    functions : sequence
        `Transform.no_gradient` of each, as it was when the optimizer was built.
    numbers : sequence of tuple of float
        The hyperparameters of each transform, as rounded for `dtype`.
    dtype : numpy.dtype
        Of the arithmetic of a step.

    Raises
    ------
    ValueError
        There is no closed form; the message says why.
    """
    param, value, applied = LinearForm({PARAM: 1}), LinearForm({}), False
    forms: list[LinearForm] = []
    seen: list[LinearForm] = []
    update = value
    for transform, function, hyper in zip(chain, functions, numbers, strict=True):
        if transform.after and not applied:
            value, applied = param - value, True
        seen.append(value)
        first = 1 + len(forms)
        states = [LinearForm({first + i: 1}) for i in range(len(transform.state))]
        try:
            value, new = _no_gradient_form(transform, function, value, param, states, hyper, dtype)
        except ValueError as error:
            raise ValueError(
                f"sparse='exact' needs a closed form for steps without a gradient, but "
                f"{transform.label}: {error}; sparse='lazy' does without"
            ) from error
        forms += new
        update = update if applied else value
    return ZeroGradientStep([value if applied else param - value, *forms], seen, update)


def _no_gradient_form(
    transform: Transform,
    function: object,
    value: LinearForm,
    param: LinearForm,
    states: list[LinearForm],
    numbers: Hyper,
    dtype: DType,
) -> tuple[LinearForm, list[LinearForm]]:
    if function is None:
        raise ValueError("has none (its no_gradient is None)")
    stays = value.is_just(PARAM) if transform.after else not value.terms
    if transform.no_gradient is not transform.update and not stays:
        raise ValueError(
            "is not linear, and the parameter moves without a gradient too (weight decay, momentum)"
        )
    if function == ONCE:
        if callable(transform.hyper) or transform.from_sums is not None:
            raise ValueError("changes with the step")
        return value, states
    linear = specialize(function, dtype.type)
    unread = (None,) * len(transform.inputs)
    written = len(states) + len(transform.outputs)
    try:
        with np.errstate(all="ignore"):  # a literal is a NumPy number of the dtype
            value, new = linear(value, param, (*states, *unread), numbers)
        if not (isinstance(value, LinearForm) and all(isinstance(item, LinearForm) for item in new)):
            raise TypeError("it returned something else than sums of its arguments times numbers")
        if len(new) != written:
            raise TypeError(f"it returned {len(new)} states for {written}")
    except (TypeError, ZeroDivisionError) as error:
        raise ValueError(f"its no_gradient must be linear ({error})") from error
    return value, list(new)


class ClosedForm(NamedTuple):
    """The entries of the matrices that catching up needs, which are the same for all steps.

    The variables are the parameter and what the chain writes, as in `ZeroGradientStep.forms`.
    """

    variables: tuple[int, ...]  # the rows and columns of the matrices
    rows: tuple[tuple[int, ...] | None, ...]  # the variables in each one's sum; None if unchanged

    @property
    def moves(self) -> bool:
        """Whether the parameter changes without a gradient."""
        return self.rows[PARAM] is not None

    def entries(self) -> Array:
        """The indices of the entries in a matrix, in the order of the rows."""
        at = {variable: i for i, variable in enumerate(self.variables)}
        pairs = ((row, other) for row, others in enumerate(self.rows) for other in others or ())
        return np.array([(at[row], at[other]) for row, other in pairs], np.int64).reshape(-1, 2)

    def matrix(self, forms: Sequence[LinearForm]) -> Array:
        """The matrix of a zero-gradient step."""
        rows = (forms[variable].terms for variable in self.variables)
        return np.array(
            [[float(terms.get(other, 0.0)) for other in self.variables] for terms in rows], np.float64
        ).reshape(len(self.variables), len(self.variables))


def closed_form(forms: Sequence[LinearForm]) -> ClosedForm:
    """The closed form, from the linear forms of any one step."""
    reach = np.zeros((len(forms), len(forms)), bool)
    for variable, form in enumerate(forms):
        reach[variable, list(form.terms)] = True
    while (further := reach | (reach @ reach)).sum() > reach.sum():
        reach = further
    rows = tuple(
        None if form.is_just(variable) else tuple(map(int, np.flatnonzero(reach[variable])))
        for variable, form in enumerate(forms)
    )
    used = {v for row, others in enumerate(rows) if others is not None for v in (row, *others)}
    return ClosedForm(tuple(sorted(used)), rows)
