"""Exact search: every allowed vector is compared. What other backends are measured against, and what serves
where there is no index, or where a filter leaves so little that an index would miss some of it.

Works in place on memory-mapped vectors: besides the answer it allocates nothing.
"""

from __future__ import annotations

import threading

import faiss
import numpy as np

from vectorizer_engine.index.base import Distance, Hits, Mask, Offsets, Vectors
from vectorizer_engine.index.rescoring import count_bits, rescore

_METRICS = {
    Distance.COSINE: faiss.METRIC_INNER_PRODUCT,
    Distance.DOT: faiss.METRIC_INNER_PRODUCT,
    Distance.EUCLID: faiss.METRIC_L2,
    Distance.MANHATTAN: faiss.METRIC_L1,
}

_L2_QUERIES_AT_ONCE = 16
"""From 20 queries on faiss computes L2 as |x|² - 2xy + |y|², which loses digits between near vectors."""

GATHERED_SHARE = 1 / 64
"""Of the vectors: fewer are taken one by one instead of looking at the mask's bit of each. Of 68,431 vectors (d = 384),
68 then cost 0.01 ms instead of 0.11, 340 0.02 instead of 0.13, 1,366 0.16 instead of 0.30; from 3,400 on it gains
nothing."""

_threads = threading.local()


def search_in_this_thread() -> None:
    """Keep faiss from spreading one request over every core: requests run in parallel already.

    OpenMP keeps this setting for each calling thread.
    """
    if not getattr(_threads, "limited", False):
        faiss.omp_set_num_threads(1)
        _threads.limited = True


class FlatIndex:
    """Exact search over *vectors* (float32 [n, d], C order), which may be mapped and must not change."""

    def __init__(self, vectors: Vectors, distance: Distance) -> None:
        self._vectors = vectors
        self._distance = distance

    def search(self, queries: Vectors, limit: int, *, mask: Mask | None = None) -> list[Hits]:
        """For each row of *queries* (float32 [q, d], C order) the *limit* nearest of what *mask* allows.

        There are fewer hits where fewer vectors are allowed.
        """
        limit = min(limit, len(self._vectors))
        if limit == 0:
            nothing = Hits(np.empty(0, np.int64), np.empty(0, np.float32))
            return [nothing] * len(queries)
        search_in_this_thread()
        if (
            mask is not None
            and self._distance is not Distance.MANHATTAN
            and count_bits(mask) <= len(self._vectors) * GATHERED_SHARE
        ):
            candidates = _offsets(mask)[np.newaxis]
            return [
                rescore(self._vectors, self._distance, queries[row : row + 1], candidates, limit)[0]
                for row in range(len(queries))
            ]
        scores = np.empty((len(queries), limit), np.float32)
        offsets = np.empty((len(queries), limit), np.int64)
        step = _L2_QUERIES_AT_ONCE if self._distance is Distance.EUCLID else len(queries)
        for start in range(0, len(queries), step):
            group = slice(start, start + step)
            self._search(queries[group], mask, scores[group], offsets[group])
        if self._distance is Distance.EUCLID:
            np.sqrt(scores, out=scores)
        return [_without_gaps(offsets[row], scores[row]) for row in range(len(queries))]

    def _search(self, queries: Vectors, mask: Mask | None, scores: Vectors, offsets: Offsets) -> None:
        count, dimension = self._vectors.shape
        pointer = faiss.swig_ptr
        extra_metrics = faiss.knn_extra_metrics  # type: ignore[attr-defined] # faiss's stubs leave it out
        selector = None if mask is None else faiss.IDSelectorBitmap(count, pointer(mask))
        data = (pointer(queries), pointer(self._vectors), dimension, len(queries), count)
        limit = scores.shape[1]
        metric = _METRICS[self._distance]
        if metric == faiss.METRIC_INNER_PRODUCT:
            faiss.knn_inner_product(*data, limit, pointer(scores), pointer(offsets), selector)
        elif metric == faiss.METRIC_L2:
            faiss.knn_L2sqr(*data, limit, pointer(scores), pointer(offsets), None, selector)
        else:
            extra_metrics(*data, metric, 0.0, limit, pointer(scores), pointer(offsets), selector)


def _offsets(mask: Mask) -> Offsets:
    """The offsets that a sparse *mask* allows, ascending."""
    filled = np.flatnonzero(mask)
    places, bits = np.nonzero(np.unpackbits(mask[filled], bitorder="little").reshape(-1, 8))
    return filled[places] * 8 + bits


def _without_gaps(offsets: Offsets, scores: Vectors) -> Hits:
    """faiss marks the places for which it found nothing with -1, at the end."""
    found = int(np.count_nonzero(offsets >= 0))
    return Hits(offsets[:found], scores[:found])
