"""What can be asked of the shards of a collection: how it is split among them, done by one, and merged again.

An operation travels as msgpack to the member that has the shard, vectors as raw float32, payloads and filters as the
JSON that they are; so does its result. A member that has several of the shards answers for them together.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import msgspec
import numpy as np

from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.collection_reader import CollectionReader
from vectorizer_engine.collection.filters import EVERY_POINT, compile_filter
from vectorizer_engine.collection.payloads import decode_payload
from vectorizer_engine.collection.records import Record, Wanted
from vectorizer_engine.collection.types import CollectionStatus, LayoutInfo, Predicate
from vectorizer_engine.distributed.parked_collection import ParkedCollection
from vectorizer_engine.storage.keys import PointId, decode_id, encode_id
from vectorizer_engine.storage.payload_index import FieldType

INLINE_BYTES = 256 * 1024
"""So many bytes of payloads and vectors come along with the answers of all shards to one request, an equal part from
each. Others are fetched when they are sent to the client (`contents`): so no answer takes more memory than that."""


_condition = msgspec.json.Decoder()


def shard_of(key: bytes, shards: int) -> int:
    """Which of so many shards a point belongs to. Never changes: it is where the point is stored."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") % shards


class Point(msgspec.Struct, array_like=True):
    """A point as it was found. What was not asked for, or is fetched later, is None; `score` is 0 if none was given."""

    key: bytes
    version: int
    score: float
    payload: bytes | None
    vector: bytes | None


class Operation(msgspec.Struct, tag=True, tag_field="kind", kw_only=True):
    """By default it is the same for each shard.

    A read that is not `fresh` may be answered by a member that was replaced and does not know it, or that reads along.
    """

    writes: ClassVar[bool] = False
    result_decoder: ClassVar[msgspec.msgpack.Decoder[Any]]

    fresh: bool = True

    def split(self, shards: int) -> Mapping[int, Operation]:
        """What each of so many shards has to do. Shards that have nothing to do are left out."""
        return dict.fromkeys(range(shards), self)

    def run(self, collection: Collection) -> Any:
        """The `result` of one shard, which is the whole of *collection*."""
        raise NotImplementedError

    def merge(self, results: Sequence[Any]) -> Any:
        """The result of several shards, as if they were one."""
        raise NotImplementedError


class Read(Operation):
    """One that changes nothing."""

    def run(self, collection: CollectionReader) -> Any:
        raise NotImplementedError


