"""A batch of searches spread over the cores.

An index searches without Python's lock, so several threads get through a batch faster than one. The thread that has the
batch takes part itself and needs nobody: helpers take pieces as long as there are some, and where all of them are
busy with other batches, it does everything. A single search stays in its thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vectorizer_engine.cores import usable_cores
from vectorizer_engine.index.base import Vectors

T = TypeVar("T")

ROWS_AT_ONCE = 16
"""Queries of a piece at most: 1 to 2 ms. Much fewer would wait for Python's lock more often than they need to."""

CORES = usable_cores()

_helpers = ThreadPoolExecutor(max(1, CORES - 1), thread_name_prefix="batch")


def spread(work: Callable[[Vectors], list[T]], queries: Vectors) -> list[T]:
    """What *work* makes of *queries* (float32 [q, d]), one item for each row. It is called for some rows at a time.

    Raises what *work* raises.
    """
    if len(queries) <= ROWS_AT_ONCE or CORES == 1:
        return work(queries)
    # Of one size and as many for each core, so that none waits for another.
    pieces = CORES * -(-len(queries) // (CORES * ROWS_AT_ONCE))
    rows = -(-len(queries) // pieces)
    starts = range(0, len(queries), rows)
    left = deque(starts)
    done: dict[int, list[T]] = {}

    def take_part() -> None:
        while left:
            try:
                start = left.popleft()
            except IndexError:  # somebody else took the last one
                return
            done[start] = work(queries[start : start + rows])

    helping = [_helpers.submit(take_part) for _ in range(min(CORES, len(starts)) - 1)]
    try:
        take_part()
    finally:
        left.clear()
        for helper in helping:
            if not helper.cancel():
                helper.result()
    return [item for start in starts for item in done[start]]


def end_helpers() -> None:
    """Let the threads end that help, of which a process would wait for each. For when nothing is searched any more."""
    _helpers.shutdown(wait=False)
