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

_QUESTION = struct.Struct("<QQ?qQ")
_COUNT = struct.Struct("<I")
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
    """`view.search` without a filter, or its answer from *results*."""
    question = _QUESTION.pack(view.serial, limit, how.exact, how.ef or 0, len(queries))
    key = blake2b(queries.data, digest_size=32, key=question).digest()
    packed = results.get(key)
    if packed is not None:
        return finish(_unpack(packed, view))
    rankings = view.search(queries, limit, how, selector=None, finish=lambda found: found)
    results.put(key, _pack(rankings, view))
    return finish(rankings)


def _pack(rankings: list[Ranking], view: View) -> bytes:
    index = {id(part): number for number, part in enumerate(view.parts)}
    pieces: list[bytes] = []
    for ranking in rankings:
        hits = np.empty(len(ranking.offsets), _HIT)
        numbers = np.array([index[id(part)] for part in ranking.parts], np.uint32)
        if len(hits):
            hits["part"] = numbers[0] if ranking.numbers is None else numbers[ranking.numbers]
        hits["offset"] = ranking.offsets
        hits["score"] = ranking.scores
        pieces += (_COUNT.pack(len(hits)), hits.tobytes())
    return b"".join(pieces)


def _unpack(packed: bytes, view: View) -> list[Ranking]:
    rankings: list[Ranking] = []
    position = 0
    while position < len(packed):
        (count,) = _COUNT.unpack_from(packed, position)
        hits = np.frombuffer(packed, _HIT, count, position + _COUNT.size)
        position += _COUNT.size + hits.nbytes
        numbers = hits["part"].astype(np.int64)
        ranking = Ranking(
            view.parts, numbers, hits["offset"].astype(np.int64), np.ascontiguousarray(hits["score"])
        )
        if count and (numbers == numbers[0]).all():
            ranking = ranking._replace(parts=(view.parts[numbers[0]],), numbers=None)
        rankings.append(ranking)
    return rankings
