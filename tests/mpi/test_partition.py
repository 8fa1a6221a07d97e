"""Shards and their pieces: all elements once, in order, and as even as blocks allow."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastopt.codecs.base import BLOCK
from fastopt.interop.mpi import shard_slice
from fastopt.interop.mpi.partition import (
    AT_ONCE,
    PIECE_BYTES,
    Partition,
    small_pieces,
    usual_pieces,
)
from tests.refusals import refusal


@given(st.integers(0, 10**13), st.integers(1, 1024), st.integers(1, 50))
def test_everything_once(length, ranks, pieces):
    partition = Partition(length, ranks, pieces)
    assert partition.shards[0].start == 0
    assert partition.shards[-1].stop == length
    for one, other in pairwise(partition.shards):
        assert one.start <= one.stop == other.start
        assert other.start % BLOCK == 0
    sizes = [partition.size(rank) for rank in range(ranks)]
    assert max(sizes) - min(sizes) <= 2 * BLOCK
    for k in {0, pieces // 2, pieces - 1}:
        assert sum(part.stop - part.start for part in partition.chunk(k)) <= partition.largest_chunk
    for rank in {0, ranks // 2, ranks - 1}:
        ranges = [partition.piece(rank, k) for k in range(pieces)]
        assert (ranges[0].start, ranges[-1].stop) == (
            partition.shards[rank].start,
            partition.shards[rank].stop,
        )
        for one, other in pairwise(ranges):
            assert one.start <= one.stop == other.start
            assert (other.start - ranges[0].start) % BLOCK == 0


@given(st.integers(0, 10**13), st.integers(1, 1024), st.sampled_from([2, 4, 8]))
def test_pieces_are_of_the_usual_size(length, ranks, itemsize):
    pieces = small_pieces(length, ranks, itemsize)
    assert pieces >= 1
    assert length * itemsize <= pieces * ranks * PIECE_BYTES
    assert pieces == 1 or length * itemsize > (pieces - 1) * ranks * PIECE_BYTES
    assert usual_pieces(length, ranks, itemsize) == (1 if length * itemsize <= AT_ONCE else pieces)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((-1, 0, 1), ValueError, ["length", ">= 0", "-1"]),
        ((1.5, 0, 1), TypeError, ["length", "1.5"]),
        ((1, 0, 0), ValueError, ["ranks", ">= 1", "0"]),
        ((1, "0", 1), TypeError, ["rank", "'0'"]),
        ((1, -1, 2), ValueError, ["rank", "-1"]),
        ((1, 2, 2), ValueError, ["rank", "below the number of ranks 2", "2"]),
    ],
)
def test_refusals(arguments, error, words):
    with refusal(error, words):
        shard_slice(*arguments)
