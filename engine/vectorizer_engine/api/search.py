"""The calls that search: by vector, or by the vector of a point that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from vectorizer_engine.api.call import Call
from vectorizer_engine.api.decoding import decode, decode_vector, first_byte
from vectorizer_engine.api.points import at_least_one
from vectorizer_engine.api.requests import (
    NearestQuery,
    QueryBatch,
    QueryPoints,
    SearchBatch,
    SearchParams,
    SearchPoints,
)
from vectorizer_engine.api.results import Selection
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.filters import compile_filter, parse_id
from vectorizer_engine.collection.types import PointId
from vectorizer_engine.errors import InvalidRequest, PointNotFound
from vectorizer_engine.index.base import Vectors

_search = msgspec.json.Decoder(SearchPoints)
_search_batch = msgspec.json.Decoder(SearchBatch)
_query = msgspec.json.Decoder(QueryPoints)
_query_batch = msgspec.json.Decoder(QueryBatch)
_nearest = msgspec.json.Decoder(NearestQuery)
_id = msgspec.json.Decoder(int | str)

_QUERY_LIMIT = 10

_KINDS_OF_QUERY = (
    'expected a vector, a point\'s id, or {"nearest": …}; other kinds of query are not supported'
)

Hit = dict[str, Any]


@dataclass(slots=True)
class _Target:
    """What a query looks for: a vector of shape [1, d], and the point it belongs to, which is no answer."""

    vector: Vectors
    point: PointId | None = None


def search_points(call: Call) -> Any:
    return _search_one(call.collection, decode(_search, call.body), where="")


def search_batch(call: Call) -> Any:
    collection = call.collection
    searches = decode(_search_batch, call.body).searches
    return _search_many(collection, searches)


def query_points(call: Call) -> Any:
    return {"points": _search_one(call.collection, decode(_query, call.body), where="")}


def query_batch(call: Call) -> Any:
    collection = call.collection
    searches = decode(_query_batch, call.body).searches
    return [{"points": hits} for hits in _search_many(collection, searches)]


def _search_many(collection: Collection, searches: Sequence[SearchPoints | QueryPoints]) -> list[list[Hit]]:
    """Searches that differ in nothing but their vector run as one."""
    plans = [_Plan(collection, body, where=f"searches[{i}].") for i, body in enumerate(searches)]
    answers: list[list[Hit]] = [[] for _ in plans]
    together: dict[bytes, list[int]] = {}
    for i, plan in enumerate(plans):
        together.setdefault(plan.key, []).append(i)
    for group in together.values():
        for i, hits in zip(group, plans[group[0]].run([plans[i].target for i in group]), strict=True):
            answers[i] = hits
    return answers


def _search_one(collection: Collection, body: SearchPoints | QueryPoints, *, where: str) -> list[Hit]:
    plan = _Plan(collection, body, where=where)
    return plan.run([plan.target])[0]


class _Plan:
    """One search of a request, checked and ready to run, alone or for several targets."""

    def __init__(self, collection: Collection, body: SearchPoints | QueryPoints, *, where: str) -> None:
        self._collection = collection
        self._body = body
        self._limit = at_least_one(body.limit, default=_QUERY_LIMIT)
        self._offset = body.offset or 0
        self._params = _checked(body.params, where)
        self._predicate = compile_filter(body.filter, where=f"{where}filter")
        with_vector = body.with_vectors if body.with_vector is None else body.with_vector
        self._selection = Selection(body.with_payload, with_vector)
        if isinstance(body, SearchPoints):
            self.target = _Target(self._vector(body.vector, f"{where}vector"))
        else:
            self.target = self._query_target(body, f"{where}query")

    @property
    def key(self) -> bytes:
        """Equal for searches that differ in their vector only."""
        body = self._body
        return msgspec.json.encode(
            (
                self._limit,
                self._offset,
                body.score_threshold,
                body.params,
                body.filter,
                body.with_payload,
                self._selection.vector,
            )
        )

    def run(self, targets: list[_Target]) -> list[list[Hit]]:
        """For each target its hits, closest first."""
        # A point that is its own nearest neighbour is no answer, so one more is looked for.
        spare = any(target.point is not None for target in targets)
        found = self._collection.search(
            targets[0].vector if len(targets) == 1 else np.concatenate([t.vector for t in targets]),
            limit=self._limit + self._offset + 1 if spare else self._limit,
            offset=0 if spare else self._offset,
            predicate=self._predicate,
            score_threshold=self._body.score_threshold,
            exact=bool(self._params.exact),
            ef=self._params.hnsw_ef or None,
            with_payload=self._selection.payload,
            with_vector=self._selection.vector,
        )
        scored = self._selection.scored
        if not spare:
            return [[scored(hit) for hit in hits] for hits in found]
        return [
            [scored(hit) for hit in hits if hit.id != target.point][self._offset : self._offset + self._limit]
            for target, hits in zip(targets, found, strict=True)
        ]

    def _vector(self, raw: msgspec.Raw, where: str) -> Vectors:
        return decode_vector(
            raw, where=where, collection=self._collection.name, dimension=self._collection.params.dimension
        )

    def _query_target(self, body: QueryPoints, where: str) -> _Target:
        if isinstance(body.query, msgspec.UnsetType):
            raise InvalidRequest(f"{where} is missing: {_KINDS_OF_QUERY}")
        return self._target_of(body.query, where)

    def _target_of(self, raw: msgspec.Raw, where: str) -> _Target:
        first = first_byte(raw)
        if first == b"[":
            return _Target(self._vector(raw, where))
        if first == b"{":
            try:
                nearest = decode(_nearest, raw, where=where)
            except InvalidRequest as error:
                raise InvalidRequest(f"{error} ({_KINDS_OF_QUERY})") from None
            return self._target_of(nearest.nearest, f"{where}.nearest")
        try:
            point = parse_id(decode(_id, raw, where=where), where=where)
        except InvalidRequest as error:
            raise InvalidRequest(f"{error} ({_KINDS_OF_QUERY})") from None
        found = self._collection.retrieve([point], with_payload=False, with_vector=True)
        if not found:
            raise PointNotFound(collection=self._collection.name, point=point)
        assert found[0].vector is not None
        return _Target(np.ascontiguousarray(found[0].vector.reshape(1, -1)), point)


_NO_PARAMS = SearchParams()


def _checked(params: SearchParams | None, where: str) -> SearchParams:
    if params is None:
        return _NO_PARAMS
    if params.indexed_only:
        raise InvalidRequest(f"{where}params.indexed_only is not supported: leave it out")
    return params
