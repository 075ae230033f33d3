"""What is written in C++, in engine/native/: building graphs, and searching and its JSON, where Python would cost more
than the search.

Buffers are arrays in C order, of the types that are named here.
"""

from typing import Any

Buffer = Any
"""What has the buffer protocol. numpy's arrays do, and are not declared so for Python 3.11."""

VARIANTS: int
"""So many kinds of processors the loops are compiled for that this one can run. Number 0 is the fastest."""

class Built:
    """An HNSW graph over 8-bit codes, built and held on the heap: the bytes that faiss would write of it."""

    def __init__(
        self,
        vectors: Buffer,
        count: int,
        dimension: int,
        euclid: bool,
        links: int,
        ef: int,
        threads: int,
        variant: int = 0,
        /,
    ) -> None:
        """Build the graph of *vectors* (float32 [count, dimension], count > 0), which is needed no more then.

        A node gets up to *links* (2 to 1024) others on each upper level and twice as many on the lowest, chosen among
        the *ef* nearest (1 to 65,536). In *threads* new threads (1 to 1024) of low priority, without Python's lock.
        Raises ValueError, MemoryError, and OSError where no thread can be started.
        """

    def read(self, position: int, out: Buffer, /) -> int:
        """Copy bytes from *position* on into *out*, as many as there are and have a place; how many that is."""

class Graph:
    """An HNSW graph over 8-bit codes in faiss' format, read where it lies. Any number of threads may search it."""

    def __init__(
        self, body: Buffer, vectors: Buffer, count: int, dimension: int, euclid: bool, variant: int = 0, /
    ) -> None:
        """*body* is the index of *vectors* (float32 [count, dimension]), of either metric, by `Built` or by faiss.

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

class Points:
    """The ids and versions of a segment's points, read where they lie in its `points.lmdb`, which changes no more."""

    def __init__(self, file: Buffer, /) -> None:
        """*file* is all of it. Raises ValueError where it is not in LMDB's format 1."""

    def hits(self, offsets: Buffer, scores: Buffer, counts: Buffer, /) -> list[bytes] | None:
        """JSON: lists of objects with id, version and score, of so many points as *counts* says (int64 [lists]).

        *offsets* (int64 [n]) and *scores* (float32 [n]) are those of all lists, one after the other. None where there
        is no such row, or the file is damaged: nothing outside of it is ever read.
        """

    def stamps(self, offsets: Buffer, /) -> list[tuple[bytes, int]] | None:
        """Key and version of the points at *offsets* (int64 [n]); None as above."""

def read_vector(text: Buffer, out: Buffer, /) -> bool:
    """Read a JSON list of d numbers into *out* (float32 [d]).

    False where it is anything else, and where a number is one of the few that need more care than is taken here. It is
    then for others to read it, or to say what is wrong.
    """

def lift_vectors(text: Buffer, dimension: int, /) -> tuple[bytes, bytes] | None:
    """A search or a batch of them, in JSON, without its vectors; and these (float32 [n, dimension]).

    Each list under a key called query, vector or nearest, outside of filters, has given way to a list of its number:
    [0], [1] … None where one is not *dimension* plain numbers: see `read_vector`.
    """
