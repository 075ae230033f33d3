"""Searches answered from the query-result cache where the same was asked of the same view before.

A view never changes and has a serial of its own, which is a part of the key: a write publishes a new view, so
it can never be answered from an old result. Kept are places and scores; points are read afresh. Searches with
a filter are not kept.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.collection.view import Found, Place, SearchMode, View
from vectorizer_engine.index.base import Vectors

_QUESTION = struct.Struct("<QQ?qQ")
_COUNT = struct.Struct("<I")
_HIT = struct.Struct("<IId")


def search_with_cache(
    view: View, queries: Vectors, limit: int, how: SearchMode, *, results: AdvancedCache
) -> list[list[Found]]:
    """`view.search` without a filter, or its answer from *results*."""
    question = _QUESTION.pack(view.serial, limit, how.exact, how.ef or 0, len(queries))
    key = blake2b(queries.data, digest_size=32, key=question).digest()
    packed = results.get(key)
    if packed is not None:
        return _unpack(packed, view)
    answers = view.search(queries, limit, how, selector=None)
    results.put(key, _pack(answers, view))
    return answers


def _pack(answers: list[list[Found]], view: View) -> bytes:
    index = {id(part): number for number, part in enumerate(view.parts)}
    pieces: list[bytes] = []
    for answer in answers:
        pieces.append(_COUNT.pack(len(answer)))
        pieces.extend(
            _HIT.pack(index[id(found.place.part)], found.place.offset, found.score) for found in answer
        )
    return b"".join(pieces)


def _unpack(packed: bytes, view: View) -> list[list[Found]]:
    answers: list[list[Found]] = []
    position = 0
    while position < len(packed):
        (count,) = _COUNT.unpack_from(packed, position)
        start = position + _COUNT.size
        position = start + count * _HIT.size
        answers.append(
            [
                Found(Place(view.parts[part], offset), score)
                for part, offset, score in _HIT.iter_unpack(packed[start:position])
            ]
        )
    return answers
