"""Which rows of a segment or head a filter takes.

First the indexes of payload fields and the table of ids are asked (see `conditions`); only points that these leave
undecided are read. What was found for a segment is kept in the metadata cache, as a roaring bitmap: a segment never
changes, so it stays true, and the same filter costs microseconds the next time, indexed or not. It is about all rows,
whether they still count or not: that is for whoever has the view.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING

from pyroaring import BitMap

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.collection.conditions import Bounds, Rows, Steps, unknown
from vectorizer_engine.collection.field_values import holds, leaves_at
from vectorizer_engine.collection.filters import Filter
from vectorizer_engine.collection.payload_path import parse_path
from vectorizer_engine.collection.payloads import decode_payload
from vectorizer_engine.collection.types import Predicate
from vectorizer_engine.storage.keys import decode_id
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.payload_index import FieldIndex, FieldType, Flag
from vectorizer_engine.storage.segment import Segment, StoredPoint

if TYPE_CHECKING:
    from vectorizer_engine.collection.view import Part


class Selector:
    """A predicate, ready to be asked about a part of a view. For one request."""

    def __init__(self, predicate: Predicate, verdicts: AdvancedCache) -> None:
        """A `Filter` may ask indexes and is remembered in *verdicts*; of any other predicate nothing is known."""
        self._predicate = predicate
        self._verdicts = verdicts

    def accepts(self, point: StoredPoint) -> bool:
        """Whether the predicate takes this point."""
        payload = decode_payload(point.payload)
        return self._predicate(decode_id(point.key), payload)

    def choose(self, part: Part) -> LiveMask:
        """The live rows that are taken."""
        taken = self._remembered(part)
        return part.live.among(self._find(part) if taken is None else taken)

    def scan(self, part: Part, start: bytes) -> Iterator[tuple[int, bytes]]:
        """Offset and key of every live row that is taken, in key order, from the first key not below *start*.

        Looks no further than it is asked to go on.
        """
        taken = self._remembered(part)
        bounds = self._bounds(part) if taken is None else Bounds(taken, taken)
        maybe, sure = part.live.among(bounds.maybe), bounds.sure
        if sure == bounds.maybe:
            yield from part.source.scan_keys(maybe, start)
            return
        for offset, point in part.source.scan(maybe, start):
            if offset in sure or self.accepts(point):
                yield offset, point.key

    def _remembered(self, part: Part) -> BitMap | None:
        """What `_find` found the last time."""
        key = self._key(part)
        kept = None if key is None else self._verdicts.get(key)
        return None if kept is None else BitMap.deserialize(kept)

    def _find(self, part: Part) -> BitMap:
        """The rows that are taken; where that is remembered, of all rows, else of those that are live."""
        key = self._key(part)
        bounds = self._bounds(part)
        undecided = bounds.maybe - bounds.sure
        if key is None:
            undecided &= part.live.rows()
        taken = bounds.sure | self._read(part, undecided) if undecided else bounds.sure
        if key is not None:
            self._verdicts.put(key, taken.serialize())
        return taken

    def _bounds(self, part: Part) -> Bounds:
        rows = _PartRows(part)
        return (
            self._predicate.condition.bounds(rows) if isinstance(self._predicate, Filter) else unknown(rows)
        )

    def _key(self, part: Part) -> bytes | None:
        """What a verdict is kept by. A segment's folder is used for no other one, ever."""
        if not isinstance(part.source, Segment) or not isinstance(self._predicate, Filter):
            return None
        return blake2b(f"{part.source.folder}\0".encode() + self._predicate.key, digest_size=32).digest()

    def _read(self, part: Part, rows: BitMap) -> BitMap:
        """Those of *rows* whose points the predicate takes."""
        return BitMap(array("I", (row for row, point in _points(part, rows) if self.accepts(point))))


class _PartRows(Rows):
    """What is known of a part's rows without their payloads."""

    def __init__(self, part: Part) -> None:
        self._part = part

    @cached_property
    def all(self) -> BitMap:
        return BitMap(range(self._part.rows))

    def with_keys(self, keys: Sequence[bytes]) -> BitMap:
        source = self._part.source
        if isinstance(source, Segment):
            return BitMap(offset for offset in source.find(keys) if offset is not None)
        return BitMap(source.rows_of(frozenset(keys), self._part.rows))

    def field(self, steps: Steps) -> FieldIndex | None:
        source = self._part.source
        return source.fields.get(steps) if isinstance(source, Segment) else None


def indexed_points(part: Part, path: str, type: FieldType) -> int:
    """How many live points of *part* have a value at *path* that an index of *type* holds."""
    steps = parse_path(path)
    source = part.source
    if isinstance(source, Segment):
        index = source.fields.get(steps)
        return 0 if index is None else part.live.among(index.flagged(Flag.INDEXED)).count
    return sum(
        any(holds(type, leaf) for leaf in leaves_at(decode_payload(point.payload), steps))
        for _, point in _points(part, part.live.rows())
        if point.payload
    )


def _points(part: Part, rows: BitMap) -> Iterator[tuple[int, StoredPoint]]:
    if isinstance(part.source, Segment):
        yield from part.source.scan(LiveMask.of(rows, part.rows))
        return
    for row in rows:
        yield row, part.source.points((row,))[0]
