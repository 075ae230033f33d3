"""HNSW over vectors quantized to 8 bits (faiss HNSW-SQ8), memory-mapped: the index of most sealed segments.

The graph is searched over 8-bit codes, and what it finds is scored again from the full-precision vectors, so
scores are exact and only a neighbour that the graph misses is lost.

The graph is built by code of our own (`engine/native/build.cpp`, docs/decisions/0017) and written as faiss would. It is
searched, in one call for all of this, by code that reads it where it lies in its file (`engine/native/graph.cpp`,
docs/decisions/0015). So nothing of it is on the heap.

Inner products are computed in integers: vectors and queries are scaled so that their largest value is 127, and rounded.
What scales all alike changes no order. Euclid, where it would, has codes with a range for each dimension, which are
turned into floats for every comparison; that takes half as long again (docs/decisions/0010).

An index never changes. Cosine vectors arrive with length 1. Manhattan has no such index.

Figures here were measured with `benchmarks/index.py` on 67,431 MiniLM embeddings (d = 384), 1,000 more of them
as queries; docs/decisions/0003 has the tables.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from vectorizer_engine._native import Built, Graph
from vectorizer_engine.cache.heap import return_free_memory
from vectorizer_engine.index.base import Distance, Hits, Mask, Vectors
from vectorizer_engine.index.faiss_file import (
    PIECE_BYTES,
    FileLayout,
    IndexShape,
    Write,
    map_index_file,
    not_understood,
    recipe_of,
    write_index_file,
)
from vectorizer_engine.index.flat import FlatIndex
from vectorizer_engine.index.rescoring import count_bits
from vectorizer_engine.storage.files import Files

FILE_NAME = "index.hnsw-sq8"

M = 16
"""Links of a node on each upper level; twice as many on the lowest."""

EF_CONSTRUCTION = 128
"""Recall@10 at ef = 64 of 0.976 with 100, 0.981 with 128, 0.984 with 150. Building takes half as long again with 128 as
with 100."""

DEFAULT_EF = 64
"""Candidates that a search keeps: recall@10 of 0.981, 0.987 with 96, 0.991 with 128."""

OVERSAMPLING = 2
"""Candidates scored again for each hit asked for. 1 loses 0.006 of recall; 1.5, 2 and 3 lose nothing."""

COMPARISONS_PER_EF = 30
"""What one step of ef costs, in comparisons of an exact scan with a mask: 2.6 µs against 0.09 µs."""

_COMPARED_BY = frozenset({Distance.COSINE, Distance.DOT, Distance.EUCLID})

_BUILDER = 2
"""Which code built a file: 1 was faiss' own."""

RECIPE = recipe_of(_BUILDER, M, EF_CONSTRUCTION)
"""All that a file depends on, besides the vectors, the distance and the format."""

# What is held besides codes and links, checked by tests/engine/index/test_index_memory.py.
_FIXED_BYTES = 2 * PIECE_BYTES + 65_536
_OPEN_BYTES = 4096
_LEVELS_AND_OFFSETS_BYTES = 12  # a vector: int32 and size_t
_CANDIDATES_BYTES = 16_384


def supports(distance: Distance) -> bool:
    """Whether such an index exists for *distance*."""
    return distance in _COMPARED_BY


def file_bytes(count: int, dimension: int) -> int:
    """About what the file of *count* vectors takes on the disk: codes, links of all levels, levels, offsets."""
    return count * (dimension + _link_bytes() + _LEVELS_AND_OFFSETS_BYTES)


