"""Rows of sparse gradients brought in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastopt
from fastopt.steps.sparse import row_loops


def ordered(rows):
    keys, order = np.empty_like(rows), np.empty_like(rows)
    row_loops.sort()(rows, keys, order)
    return keys, order


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 45), st.lists(st.integers(0, 2**45), max_size=70))
def test_rows_are_sorted_and_equal_ones_stay_as_they_came(bits, numbers):
    rows = np.array(numbers, np.int64) >> bits
    keys, order = ordered(rows)
    assert_array_equal(order, np.argsort(rows, kind="stable"))
    assert_array_equal(keys, np.sort(rows))


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257])
@pytest.mark.parametrize("largest", [0, 1, 2047, 2048, 2**22 - 1, 2**22])
def test_digits_of_all_widths(size, largest):
    rows = np.random.default_rng(size).integers(0, largest, size, endpoint=True)
    rows[:1] = largest
    keys, order = ordered(rows)
    assert_array_equal(order, np.argsort(rows, kind="stable"))
    assert_array_equal(keys, rows[order])


def test_rows_without_elements_come_more_than_once():
    w = np.zeros((5, 0), np.float32)
    opt = fastopt.SGD(w, lr=1.0, sparse="exact")
    opt.step((np.array([4, 1, 4]), np.zeros((3, 0), np.float32)))
    assert opt.step_count == 1
