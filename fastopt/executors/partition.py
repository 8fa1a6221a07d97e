"""How work is divided among threads and ranks: a static, contiguous partition into chunks."""

from __future__ import annotations


def chunk_bound(length: int, part: int, parts: int) -> int:
    """Where one of `parts` nearly equal chunks of `length` items begins; behind the last is the end."""
    return length * part // parts
