"""Giving freed memory back to the operating system.

glibc keeps what was freed for the next allocation: after an index of 20,000 vectors (d = 384) was built and
freed, all of its 11 MB were still resident. Whoever frees megabytes says so here.
"""

from __future__ import annotations

import ctypes

_libc = ctypes.CDLL(None)


def return_free_memory() -> None:
    """Give free pages of the heap back now. Does nothing where the C library offers no way (musl)."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


_M_MMAP_THRESHOLD = -3  # malloc.h
_M_ARENA_MAX = -8

LARGE_BLOCK_BYTES = 1024**2

ARENAS = 2
"""With one for each thread, as is glibc's way, 24 clients that wrote 500 vectors each (d = 384) left 17 MiB of freed
blocks in those of 16 threads."""


def keep_little_freed_memory() -> None:
    """From now on every block of a megabyte or more goes back to the system as soon as it is freed, and threads share
    what is kept of the smaller ones.

    glibc does the first by itself, but raises the size from which it does to that of the largest block freed so far:
    after one request of 26 MB no block below 26 MB is given back.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_ARENA_MAX, ARENAS)
