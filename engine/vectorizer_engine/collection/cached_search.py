"""Searches answered from the query-result cache where the same was asked of the same view before.

A view never changes and has a serial of its own, which is a part of the key: a write publishes a new view, so
it can never be answered from an old result. Kept are places and scores; points are read afresh. Searches with
a filter are not kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import TypeVar

import numpy as np

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.collection.view import Ranking, SearchMode, View
from vectorizer_engine.index.base import Vectors

T = TypeVar("T")

_QUESTION = struct.Struct("<QQ?q")
_HIT = np.dtype([("part", "<u4"), ("offset", "<u4"), ("score", "<f4")])


def search_with_cache(
    view: View,
    queries: Vectors,
    limit: int,
    how: SearchMode,
    *,
    results: AdvancedCache,
    finish: Callable[[list[Ranking]], list[T]],
) -> list[T]:
    """`view.search` without a filter. The answer to each query comes from *results*, or is kept there."""
    question = _QUESTION.pack(view.serial, limit, how.exact, how.ef or 0)
    keys = [blake2b(query.data, digest_size=32, key=question).digest() for query in queries]
    kept = [results.get(key) for key in keys]
    rankings = [None if packed is None else _unpack(packed, view) for packed in kept]
    missing = [row for row, ranking in enumerate(rankings) if ranking is None]
    if missing:
        asked = queries if len(missing) == len(queries) else queries[missing]
        found = view.search(asked, limit, how, selector=None, finish=lambda found: found)
        for row, ranking in zip(missing, found, strict=True):
            rankings[row] = ranking
            results.put(keys[row], _pack(ranking, view))
    return finish([ranking for ranking in rankings if ranking is not None])


def _pack(ranking: Ranking, view: View) -> bytes:
    index = {id(part): number for number, part in enumerate(view.parts)}
    hits = np.empty(len(ranking.offsets), _HIT)
    numbers = np.array([index[id(part)] for part in ranking.parts], np.uint32)
    if len(hits):
        hits["part"] = numbers[0] if ranking.numbers is None else numbers[ranking.numbers]
    hits["offset"] = ranking.offsets
    hits["score"] = ranking.scores
    return hits.tobytes()


def _unpack(packed: bytes, view: View) -> Ranking:
    hits = np.frombuffer(packed, _HIT)
    numbers = hits["part"].astype(np.int64)
    ranking = Ranking(
        view.parts, numbers, hits["offset"].astype(np.int64), np.ascontiguousarray(hits["score"])
    )
    if len(hits) and (numbers == numbers[0]).all():
        return ranking._replace(parts=(view.parts[numbers[0]],), numbers=None)
    return ranking
