"""What the approximate indexes share: from candidates to an answer with exact scores in exact order."""

from __future__ import annotations

import numpy as np

from vectorizer_engine.index.base import Distance, Hits, Mask, Offsets, Vectors
from vectorizer_engine.index.native import faiss


def rescore(
    vectors: Vectors, distance: Distance, queries: Vectors, candidates: Offsets, limit: int
) -> list[Hits]:
    """The *limit* nearest of each query's *candidates* (int64 [q, c]; -1 where there is none).

    *vectors* (float32 [n, d]) and *queries* (float32 [q, d]) are in C order; vectors are read in place. Equal
    scores come in the order of their offsets, as in exact search. Not for Manhattan.
    """
    scores = np.empty(candidates.shape, np.float32)
    pointer = faiss.swig_ptr
    score = faiss.fvec_L2sqr_by_idx if distance is Distance.EUCLID else faiss.fvec_inner_products_by_idx
    score(
        pointer(scores),
        pointer(queries),
        pointer(vectors),
        pointer(candidates),
        vectors.shape[1],
        len(queries),
        candidates.shape[1],
    )
    # faiss scores what is missing infinitely far, so it is ordered last.
    farness = -scores if distance.larger_is_closer else scores
    if distance is Distance.EUCLID:
        scores = np.sqrt(scores)
    return [_ordered(*row, limit) for row in zip(candidates, scores, farness, strict=True)]


def _ordered(candidates: Offsets, scores: Vectors, farness: Vectors, limit: int) -> Hits:
    order = np.lexsort((candidates, farness))[:limit]
    offsets = candidates[order]
    if len(offsets) and offsets[-1] < 0:
        order = order[offsets >= 0]
        offsets = candidates[order]
    return Hits(offsets, scores[order])


def count_bits(mask: Mask) -> int:
    """How many offsets *mask* allows."""
    return int(np.bitwise_count(mask).sum())
