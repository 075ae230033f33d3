"""A collection: the schema that points are held against, and the operations on them.

Every method is synchronous and may be called from any thread. A write is in the log, fsynced, when it
returns; it is then also visible, unless `wait` is False.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vectorizer_engine.collection.collection_reader import CollectionReader
from vectorizer_engine.collection.incoming import checked_points
from vectorizer_engine.collection.payload_indexes import with_field, without_field
from vectorizer_engine.collection.payload_path import excluding, parse_path
from vectorizer_engine.collection.payloads import decode_payload, encode_payload
from vectorizer_engine.collection.shard import Shard
from vectorizer_engine.collection.types import Payload, PointId, Predicate
from vectorizer_engine.collection.view import Place
from vectorizer_engine.errors import PointNotFound, StoreClosed, WriteInDoubt
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.keys import encode_id
from vectorizer_engine.storage.payload_index import FieldType

_POINTS_AT_ONCE = 1000
"""A change of payloads, or what a filter selects, is written in steps of so many points."""

_BYTES_AT_ONCE = 4 * 1024**2
"""And of so many bytes, which are on the heap while payloads are changed, unless one point has more."""


class Collection(CollectionReader):
    """Points of one dimension and distance. Made by `VectorStore`."""

    _shard: Shard

    def complete(self) -> Collection:
        """The same collection, whose reads leave out nothing. Those of one shard never do."""
        return self

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
