"""A collection whose shards are spread over the members of the cluster, with the methods of one that is not.

Points are checked here, once, and go to their shards as they are stored. Answers come with what was said to be
wanted; the rest of a point is fetched when it is looked at.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from vectorizer_engine.collection.filters import Filter
from vectorizer_engine.collection.incoming import checked_points
from vectorizer_engine.collection.payload_path import parse_path
from vectorizer_engine.collection.records import EVERYTHING, Record, Scored, Wanted
from vectorizer_engine.collection.types import (
    CollectionInfo,
    CollectionParams,
    IndexedField,
    Payload,
    PointId,
    Predicate,
)
from vectorizer_engine.distributed.contents import Contents
from vectorizer_engine.distributed.operations import (
    INLINE_BYTES,
    ClearPayload,
    Count,
    CreatePayloadIndex,
    Delete,
    DeletePayload,
    DeletePayloadIndex,
    Describe,
    Facts,
    Operation,
    OverwritePayload,
    Page,
    Point,
    Retrieve,
    Scroll,
    Search,
    SetPayload,
    Upsert,
)
from vectorizer_engine.distributed.partial import Partial
from vectorizer_engine.distributed.router import Router
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.keys import decode_id, encode_id
from vectorizer_engine.storage.payload_index import FieldType
from vectorizer_engine.storage.segment import Stamp


class SpreadCollection:
    """See `Collection`, whose methods these are. Any thread may call."""

    def __init__(
        self,
        name: str,
        params: CollectionParams,
        *,
        tenant: str,
        token: str,
        shards: int,
        copies: int,
        router: Router,
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.params = params
        self.token = token
        self.shards = shards
        self.copies = copies
        self._router = router
        self._fresh = True
        self._partial: Partial | None = None

    def maybe_stale(self) -> SpreadCollection:
        """The same collection, whose reads any copy of a shard may answer, as of a moment ago.

        They are answered also where the store cannot be asked who serves a shard now.
        """
        other = copy.copy(self)
        other._fresh = False
        return other

    def going_without(self, partial: Partial) -> SpreadCollection:
        """The same collection, whose reads leave out what does not answer in time, and note it in *partial*."""
        other = copy.copy(self)
        other._partial = partial
        return other

    def complete(self) -> SpreadCollection:
        """The same collection, whose reads leave out nothing."""
        other = copy.copy(self)
        other._partial = None
        return other

    def info(self) -> CollectionInfo:
        facts = self._facts()
        return CollectionInfo(
            name=self.name,
            params=self.params,
            status=facts.status,
            points=facts.points,
            indexed_vectors=facts.indexed_vectors,
            segments=facts.segments,
            layouts=tuple(facts.layouts),
            disk_bytes=facts.disk_bytes,
            problems=tuple(facts.problems),
            shards=self.shards,
            copies=self.copies,
        )

    def upsert(
        self,
        ids: Sequence[PointId],
        vectors: Vectors,
        payloads: Sequence[Mapping[str, Any] | None],
        *,
        wait: bool = True,
    ) -> int:
        """All or none of what belongs to a shard is written. Raises also ShardsUnavailable, WriteInDoubt."""
        points = checked_points(self.name, self.params, ids, vectors, payloads)
        del vectors  # which the caller may not keep either
        return self._number(
            Upsert(points.keys, points.vectors.reshape(-1).data.cast("B"), points.payloads, wait)
        )

    def delete(
        self, *, ids: Iterable[PointId] | None = None, predicate: Predicate | None = None, wait: bool = True
    ) -> int:
        keys = _keys([] if ids is None and predicate is None else ids)
        return self._number(Delete(keys, _filter(predicate), wait))

    def set_payload(
        self,
        payload: Payload,
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        return self._number(SetPayload(_keys(ids), _filter(predicate), wait, msgspec.json.encode(payload)))

    def overwrite_payload(
        self,
        payload: Payload,
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        return self._number(
            OverwritePayload(_keys(ids), _filter(predicate), wait, msgspec.json.encode(payload))
        )

    def delete_payload(
        self,
        keys: Sequence[str],
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        return self._number(DeletePayload(_keys(ids), _filter(predicate), wait, list(keys)))

    def clear_payload(
        self, *, ids: Iterable[PointId] | None = None, predicate: Predicate | None = None, wait: bool = True
    ) -> int:
        return self._number(ClearPayload(_keys(ids), _filter(predicate), wait))

    def retrieve(self, ids: Iterable[PointId], *, wanted: Wanted = EVERYTHING) -> list[Record]:
        keys = [encode_id(point) for point in ids]
        if not keys:
            return []
        found: list[Point] = self._ask(Retrieve(list(dict.fromkeys(keys)), wanted, INLINE_BYTES))
        by_key = {point.key: point for point in found}
        return self._records([by_key[key] for key in keys if key in by_key], wanted)

    def scroll(
        self,
        *,
        start: PointId | None = None,
        limit: int,
        predicate: Predicate | None = None,
        wanted: Wanted = EVERYTHING,
    ) -> tuple[list[Record], PointId | None]:
        first = None if start is None else encode_id(start)
        page: Page = self._ask(Scroll(first, limit, _filter(predicate), wanted, INLINE_BYTES))
        following = None if page.following is None else decode_id(page.following)
        return self._records(page.points, wanted), following

    def count(self, predicate: Predicate | None = None) -> int:
        count: int = self._ask(Count(_filter(predicate)))
        return count

    def search(
        self,
        queries: Vectors,
        *,
        limit: int,
        offset: int = 0,
        predicate: Predicate | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
        ef: int | None = None,
        wanted: Wanted = EVERYTHING,
    ) -> list[list[Scored]]:
        operation = Search(
            np.ascontiguousarray(queries, np.float32).tobytes(),
            len(queries),
            offset + limit,
            self.params.distance.larger_is_closer,
            _filter(predicate),
            score_threshold,
            exact,
            ef,
            wanted,
            INLINE_BYTES,
        )
        answers: list[list[Point]] = self._ask(operation)
        shown = [hits[offset:] for hits in answers]
        contents = self._contents([point for hits in shown for point in hits], wanted)
        positions = itertools.count()
        return [
            [
                Scored(contents[next(positions)], Stamp(point.key, point.version), point.score)
                for point in hits
            ]
            for hits in shown
        ]

    def create_payload_index(self, path: str, type: FieldType, *, wait: bool = True) -> bool:
        parse_path(path)
        _, built = self._ask(CreatePayloadIndex(path, type, wait))
        return bool(built)

    def delete_payload_index(self, path: str) -> None:
        parse_path(path)
        self._ask(DeletePayloadIndex(path))

    def payload_schema(self) -> dict[str, IndexedField]:
        return {path: IndexedField(*field) for path, field in self._facts().fields.items()}

    @property
    def last_operation(self) -> int:
        return self._facts().last_operation

    def _facts(self) -> Facts:
        facts: Facts = self._ask(Describe())
        return facts

    def _number(self, operation: Operation) -> int:
        operations = operation.split(self.shards)
        if not operations:  # it names no point
            return self.last_operation
        number: int = self._router.ask(self.token, self.name, operations)
        return number

    def _ask(self, operation: Operation) -> Any:
        operation.fresh = self._fresh
        copies = 1 if self._fresh else self.copies
        partial = None if operation.writes else self._partial
        return self._router.ask(
            self.token, self.name, operation.split(self.shards), copies=copies, partial=partial
        )

    def _records(self, points: Sequence[Point], wanted: Wanted) -> list[Record]:
        contents = self._contents(points, wanted)
        return [
            Record(contents[position], Stamp(point.key, point.version))
            for position, point in enumerate(points)
        ]

    def _contents(self, points: Sequence[Point], wanted: Wanted) -> Contents:
        return Contents(points, wanted, self.complete()._ask)


def _keys(ids: Iterable[PointId] | None) -> list[bytes] | None:
    return None if ids is None else [encode_id(point) for point in ids]


def _filter(predicate: Predicate | None) -> bytes | None:
    """The JSON of a filter: other predicates do not travel."""
    if predicate is None:
        return None
    assert isinstance(predicate, Filter), "the API makes no other"
    return predicate.key