def build_bytes(count: int, dimension: int, *, threads: int) -> int:
    """What `build` holds on the heap at its peak: what it writes, and for each thread a bit a vector and the two that
    it compares with others. To be reserved before it is called."""
    return file_bytes(count, dimension) + threads * (count // 8 + 2 * 8 * dimension) + _FIXED_BYTES


def open_bytes(count: int) -> int:
    """What an open index of *count* vectors holds on the heap, besides `scratch_bytes`: all of it is mapped."""
    return _OPEN_BYTES


def scratch_bytes(largest_count: int) -> int:
    """What each thread that searches holds meanwhile: a bit a vector, and the candidates of a usual ef."""
    return largest_count // 8 + _CANDIDATES_BYTES


def _link_bytes() -> int:
    # A node is on level 1 with probability 1/M, on level 2 with 1/M² …: 1/(M-1) upper levels on average.
    return round(4 * (2 * M + M / (M - 1)))


def effective_ef(ef: int, limit: int, *, allowed: int, count: int) -> int | None:
    """The ef to search *count* vectors with where a filter leaves *allowed*; None: scan those exactly.

    A filtered search walks past what the filter forbids, so with an unchanged ef it finds too little: recall@10
    of 0.59 where a random 2 % is allowed, and 0.44 where the 2 % lie together. ef over the allowed share keeps
    0.96 and more (0.99 for random filters), at a cost that grows with it; where it would cost more than
    comparing with every allowed vector, that is what is done. So small shares, small segments and very
    long answers are scanned.
    """
    wanted = max(ef, limit * OVERSAMPLING)
    widened = -(-wanted * count // allowed) if allowed else wanted
    return None if allowed <= COMPARISONS_PER_EF * widened else widened


def build(path: Path, vectors: Vectors, distance: Distance, *, threads: int, files: Files) -> None:
    """Build the index of *vectors* (float32 [n, d], C order, n > 0, may be mapped) into the new file *path*.

    Holds `build_bytes` meanwhile, and *threads* cores, which searches get before it: 3.0 s for 67,931 vectors
    with two. Raises OSError and MemoryError.
    """
    try:
        _build(path, vectors, distance, threads, files)
    finally:
        return_free_memory()


def _build(path: Path, vectors: Vectors, distance: Distance, threads: int, files: Files) -> None:
    count, dimension = vectors.shape
    built = Built(vectors, count, dimension, distance is Distance.EUCLID, M, EF_CONSTRUCTION, threads)
    shape = IndexShape(FileLayout.HNSW_SQ8, distance, dimension, count)
    write_index_file(path, partial(_write_body, built), shape, recipe=RECIPE, files=files)


def _write_body(built: Built, write: Write) -> None:
    piece = memoryview(bytearray(PIECE_BYTES))
    position = 0
    while size := built.read(position, piece):
        position += write(bytes(piece[:size]))


class QuantizedIndex:
    """An index file, open, with the vectors it was built from. Any number of threads may search it."""

    def __init__(self, path: Path, vectors: Vectors, distance: Distance) -> None:
        """Raises StoreCorrupt or StoreVersionError where the file is not the index of *vectors*."""
        count, dimension = vectors.shape
        shape = IndexShape(FileLayout.HNSW_SQ8, distance, dimension, count)
        body = map_index_file(path, shape)
        try:
            self._graph = Graph(body, vectors, count, dimension, distance is Distance.EUCLID)
        except ValueError as problem:
            raise not_understood(path, str(problem)) from problem
        self._vectors = vectors
        self._distance = distance
        self._exact = FlatIndex(vectors, distance)

    def search(
        self, queries: Vectors, limit: int, *, mask: Mask | None = None, ef: int | None = None
    ) -> list[Hits]:
        """For each row of *queries* (float32 [q, d], C order) the *limit* nearest of what *mask* allows.

        There are fewer hits only where fewer vectors are allowed. A larger *ef* than DEFAULT_EF finds more of the
        true neighbours and takes longer. A call keeps to its thread; to use more cores for a batch, split it.
        """
        count = len(self._vectors)
        allowed = count if mask is None else count_bits(mask)
        limit = min(limit, allowed)
        usable_ef = effective_ef(ef or DEFAULT_EF, limit, allowed=allowed, count=count)
        if usable_ef is None:
            return self._exact.search(queries, limit, mask=mask)
        offsets = np.empty((len(queries), limit), np.int64)
        scores = np.empty((len(queries), limit), np.float32)
        found = np.empty(len(queries), np.int32)
        self._graph.search(queries, limit, limit * OVERSAMPLING, usable_ef, mask, offsets, scores, found)
        hits = [Hits(offsets[row, :n], scores[row, :n]) for row, n in enumerate(found.tolist())]
        for row, each in enumerate(hits):
            if len(each.offsets) < limit:  # the graph did not lead to enough of what is allowed
                hits[row] = self._exact.search(queries[row : row + 1], limit, mask=mask)[0]
        return hits
