"""Bit for bit, but for the bits of a NaN, which are the processor's own."""

from typing import Any

import numpy as np


def bits(array: Any) -> bytes:
    """The content, with one NaN as good as another."""
    array = np.asarray(array)
    if array.dtype.names is None:
        with np.errstate(all="ignore"):
            array = np.where(np.isnan(array), np.asarray(np.nan).astype(array.dtype), array)
    return array.tobytes()


def assert_same(found: Any, expected: Any, what: str) -> None:
    """Arrays, in whatever lists and dicts, agree to the last bit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), f"{what}: {list(found)} for {list(expected)}"
        for key in expected:
            assert_same(found[key], expected[key], f"{what}[{key!r}]")
    elif isinstance(expected, list):
        assert len(found) == len(expected), f"{what}: {len(found)} entries for {len(expected)}"
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{what}[{i}]")
    elif isinstance(expected, np.ndarray):
        found = np.asarray(found)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), (
            f"{what}: {found.dtype}{found.shape} for {expected.dtype}{expected.shape}"
        )
        if bits(found) != bits(expected):
            raise AssertionError(f"{what}: {first_difference(found, expected)}")
    else:
        assert repr(found) == repr(expected), f"{what}: {found} for {expected}"


def first_difference(found: np.ndarray, expected: np.ndarray) -> str:
    """Where arrays differ, and how."""
    one, other = found.reshape(-1), expected.reshape(-1)
    places = [i for i in range(one.size) if bits(one[i]) != bits(other[i])]
    first = places[0]
    return f"{one[first]!r} for {other[first]!r} at {first}, {len(places)} of {one.size} differ"


def assert_same_trace(found: list[Any], expected: list[Any], what: str) -> None:
    """Two ways to play a case agree after every event; empty notes are of moments not looked at."""
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one and other:
            assert_same(one, other, f"{what}, after event {index - 1}")
