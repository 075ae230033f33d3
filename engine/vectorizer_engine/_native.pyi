"""What is written in C++, in engine/native/: searching, where Python around it would cost more than it does.

Buffers are arrays in C order, of the types that are named here.
"""

from typing import Any

Buffer = Any
"""What has the buffer protocol. numpy's arrays do, and are not declared so for Python 3.11."""

VARIANTS: int
"""So many kinds of processors the loops are compiled for that this one can run. Number 0 is the fastest."""

class Graph:
    """An HNSW graph over 8-bit codes as faiss writes it, read where it lies. Any number of threads may search it."""

    def __init__(
        self, body: Buffer, vectors: Buffer, count: int, dimension: int, euclid: bool, variant: int = 0, /
    ) -> None:
        """*body* is what faiss wrote of the index of *vectors* (float32 [count, dimension]), of either metric.

        Raises ValueError where it is not. What its numbers say is checked here and while it is searched: nothing
        outside of it is ever read.
        """

    def search(
        self,
        queries: Buffer,
        limit: int,
        candidates: int,
        ef: int,
        mask: Buffer | None,
        offsets: Buffer,
        scores: Buffer,
        found: Buffer,
        /,
    ) -> None:
        """For each row of *queries* (float32 [q, dimension]) the *limit* nearest of what *mask* (bits) allows.

        The *candidates* nearest by their codes are scored by their vectors. Writes *offsets* (int64 [q, limit]) and
        *scores* (float32 [q, limit]), closest first and equal ones by offset, and how many there are of each row into
        *found* (int32 [q]). In this thread, without Python's lock. Holds a bit a vector, and 16 bytes for each of *ef*.
        """
