"""A collection: the schema that points are held against, and the operations on them.

Every method is synchronous and may be called from any thread. A write is in the log, fsynced, when it
returns; it is then also visible, unless `wait` is False.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.collection.cached_search import search_with_cache
from vectorizer_engine.collection.incoming import checked_points, checked_vectors, encode_payload
from vectorizer_engine.collection.payload_indexes import with_field, without_field
from vectorizer_engine.collection.payload_path import excluding, parse_path
from vectorizer_engine.collection.records import (
    EVERYTHING,
    Record,
    Scored,
    Wanted,
    decode_payload,
    records,
    scored,
)
from vectorizer_engine.collection.selection import Selector, indexed_points
from vectorizer_engine.collection.shard import Shard
from vectorizer_engine.collection.types import (
    CollectionInfo,
    CollectionParams,
    CollectionStatus,
    Distance,
    IndexedField,
    LayoutInfo,
    Payload,
    PointId,
    Predicate,
)
from vectorizer_engine.collection.view import Place, SearchMode
from vectorizer_engine.errors import PointNotFound, StoreClosed, WriteInDoubt
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.storage.keys import decode_id, encode_id
from vectorizer_engine.storage.payload_index import FieldType

_POINTS_AT_ONCE = 1000
"""A change of payloads, or what a filter selects, is written in steps of so many points."""

_BYTES_AT_ONCE = 4 * 1024**2
"""And of so many bytes, which are on the heap while payloads are changed, unless one point has more."""


class Collection:
    """Points of one dimension and distance. Made by `VectorStore`."""

    def __init__(
        self,
        name: str,
        params: CollectionParams,
        shard: Shard,
        *,
        tenant: str,
        results: AdvancedCache | None,
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.params = params
        self._shard = shard
        self._results = results

    def info(self) -> CollectionInfo:
        view = self._shard.view
        problems = tuple(
            f"segment {segment.id} with {segment.points} points was set aside: {segment.reason}"
            for segment in self._shard.quarantined
        )
        layouts = self.layouts()
        busy = CollectionStatus.YELLOW if self._shard.busy else CollectionStatus.GREEN
        return CollectionInfo(
            name=self.name,
            params=self.params,
            status=CollectionStatus.RED if problems else busy,
            points=view.points,
            indexed_vectors=sum(layout.points for layout in layouts if layout.layout != SegmentLayout.EXACT),
            segments=len(view.parts),
            layouts=layouts,
            disk_bytes=self._shard.disk_bytes,
            problems=problems,
        )

    def layouts(self) -> tuple[LayoutInfo, ...]:
        """How each sealed segment is searched at present. Looks at no file, unlike `info`."""
        return tuple(self._shard.layouts())

    @property
    def heap_vector_bytes(self) -> int:
        """What memory storage keeps on the heap, outside of the cache limit. 0 where vectors are mapped."""
        return sum(segment.heap_bytes for segment, _ in self._shard.view.segments())

    def upsert(
        self,
        ids: Sequence[PointId],
        vectors: Vectors,
        payloads: Sequence[Mapping[str, Any] | None],
        *,
        wait: bool = True,
    ) -> int:
        """Insert or replace points, all or none. Returns the operation's number.

        *vectors* is float32 [n, d] in C order. Of an id that comes twice the last one wins.
        Raises InvalidRequest, DimensionMismatch, InvalidVector, InvalidPoint, StorageFull, StorageFailure.
        """
        points = checked_points(self.name, self.params, ids, vectors, payloads)
        del vectors  # which the caller may not keep either
        return self.put(*points, wait=wait) if points.keys else self._shard.last_number

    def put(self, keys: Sequence[bytes], vectors: Vectors, payloads: Sequence[bytes], *, wait: bool) -> int:
        """`upsert` for points that were checked; see `IncomingPoints`."""
        return self._shard.upsert(keys, vectors, payloads, wait=wait)

    def delete(
        self, *, ids: Iterable[PointId] | None = None, predicate: Predicate | None = None, wait: bool = True
    ) -> int:
        """Delete points, chosen by exactly one of *ids* and *predicate*. Unknown ids are no error."""
        if predicate is None:
            keys = [encode_id(point) for point in ids or ()]
            return self._shard.delete(keys, None, wait=wait)
        selector = self._shard.selector(predicate)
        return self._step_by_step(
            _pieces((key, 0) for key, _ in self._shard.view.scan_keys(selector=selector)),
            lambda keys: self._shard.delete(keys, selector.accepts, wait=wait),
        )

    def set_payload(
        self,
        payload: Payload,
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        """Set these top-level keys and keep the others. Raises PointNotFound for an unknown id.

        A key that is set to None is removed, as in Qdrant; `upsert` and `overwrite_payload` store it.
        """
        removed = {key for key, value in payload.items() if value is None}

        def change(old: Payload) -> Payload:
            return {key: value for key, value in (old | payload).items() if key not in removed}

        return self._change_payload(change, ids, predicate, wait, added=len(encode_payload(payload)))

    def overwrite_payload(
        self,
        payload: Payload,
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        """Replace the whole payload. Raises PointNotFound for an unknown id."""
        return self._change_payload(
            lambda _: payload, ids, predicate, wait, added=len(encode_payload(payload))
        )

    def delete_payload(
        self,
        keys: Sequence[str],
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        """Remove what these paths select, such as a, a.b or list[].c.

        Raises InvalidRequest for what is no path, and PointNotFound for an unknown id.
        """
        return self._change_payload(excluding(keys), ids, predicate, wait)

    def clear_payload(
        self, *, ids: Iterable[PointId] | None = None, predicate: Predicate | None = None, wait: bool = True
    ) -> int:
        """Remove the whole payload. Raises PointNotFound for an unknown id."""
        return self._change_payload(lambda _: {}, ids, predicate, wait)

    def retrieve(self, ids: Iterable[PointId], *, wanted: Wanted = EVERYTHING) -> list[Record]:
        """The points of *ids* that exist, in the order asked for.

        *wanted* says what of them will be looked at. Here it is read only then, whatever it says.
        """
        keys = [encode_id(point) for point in ids]
        places = [place for place in self._shard.find(keys) if place is not None]
        return records(places)

    def scroll(
        self,
        *,
        start: PointId | None = None,
        limit: int,
        predicate: Predicate | None = None,
        wanted: Wanted = EVERYTHING,
    ) -> tuple[list[Record], PointId | None]:
        """Up to *limit* points in id order from *start* on, and the id to go on with (None at the end).

        For *wanted* see `retrieve`.
        """
        scan = self._shard.view.scan_keys(
            b"" if start is None else encode_id(start), selector=self._selector(predicate)
        )
        page = list(islice(scan, limit + 1))
        following = decode_id(page[limit][0]) if len(page) > limit else None
        return records([place for _, place in page[:limit]]), following

    def count(self, predicate: Predicate | None = None) -> int:
        """How many points there are, or how many of them *predicate* takes. Exact."""
        view = self._shard.view
        return view.points if predicate is None else view.count(self._shard.selector(predicate))

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
        """For each row of *queries* (float32 [q, d]) the nearest points, closest first.

        *offset* skips that many of the best. *score_threshold* leaves out what is worse, by the distance's own
        order. *exact* compares every vector; *ef* is how many candidates an HNSW index keeps while it looks.
        For *wanted* see `retrieve`.
        """
        rows = checked_vectors(self.name, self.params, queries)
        distance = self.params.distance
        how = SearchMode(distance, exact, ef)
        if predicate is None and self._results is not None:
            answers = search_with_cache(self._shard.view, rows, offset + limit, how, results=self._results)
        else:
            selector = self._selector(predicate)
            answers = self._shard.view.search(rows, offset + limit, how, selector=selector)
        return [
            scored(
                [
                    found
                    for found in answer[offset:]
                    if score_threshold is None or _reaches(found.score, score_threshold, distance)
                ]
            )
            for answer in answers
        ]

    def create_payload_index(self, path: str, type: FieldType, *, wait: bool = True) -> bool:
        """Have the values at *path* indexed from now on, in place of another index of that field.

        Durable when this returns. With *wait*, what there is already is indexed too, if the memory for it can be had;
        otherwise that is done in the background. Returns whether all of it is indexed. Raises InvalidRequest for what
        is no path, StorageFull, StorageFailure.
        """
        parse_path(path)
        self._shard.change_payload_schema(lambda schema: with_field(schema, path, type))
        return wait and self._shard.build_payload_indexes()

    def delete_payload_index(self, path: str) -> None:
        """Have the values at *path* not indexed any more. Raises InvalidRequest, StorageFull, StorageFailure."""
        parse_path(path)
        self._shard.change_payload_schema(lambda schema: without_field(schema, path))

    def payload_schema(self) -> dict[str, IndexedField]:
        """The indexed fields, and how many points have a value there that the index holds. Reads the heads."""
        view = self._shard.view
        return {
            path: IndexedField(type, sum(indexed_points(part, path, type) for part in view.parts))
            for path, type in self._shard.payload_schema.items()
        }

    @property
    def last_operation(self) -> int:
        """The number of the last write."""
        return self._shard.last_number

    def _change_payload(
        self,
        change: Callable[[Payload], Payload],
        ids: Iterable[PointId] | None,
        predicate: Predicate | None,
        wait: bool,
        *,
        added: int = 0,
    ) -> int:
        """*added* is by how many bytes *change* makes a payload longer at most."""
        selector = self._selector(predicate)
        found = (
            self._existing(ids or ()) if selector is None else self._shard.view.scan_keys(selector=selector)
        )
        added += 4 * self.params.dimension
        return self._step_by_step(
            _pieces((key, place.payload_size + added) for key, place in found),
            lambda keys: self._shard.change_payload(
                keys,
                lambda text: encode_payload(change(decode_payload(text))),
                None if selector is None else selector.accepts,
                wait=wait,
            ),
        )

    def _step_by_step(self, steps: Iterable[list[bytes]], write: Callable[[list[bytes]], int]) -> int:
        """The number of the last *write*. Raises WriteInDoubt where the shard is closed between two.

        What has been written must not be repeated unseen: somebody else may have written to the same points since.
        """
        number = self._shard.last_number
        begun = False
        for keys in steps:
            try:
                number = write(keys)
            except StoreClosed as error:
                if not begun:
                    raise
                raise WriteInDoubt(
                    f"collection '{self.name}' was closed here when a part of the points had been changed: send it "
                    "again"
                ) from error
            begun = True
        return number

    def _existing(self, ids: Iterable[PointId]) -> Iterator[tuple[bytes, Place]]:
        """The keys of *ids*, and where they are. Raises PointNotFound before the first of them."""
        points = list(dict.fromkeys(ids))
        keys = [encode_id(point) for point in points]
        found: list[tuple[bytes, Place]] = []
        for point, key, place in zip(points, keys, self._shard.find(keys), strict=True):
            if place is None:
                raise PointNotFound(collection=self.name, point=point)
            found.append((key, place))
        return iter(found)

    def _selector(self, predicate: Predicate | None) -> Selector | None:
        return None if predicate is None else self._shard.selector(predicate)


def _pieces(sized: Iterable[tuple[bytes, int]]) -> Iterator[list[bytes]]:
    """Keys, a bounded number at a time; with each come the bytes that it takes."""
    piece: list[bytes] = []
    nbytes = 0
    for key, size in sized:
        if len(piece) == _POINTS_AT_ONCE or (piece and nbytes + size > _BYTES_AT_ONCE):
            yield piece
            piece, nbytes = [], 0
        piece.append(key)
        nbytes += size
    if piece:
        yield piece


def _reaches(score: float, threshold: float, distance: Distance) -> bool:
    return score >= threshold if distance.larger_is_closer else score <= threshold
