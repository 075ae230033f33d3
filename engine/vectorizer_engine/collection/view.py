"""What a shard consists of at one moment, and every read that is answered from it.

A `View` never changes. Writers and the background work publish a new one, so a reader that took one sees each
point exactly once, whatever is overwritten, sealed or merged meanwhile, and takes no lock.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from vectorizer_engine.collection.batch import spread
from vectorizer_engine.collection.selection import Selector
from vectorizer_engine.index.base import Distance, Hits, Offsets, Vectors
from vectorizer_engine.index.flat import FlatIndex
from vectorizer_engine.storage.head import Head
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.segment import Segment, StoredPoint

Source = Head | Segment

T = TypeVar("T")

Chosen = npt.NDArray[np.bool_]
"""Which rows of a ranking."""

Accepts = Callable[[StoredPoint], bool]


class SearchMode(NamedTuple):
    """How to compare, and with how much care: *exact* compares with everything, *ef* is for the indexes."""

    distance: Distance
    exact: bool = False
    ef: int | None = None


@dataclass(frozen=True)
class Part:
    """A head or a segment, how many of its rows were published, and which of them still count."""

    source: Source
    rows: int
    live: LiveMask

    @cached_property
    def vectors(self) -> Vectors:
        return self.source.vectors[: self.rows]

    def search(self, queries: Vectors, limit: int, allowed: LiveMask, how: SearchMode) -> list[Hits]:
        """The nearest rows among *allowed*, which are some of the live ones."""
        limit = min(limit, allowed.count)
        mask = None if allowed.count == self.rows else allowed.bits
        index = self.source.index if isinstance(self.source, Segment) and not how.exact else None
        if index is not None:
            return index.search(queries, limit, mask=mask, ef=how.ef)
        return FlatIndex(self.vectors, how.distance).search(queries, limit, mask=mask)


class Place(NamedTuple):
    """Where a point is."""

    part: Part
    offset: int

    @property
    def point(self) -> StoredPoint:
        return self.part.source.points((self.offset,))[0]

    @property
    def payload_size(self) -> int:
        """How long the payload is. It is not read."""
        return self.part.source.payload_size(self.offset)

    def payload(self, start: int = 0, end: int | None = None) -> bytes:
        """The payload as JSON, empty where there is none; or its bytes from *start* to *end*."""
        return self.part.source.payload(self.offset, start, end)

    @property
    def vector(self) -> Vectors:
        copy: Vectors = self.part.vectors[self.offset].copy()
        return copy


class Ranking(NamedTuple):
    """The nearest rows of one query, closest first.

    Row i is at *offsets*[i] (int64 [n]) of *parts*[*numbers*[i]] (int64 [n]; None: all are of the first), and
    *scores*[i] (float32 [n]) is its score in Qdrant's sense.
    """

    parts: tuple[Part, ...]
    numbers: Offsets | None
    offsets: Offsets
    scores: Vectors

    @property
    def only_source(self) -> Source | None:
        """Where all of its rows are, if that is one head or segment."""
        return self.parts[0].source if self.numbers is None and self.parts else None

    def chosen(self, rows: slice | Chosen) -> Ranking:
        """Some of its *rows*."""
        numbers = None if self.numbers is None else self.numbers[rows]
        return Ranking(self.parts, numbers, self.offsets[rows], self.scores[rows])

    def places(self) -> list[Place]:
        """Where its rows are."""
        if self.numbers is None:
            return [Place(self.parts[0], offset) for offset in self.offsets.tolist()]
        pairs = zip(self.numbers.tolist(), self.offsets.tolist(), strict=True)
        return [Place(self.parts[number], offset) for number, offset in pairs]


@dataclass(frozen=True)
class View:
    """The parts of a shard. A key lives in one of them at most. The last is the head, if there is one.

    No two views of a process have the same `serial`.
    """

    parts: tuple[Part, ...] = ()
    serial: int = field(default_factory=itertools.count().__next__, init=False)

    @property
    def points(self) -> int:
        return sum(part.live.count for part in self.parts)

    def segments(self) -> Iterator[tuple[Segment, Part]]:
        for part in self.parts:
            if isinstance(part.source, Segment):
                yield part.source, part

    def find(self, keys: Iterable[bytes]) -> list[Place | None]:
        """The place of each key.

        A head knows only where a key is now. So the caller holds the lock under which views are published.
        """
        keys = list(keys)
        places: list[Place | None] = [None] * len(keys)
        missing = list(range(len(keys)))
        for part in reversed(self.parts):
            found = part.source.find(keys[index] for index in missing)
            still: list[int] = []
            for index, offset in zip(missing, found, strict=True):
                if offset is not None and offset in part.live:
                    places[index] = Place(part, offset)
                else:
                    still.append(index)
            missing = still
            if not missing:
                break
        return places

    def scan(self, start: bytes = b"") -> Iterator[tuple[StoredPoint, Place]]:
        """Every point in key order, from the first key that is not below *start*."""
        return heapq.merge(*(_scan_part(part, start) for part in self.parts), key=lambda item: item[0].key)

    def scan_keys(
        self, start: bytes = b"", *, selector: Selector | None = None
    ) -> Iterator[tuple[bytes, Place]]:
        """`scan` for those who need no payloads: key and place, of what *selector* takes where there is one."""
        return heapq.merge(*(_scan_keys(part, start, selector) for part in self.parts), key=itemgetter(0))

    def count(self, selector: Selector) -> int:
        return sum(selector.choose(part).count for part in self.parts)

    def search(
        self,
        queries: Vectors,
        limit: int,
        how: SearchMode,
        *,
        selector: Selector | None,
        finish: Callable[[list[Ranking]], list[T]],
    ) -> list[T]:
        """For each row of *queries* (float32 [q, d], C order) what *finish* makes of up to *limit* nearest points.

        A batch is spread over the cores, *finish* with it, which gets some rows at a time.
        """
        asked = [
            (part, allowed)
            for part in self.parts
            if (allowed := part.live if selector is None else selector.choose(part)).count
        ]
        parts = tuple(part for part, _ in asked)

        def answer(rows: Vectors) -> list[T]:
            hits = [part.search(rows, limit, allowed, how) for part, allowed in asked]
            if len(hits) == 1:
                return finish([Ranking(parts, None, *each) for each in hits[0]])
            return finish(
                [
                    _nearest(parts, [found[row] for found in hits], limit, how.distance)
                    for row in range(len(rows))
                ]
            )

        return spread(answer, queries)


def _nearest(parts: tuple[Part, ...], answers: list[Hits], limit: int, distance: Distance) -> Ranking:
    """The nearest of what each part found, closest first."""
    if not answers:
        return Ranking(parts, None, np.empty(0, np.int64), np.empty(0, np.float32))
    scores = np.concatenate([hits.scores for hits in answers])
    offsets = np.concatenate([hits.offsets for hits in answers])
    numbers = np.repeat(np.arange(len(answers)), [len(hits.offsets) for hits in answers])
    order = np.argsort(-scores if distance.larger_is_closer else scores, kind="stable")[:limit]
    return Ranking(parts, numbers[order], offsets[order], scores[order])


class CurrentView:
    """The view that a reader gets now.

    It is replaced by the leader of the group commit, or by whoever has paused it, and by nobody else.
    """

    def __init__(self) -> None:
        self.view = View()
        self.lock = threading.Lock()
        """Held while a view is published together with the keys of its head, and while keys are looked for."""
        self._last_write = float("-inf")

    def find(self, keys: Iterable[bytes]) -> list[Place | None]:
        """The place of each key, None for those that are not there."""
        with self.lock:
            return self.view.find(keys)

    def publish(self, view: View) -> None:
        with self.lock:
            self.view = view

    def note_write(self) -> None:
        """What was published is a write, not the same points in another place."""
        self._last_write = time.monotonic()

    def seconds_since_write(self) -> float:
        """Infinite where nothing was written since the shard was opened."""
        return time.monotonic() - self._last_write


def _scan_part(part: Part, start: bytes) -> Iterator[tuple[StoredPoint, Place]]:
    for offset, point in part.source.scan(part.live, start):
        yield point, Place(part, offset)


def _scan_keys(part: Part, start: bytes, selector: Selector | None) -> Iterator[tuple[bytes, Place]]:
    chosen = part.source.scan_keys(part.live, start) if selector is None else selector.scan(part, start)
    for offset, key in chosen:
        yield key, Place(part, offset)
