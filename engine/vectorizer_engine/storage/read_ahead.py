"""Read many objects in order, several at a time, without holding many of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 16
BYTES = 16 * 1024**2
"""No more is read ahead than this, or one object."""

_Content = TypeVar("_Content")


def read_ahead(read: Callable[[int], _Content], sizes: Sequence[int]) -> Iterator[_Content]:
    """`read(0)`, `read(1)`, … for objects of *sizes* bytes. Raises what *read* raises, in its turn."""
    if not sizes:
        return
    under_way: deque[tuple[int, Future[_Content]]] = deque()
    pending = 0
    following = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
        try:
            while under_way or following < len(sizes):
                while following < len(sizes) and len(under_way) < AT_ONCE:
                    if under_way and pending + sizes[following] > BYTES:
                        break
                    under_way.append((sizes[following], pool.submit(read, following)))
                    pending += sizes[following]
                    following += 1
                size, future = under_way.popleft()
                content = future.result()
                pending -= size
                yield content
        finally:
            for _, future in under_way:
                future.cancel()