class Search(Read):
    """`queries` is float32 [count, d]. The result has the nearest `limit` points of each, closest first.

    Here and below, `inline` is how many bytes of what is wanted may come along.
    """

    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(list[list[Point]])

    queries: bytes
    count: int
    limit: int
    larger_is_closer: bool
    filter: bytes | None
    score_threshold: float | None
    exact: bool
    ef: int | None
    wanted: Wanted
    inline: int

    def split(self, shards: int) -> dict[int, Operation]:
        return dict.fromkeys(range(shards), msgspec.structs.replace(self, inline=self.inline // shards))

    def run(self, collection: CollectionReader) -> list[list[Point]]:
        answers = collection.search(
            np.frombuffer(self.queries, np.float32).reshape(self.count, -1),
            limit=self.limit,
            predicate=_predicate(self.filter),
            score_threshold=self.score_threshold,
            exact=self.exact,
            ef=self.ef,
        )
        packer = _Packer(self.wanted, self.inline, dimension=collection.params.dimension)
        return [[packer.point(hit, hit.score) for hit in hits] for hits in answers]

    def merge(self, results: Sequence[list[list[Point]]]) -> list[list[Point]]:
        sign = -1.0 if self.larger_is_closer else 1.0
        return [
            heapq.nsmallest(
                self.limit, (hit for hits in answers for hit in hits), key=lambda hit: sign * hit.score
            )
            for answers in zip(*results, strict=True)
        ]


class Retrieve(Read):
    """The points of `keys` that exist, in no particular order."""

    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(list[Point])

    keys: list[bytes]
    wanted: Wanted
    inline: int

    def split(self, shards: int) -> dict[int, Operation]:
        by_shard = _by_shard(self.keys, shards)
        inline = self.inline // len(by_shard)
        return {
            shard: msgspec.structs.replace(self, keys=keys, inline=inline) for shard, keys in by_shard.items()
        }

    def run(self, collection: CollectionReader) -> list[Point]:
        packer = _Packer(self.wanted, self.inline, dimension=collection.params.dimension)
        return [packer.point(record) for record in collection.retrieve(map(decode_id, self.keys))]

    def merge(self, results: Sequence[list[Point]]) -> list[Point]:
        return [point for points in results for point in points]


class Page(msgspec.Struct, array_like=True):
    """Points in key order, and the key to go on with."""

    points: list[Point]
    following: bytes | None


class Scroll(Read):
    """Up to `limit` points in key order, from the first key that is not below `start`."""

    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(Page)

    start: bytes | None
    limit: int
    filter: bytes | None
    wanted: Wanted
    inline: int

    def split(self, shards: int) -> dict[int, Operation]:
        return dict.fromkeys(range(shards), msgspec.structs.replace(self, inline=self.inline // shards))

    def run(self, collection: CollectionReader) -> Page:
        records, following = collection.scroll(
            start=None if self.start is None else decode_id(self.start),
            limit=self.limit,
            predicate=_predicate(self.filter),
        )
        packer = _Packer(self.wanted, self.inline, dimension=collection.params.dimension)
        return Page([packer.point(record) for record in records], _key(following))

    def merge(self, results: Sequence[Page]) -> Page:
        points = list(heapq.merge(*(page.points for page in results), key=lambda point: point.key))
        behind = [page.following for page in results if page.following is not None]
        behind += [point.key for point in points[self.limit : self.limit + 1]]
        return Page(points[: self.limit], min(behind, default=None))


class Count(Read):
    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(int)

    filter: bytes | None

    def run(self, collection: CollectionReader) -> int:
        return collection.count(_predicate(self.filter))

    def merge(self, results: Sequence[int]) -> int:
        return sum(results)


class Upsert(Operation):
    """Points that were checked: `vectors` is float32 [len(keys), d] as it is stored, `payloads` JSON or empty.

    The result of this and of every other write is the operation's number.
    """

    writes: ClassVar[bool] = True
    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(int)

    keys: list[bytes]
    vectors: memoryview
    payloads: list[bytes]
    wait: bool

    def split(self, shards: int) -> dict[int, Operation]:
        if not self.keys:
            return {}
        rows = np.frombuffer(self.vectors, np.uint8).reshape(len(self.keys), -1)
        where: dict[int, list[int]] = {}
        for row, key in enumerate(self.keys):
            where.setdefault(shard_of(key, shards), []).append(row)
        return {
            shard: Upsert(
                [self.keys[row] for row in chosen],
                rows[chosen].reshape(-1).data,
                [self.payloads[row] for row in chosen],
                self.wait,
            )
            for shard, chosen in where.items()
        }

    def run(self, collection: Collection) -> int:
        vectors = np.frombuffer(self.vectors, np.float32).reshape(len(self.keys), -1)
        return collection.put(self.keys, vectors, self.payloads, wait=self.wait)

    def merge(self, results: Sequence[int]) -> int:
        return max(results)


class _Change(Operation):
    """A change of the points of `keys`, or else of those that `filter` selects."""

    writes: ClassVar[bool] = True
    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(int)

    keys: list[bytes] | None
    filter: bytes | None
    wait: bool

    def split(self, shards: int) -> Mapping[int, Operation]:
        if self.keys is None:
            return super().split(shards)
        return {
            shard: msgspec.structs.replace(self, keys=keys)
            for shard, keys in _by_shard(self.keys, shards).items()
        }

    def merge(self, results: Sequence[int]) -> int:
        return max(results)

    def _selected(self) -> dict[str, Any]:
        if self.keys is None:
            return {"predicate": _predicate(self.filter) or EVERY_POINT, "wait": self.wait}
        return {"ids": [decode_id(key) for key in self.keys], "wait": self.wait}


class Delete(_Change):
    def run(self, collection: Collection) -> int:
        return collection.delete(**self._selected())


class SetPayload(_Change):
    """`payload` is JSON."""

    payload: bytes

    def run(self, collection: Collection) -> int:
        return collection.set_payload(decode_payload(self.payload), **self._selected())


class OverwritePayload(_Change):
    payload: bytes

    def run(self, collection: Collection) -> int:
        return collection.overwrite_payload(decode_payload(self.payload), **self._selected())


class DeletePayload(_Change):
    paths: list[str]

    def run(self, collection: Collection) -> int:
        return collection.delete_payload(self.paths, **self._selected())


class ClearPayload(_Change):
    def run(self, collection: Collection) -> int:
        return collection.clear_payload(**self._selected())


class CreatePayloadIndex(Operation):
    """The result: the last operation's number, and whether all there is was indexed."""

    writes: ClassVar[bool] = True
    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(tuple[int, bool])

    path: str
    type: FieldType
    wait: bool

    def run(self, collection: Collection) -> tuple[int, bool]:
        built = collection.create_payload_index(self.path, self.type, wait=self.wait)
        return collection.last_operation, built

    def merge(self, results: Sequence[tuple[int, bool]]) -> tuple[int, bool]:
        return max(number for number, _ in results), all(built for _, built in results)


class DeletePayloadIndex(Operation):
    writes: ClassVar[bool] = True
    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(int)

    path: str

    def run(self, collection: Collection) -> int:
        collection.delete_payload_index(self.path)
        return collection.last_operation

    def merge(self, results: Sequence[int]) -> int:
        return max(results)


class Facts(msgspec.Struct):
    """What `CollectionInfo` and the payload indexes say of some shards."""

    status: CollectionStatus
    points: int
    indexed_vectors: int
    segments: int
    layouts: list[LayoutInfo]
    disk_bytes: int
    problems: list[str]
    fields: dict[str, tuple[FieldType, int]]
    last_operation: int


class Describe(Read):
    """Of a shard that is parked it is answered without opening it."""

    result_decoder: ClassVar[Any] = msgspec.msgpack.Decoder(Facts)

    def run(self, collection: CollectionReader | ParkedCollection) -> Facts:
        info = collection.info()
        return Facts(
            info.status,
            info.points,
            info.indexed_vectors,
            info.segments,
            list(info.layouts),
            info.disk_bytes,
            list(info.problems),
            {path: (field.type, field.points) for path, field in collection.payload_schema().items()},
            collection.last_operation,
        )

    def merge(self, results: Sequence[Facts]) -> Facts:
        statuses = {each.status for each in results}
        worst = (CollectionStatus.RED, CollectionStatus.YELLOW, CollectionStatus.GREEN)
        fields: dict[str, tuple[FieldType, int]] = {}
        for each in results:
            for path, (type, points) in each.fields.items():
                fields[path] = type, points + fields.get(path, (type, 0))[1]
        return Facts(
            next(status for status in worst if status in statuses),
            sum(each.points for each in results),
            sum(each.indexed_vectors for each in results),
            sum(each.segments for each in results),
            [layout for each in results for layout in each.layouts],
            sum(each.disk_bytes for each in results),
            [problem for each in results for problem in each.problems],
            fields,
            max(each.last_operation for each in results),
        )


AnyOperation = (
    Search
    | Retrieve
    | Scroll
    | Count
    | Upsert
    | Delete
    | SetPayload
    | OverwritePayload
    | DeletePayload
    | ClearPayload
    | CreatePayloadIndex
    | DeletePayloadIndex
    | Describe
)


class _Packer:
    """Takes along what is wanted of each point, as long as it is not too much."""

    def __init__(self, wanted: Wanted, most: int, *, dimension: int) -> None:
        self._wanted = wanted
        self._left = most
        self._vector_bytes = 4 * dimension

    def point(self, record: Record, score: float = 0.0) -> Point:
        payload, vector = self._wanted
        content = record.place
        size = (content.payload_size if payload else 0) + (self._vector_bytes if vector else 0)
        if size > self._left:
            payload = vector = False
        else:
            self._left -= size
        return Point(
            record.stamp.key,
            record.version,
            score,
            content.payload() if payload else None,
            content.vector.tobytes() if vector else None,
        )


def _predicate(filter_: bytes | None) -> Predicate | None:
    return None if filter_ is None else compile_filter(_condition.decode(filter_))


def _by_shard(keys: Sequence[bytes], shards: int) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for key in keys:
        found.setdefault(shard_of(key, shards), []).append(key)
    return found


def _key(point: PointId | None) -> bytes | None:
    return None if point is None else encode_id(point)
