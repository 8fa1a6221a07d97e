"""The partition of the elements: a contiguous shard for each rank, exchanged in pieces."""

from __future__ import annotations

from fastopt.codecs.base import BLOCK
from fastopt.executors.partition import chunk_bound
from fastopt.validation import whole_number

# Bytes of each rank's shard that are reduced, stepped and gathered at a time. Measured with MPICH 5 on
# two ranks of one machine, 5e7 float32 in all: a step takes 100 ms in pieces of 1 MiB, 109 to 121 in
# larger ones, which do not stay in the cache, 129 in pieces of 256 KiB, and 130 in one piece.
PIECE_BYTES = 1 << 20

# Up to this many bytes of parameters in all, shards are exchanged in one piece. There 10^7 and
# 1.5 * 10^7 float32 took 1.2 times as long in pieces of 1 MiB, 2 and 2.5 * 10^7 0.9 and 0.8 times. On a
# network that works by itself pieces hide at most the step, which is short beside so small an exchange.
AT_ONCE = 64 << 20


def shard_slice(length: int, rank: int, ranks: int) -> slice:
    """The elements that a rank owns.

    Parameters
    ----------
    length : int
        Elements in all.
    rank : int
        From 0 to ``ranks - 1``.
    ranks : int
        The number of ranks, which may exceed that of elements.

    Returns
    -------
    slice
        The shards follow each other, and begin at multiples of 256: whole cache lines, and whole
        blocks of 8-bit states.

    Examples
    --------
    >>> from fastopt.interop.mpi import shard_slice
    >>> [shard_slice(1000, rank, 3) for rank in range(3)]
    [slice(0, 256, None), slice(256, 512, None), slice(512, 1000, None)]
    """
    length, ranks = whole_number("length", length), whole_number("ranks", ranks, 1)
    if whole_number("rank", rank) >= ranks:
        raise ValueError(f"rank must be below the number of ranks {ranks}, got {rank}")
    return slice(_bound(length, rank, ranks), _bound(length, rank + 1, ranks))


def _bound(length: int, part: int, parts: int) -> int:
    """The start of one of `parts` parts, a multiple of `BLOCK`; part `parts` is the end."""
    return length if part == parts else chunk_bound(length, part, parts) // BLOCK * BLOCK


class Partition:
    """The shards of all ranks, each divided into the same number of pieces.

    Parameters
    ----------
    length : int
        Elements in all.
    ranks : int
    pieces : int
        The pieces `k` of all shards make chunk `k`, which is exchanged at once.
    """

    def __init__(self, length: int, ranks: int, pieces: int) -> None:
        self.length = length
        self.pieces = pieces
        self.shards = [shard_slice(length, rank, ranks) for rank in range(ranks)]
        most = max(map(self.size, range(ranks)))
        # No chunk has more elements than this.
        self.largest_chunk = min(length, ranks * (most // pieces + 2 * BLOCK))

    def piece(self, rank: int, k: int) -> slice:
        """Piece `k` of a rank's shard, as indices of elements."""
        start, size = self.shards[rank].start, self.size(rank)
        return slice(start + _bound(size, k, self.pieces), start + _bound(size, k + 1, self.pieces))

    def size(self, rank: int) -> int:
        """The number of elements of a rank's shard."""
        shard = self.shards[rank]
        return int(shard.stop - shard.start)

    def chunk(self, k: int) -> list[slice]:
        """Chunk `k`: piece `k` of every shard."""
        return [self.piece(rank, k) for rank in range(len(self.shards))]


def small_pieces(length: int, ranks: int, itemsize: int) -> int:
    """The number of pieces of about `PIECE_BYTES` each."""
    return max(1, -(-length * itemsize // (ranks * PIECE_BYTES)))


def usual_pieces(length: int, ranks: int, itemsize: int) -> int:
    """The default number of pieces: one, or small ones for many parameters."""
    return 1 if length * itemsize <= AT_ONCE else small_pieces(length, ranks, itemsize)
