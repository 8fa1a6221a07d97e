"""Bit for bit, but for the bits of a NaN, which are the processor's own."""

from typing import Any

import numpy as np


def bits(array: Any) -> bytes:
    """The content, with one NaN as good as another."""
    array = np.asarray(array)
    if array.dtype == object:  # None: the array's group has no such state
        return repr(array).encode()
    if array.dtype.names is None:
        with np.errstate(all="ignore"):
            array = np.where(np.isnan(array), np.asarray(np.nan).astype(array.dtype), array)
    return array.tobytes()


def assert_same(actual: Any, expected: Any, what: str) -> None:
    """Arrays, in whatever lists and dicts, agree to the last bit."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), f"{what}: {list(actual)} for {list(expected)}"
        for key in expected:
            assert_same(actual[key], expected[key], f"{what}[{key!r}]")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), f"{what}: {len(actual)} entries for {len(expected)}"
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, f"{what}[{i}]")
    elif isinstance(expected, np.ndarray):
        actual = np.asarray(actual)
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), (
            f"{what}: {actual.dtype}{actual.shape} for {expected.dtype}{expected.shape}"
        )
        if bits(actual) != bits(expected):
            raise AssertionError(f"{what}: {first_difference(actual, expected)}")
    else:
        assert repr(actual) == repr(expected), f"{what}: {actual} for {expected}"


def first_difference(actual: np.ndarray, expected: np.ndarray) -> str:
    """Where arrays differ, and how."""
    one, other = actual.reshape(-1), expected.reshape(-1)
    places = [i for i in range(one.size) if bits(one[i]) != bits(other[i])]
    first = places[0]
    return f"{one[first]!r} for {other[first]!r} at {first}, {len(places)} of {one.size} differ"


def assert_same_trace(actual: list[Any], expected: list[Any], what: str) -> None:
    """Two ways to play a case agree after every event; empty notes are of moments not recorded."""
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        if one and other:
            assert_same(one, other, f"{what}, after event {index - 1}")
