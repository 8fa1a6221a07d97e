"""The static, contiguous partition of work among threads and ranks."""

from __future__ import annotations


def chunk_bound(length: int, part: int, parts: int) -> int:
    """The start of one of `parts` nearly equal chunks of `length` items; chunk `parts` is the end."""
    return length * part // parts
