"""The calls that search: by vector, or by the vector of a point that is there already."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from vectorizer_engine._native import lift_vectors
from vectorizer_engine.api.answers import Fragments, Hold
from vectorizer_engine.api.call import AnyCollection, Call
from vectorizer_engine.api.decoding import decode, decode_vector, first_byte, unnamed
from vectorizer_engine.api.points import at_least_one
from vectorizer_engine.api.requests import (
    NamedVector,
    NearestQuery,
    QueryBatch,
    QueryPoints,
    SearchBatch,
    SearchParams,
    SearchPoints,
)
from vectorizer_engine.api.results import Selection, made_already
from vectorizer_engine.collection.filters import compile_filter, parse_id
from vectorizer_engine.collection.records import Scored
from vectorizer_engine.collection.types import PointId
from vectorizer_engine.errors import InvalidRequest, PointNotFound
from vectorizer_engine.index.base import Vectors

T = TypeVar("T")

_search = msgspec.json.Decoder(SearchPoints)
_search_batch = msgspec.json.Decoder(SearchBatch)
_query = msgspec.json.Decoder(QueryPoints)
_query_batch = msgspec.json.Decoder(QueryBatch)
_named_vector = msgspec.json.Decoder(NamedVector)
_nearest = msgspec.json.Decoder(NearestQuery)
_id = msgspec.json.Decoder(int | str)

_NO_VECTOR = msgspec.Raw(b"null")

_QUERY_LIMIT = 10

_KINDS_OF_QUERY = (
    'expected a vector, a point\'s id, or {"nearest": …}; other kinds of query are not supported'
)

_HITS_AT_ONCE = 4000
"""So many hits of a batch are looked for and held at a time, unless a single search wants more."""

_HIT_BYTES = 600
"""Heap bytes of a hit at most, from the index to the answer. Measured: 385."""

_SEARCH_BYTES = 2000
"""Heap bytes of one search of a batch at most, besides its vector: decoded and checked. Measured: 1260."""


@dataclass(slots=True)
class _Target:
    """What a query looks for: a vector of shape [1, d], and the point it belongs to, which is no answer."""

    vector: Vectors
    point: PointId | None = None


class Search:
    """A search that is all of a request, ready to run."""

    __slots__ = ("_after", "_before", "plan")

    def __init__(self, plan: _Plan, before: bytes = b"", after: bytes = b"") -> None:
        """Its hits are answered between *before* and *after*."""
        self.plan = plan
        self._before = before
        self._after = after

    @property
    def nbytes(self) -> int:
        """What its hits hold."""
        return self.plan.holding_hits(1).nbytes

    def answer(self, hits: Sequence[Scored]) -> Fragments:
        """The answer, of the *hits* that there are already."""
        yield self._before
        yield from self.plan.selection.hits(hits)
        yield self._after

    def fragments(self) -> Fragments:
        """The answer to this search alone."""
        yield self.plan.holding_hits(1)
        [hits] = self.plan.run([self.plan])
        yield from self.answer(hits)


def run_together(searches: Sequence[Search]) -> Sequence[Sequence[Scored]]:
    """The hits of each of *searches*, which are of one collection, and whose plans have the same `key`."""
    return searches[0].plan.run([each.plan for each in searches])


def plan_search(call: Call) -> Search:
    return Search(_Plan(call.collection, *_decoded(_search, call), where=""))


def plan_query(call: Call) -> Search:
    plan = _Plan(call.collection, *_decoded(_query, call), where="")
    return Search(plan, b'{"points":', b"}")


def search_batch(call: Call) -> Fragments:
    yield _holding_searches(call)
    body, vectors = _decoded(_search_batch, call)
    yield from _answers(call.collection, body.searches, vectors, b"", b"")


def query_batch(call: Call) -> Fragments:
    yield _holding_searches(call)
    body, vectors = _decoded(_query_batch, call)
    yield from _answers(call.collection, body.searches, vectors, b'{"points":', b"}")


def _decoded(decoder: msgspec.json.Decoder[T], call: Call) -> tuple[T, Vectors | None]:
    """The body, and its vectors (float32 [n, d]), of which only the numbers are left in it: see `lift_vectors`.

    Nearly all vectors can be read that way, in a fifth of the time. Where one cannot, or something is wrong, the body
    is decoded as it is, and there are no vectors.
    """
    dimension = call.collection.params.dimension
    lifted = lift_vectors(call.body, dimension)
    if lifted is not None:
        rest, vectors = lifted
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return decoder.decode(rest), np.frombuffer(vectors, np.float32).reshape(-1, dimension)
    return decode(decoder, call.body), None


def _holding_searches(call: Call) -> Hold:
    # Each search is an object, so there are not more of them than braces.
    each = _SEARCH_BYTES + 2 * 4 * call.collection.params.dimension
    return Hold(each * call.body.count(b"{"), "send fewer searches in a batch")


def _answers(
    collection: AnyCollection,
    searches: Sequence[SearchPoints | QueryPoints],
    vectors: Vectors | None,
    before: bytes,
    after: bytes,
) -> Fragments:
    """The hits of each search, between *before* and *after*. Neighbours that differ in their vector only run as one."""
    plans = _plans(collection, searches, vectors)
    yield b"["
    separator = before
    for _, group in itertools.groupby(plans, key=_Plan.key):
        alike = list(group)
        plan = alike[0]
        rounds = -(-len(alike) * plan.most_hits // _HITS_AT_ONCE)
        together = -(-len(alike) // rounds)  # as many each time: a short last round would leave cores idle
        yield plan.holding_hits(together)
        for start in range(0, len(alike), together):
            found = plan.run(alike[start : start + together])
            if (texts := made_already(found)) is not None:
                yield separator + (after + b"," + before).join(texts) + after
                separator = b"," + before
                continue
            for hits in found:
                yield separator
                yield from plan.selection.hits(hits)
                yield after
                separator = b"," + before
    yield b"]"


def _plans(
    collection: AnyCollection, searches: Sequence[SearchPoints | QueryPoints], vectors: Vectors | None
) -> list[_Plan]:
    """One for each of *searches*. Those that differ from the one before in their vector only take next to no time."""
    plans: list[_Plan] = []
    before: SearchPoints | QueryPoints | None = None
    for i, body in enumerate(searches):
        where = f"searches[{i}]."
        # A filter is not compared: to Python, 1 and true are the same.
        rest = None if body.filter is not None else _without_vector(body)
        if rest is not None and rest == before:
            plans.append(plans[-1].for_another(body, where=where))
        else:
            plans.append(_Plan(collection, body, vectors, where=where))
        before = rest
    return plans


def _without_vector(body: SearchPoints | QueryPoints) -> SearchPoints | QueryPoints:
    if isinstance(body, SearchPoints):
        return msgspec.structs.replace(body, vector=_NO_VECTOR)
    return msgspec.structs.replace(body, query=_NO_VECTOR)


class _Plan:
    """One search of a request, checked and ready to run, alone or for several targets."""

    def __init__(
        self,
        collection: AnyCollection,
        body: SearchPoints | QueryPoints,
        vectors: Vectors | None,
        *,
        where: str,
    ) -> None:
        """For *body* and *vectors* see `_decoded`; *where* names the body in messages."""
        self._collection = collection
        self._vectors = vectors
        self._body = body
        self._limit = at_least_one(body.limit, default=_QUERY_LIMIT)
        self._offset = body.offset or 0
        self._params = _checked(body.params, where)
        self._predicate = compile_filter(body.filter, where=f"{where}filter")
        with_vector = body.with_vectors if body.with_vector is None else body.with_vector
        name = collection.params.vector_name
        self.selection = Selection(body.with_payload, with_vector, vector_name=name)
        if isinstance(body, QueryPoints):
            if (body.using or "") != name:
                raise InvalidRequest(f"{where}using: expected {name or None!r}, found {body.using!r}")
            if body.prefetch:
                raise InvalidRequest(f"{where}prefetch is not supported by this engine: leave it out")
        self.target = self._find_target(body, where)

    def for_another(self, body: SearchPoints | QueryPoints, *, where: str) -> _Plan:
        """The plan of *body*, which differs from this one's in its vector only."""
        other = object.__new__(_Plan)  # not by `copy`, which takes ten times as long
        other.__dict__.update(self.__dict__, target=self._find_target(body, where))
        return other

    def _find_target(self, body: SearchPoints | QueryPoints, where: str) -> _Target | None:
        if isinstance(body, QueryPoints):
            return self._query_target(body, f"{where}query")
        name = self._collection.params.vector_name
        return _Target(self._vector(_unnamed(body.vector, name, where), f"{where}vector"))

    @property
    def most_hits(self) -> int:
        """So many hits there are at most, those before the offset included. At least 1."""
        most = self._limit + self._offset + 1
        return most if most <= _HITS_AT_ONCE else max(1, min(most, self._collection.count()))

    def holding_hits(self, searches: int) -> Hold:
        """What the hits of so many searches hold at a time."""
        return Hold(_HIT_BYTES * self.most_hits * searches, "ask for a smaller limit and offset, or scroll")

    def key(self) -> bytes:
        """Equal for searches that differ in their vector only."""
        body = self._body
        return msgspec.json.encode(
            (
                self.target is None,
                self._limit,
                self._offset,
                body.score_threshold,
                body.params,
                body.filter,
                body.with_payload,
                body.with_vector,
                body.with_vectors,
            )
        )

    def run(self, plans: Sequence[_Plan]) -> Sequence[Sequence[Scored]]:
        """For each of *plans*, which differ from this one in their target only, its hits, closest first."""
        targets = [plan.target for plan in plans if plan.target is not None]
        if len(targets) < len(plans):
            return [self._first_points()] * len(plans)
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
            wanted=self.selection.wanted,
        )
        if not spare:
            return found
        return [
            [hit for hit in hits if hit.id != target.point][self._offset : self._offset + self._limit]
            for target, hits in zip(targets, found, strict=True)
        ]

    def _first_points(self) -> list[Scored]:
        """The answer where nothing is asked for: points in the order of their ids, each with score 1, as in Qdrant."""
        if self._body.score_threshold is not None:
            raise InvalidRequest("score_threshold: without a query there are no scores: leave it out")
        found, _ = self._collection.scroll(
            limit=self._offset + self._limit, predicate=self._predicate, wanted=self.selection.wanted
        )
        return [Scored(record.place, record.stamp, 1.0) for record in found[self._offset :]]

    def _vector(self, raw: msgspec.Raw, where: str) -> Vectors:
        if self._vectors is not None and first_byte(raw) == b"[":
            number = int(bytes(raw)[1:-1])
            return self._vectors[number : number + 1]
        return decode_vector(
            raw, where=where, collection=self._collection.name, dimension=self._collection.params.dimension
        )

    def _query_target(self, body: QueryPoints, where: str) -> _Target | None:
        if isinstance(body.query, msgspec.UnsetType) or first_byte(body.query) == b"n":
            return None
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
        # Without its vector there is nothing to look for.
        found = self._collection.complete().retrieve([point])
        if not found:
            raise PointNotFound(collection=self._collection.name, point=point)
        return _Target(np.ascontiguousarray(found[0].vector.reshape(1, -1)), point)


def _unnamed(raw: msgspec.Raw, name: str, where: str) -> msgspec.Raw:
    """The vector of the older form of search, where a name comes beside it."""
    if first_byte(raw) != b"{":
        return unnamed(raw, name, where=f"{where}vector")
    named = decode(_named_vector, raw, where=f"{where}vector")
    if named.name != name:
        raise InvalidRequest(f"{where}vector.name: this collection has no vector {named.name!r}")
    return named.vector


_NO_PARAMS = SearchParams()


def _checked(params: SearchParams | None, where: str) -> SearchParams:
    if params is None:
        return _NO_PARAMS
    if params.indexed_only:
        raise InvalidRequest(f"{where}params.indexed_only is not supported: leave it out")
    return params
