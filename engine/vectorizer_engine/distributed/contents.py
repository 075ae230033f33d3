"""Payloads and vectors of points that other members have, as an answer gives them out.

Some came along with the points. The others are fetched when they are looked at, several at a time. Points are looked at
in the order in which they are sent, so of those that were passed nothing is kept: together that is `INLINE_BYTES` at
most, or one point that is larger.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np

from vectorizer_engine.collection.records import Wanted
from vectorizer_engine.distributed.operations import INLINE_BYTES, Point, Retrieve
from vectorizer_engine.errors import StorageFailure
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.keys import decode_id

AHEAD = 256
"""So many points are asked for at a time, of which as many come as there is room for."""


class Contents:
    """Of the points of one answer. One thread at a time."""

    def __init__(
        self, points: Sequence[Point], wanted: Wanted, retrieve: Callable[[Retrieve], list[Point]]
    ) -> None:
        """*points* in the order in which they are looked at, and what of each; *retrieve* asks for more of them."""
        self._points = points
        self._wanted = wanted
        self._retrieve = retrieve

    def __getitem__(self, position: int) -> Content:
        return Content(self, position)

    def at(self, position: int) -> Point:
        """The point with all that is wanted of it. Raises StorageFailure if it has been deleted."""
        point = self._points[position]
        if self._lacks(point):
            self._fetch(position)
        return point

    def _fetch(self, position: int) -> None:
        for passed in self._points[:position]:
            passed.payload = passed.vector = None
        following = self._points[position:]
        held = sum(len(point.payload or b"") + len(point.vector or b"") for point in following)
        lacking = [point for point in following if self._lacks(point)]
        self._fill(lacking[:AHEAD], max(0, INLINE_BYTES - held))
        if self._lacks(lacking[0]):
            for point in following:  # what takes so much room is alone
                point.payload = point.vector = None
            self._fill(lacking[:1], sys.maxsize)
        if self._lacks(lacking[0]):
            raise StorageFailure(
                f"point {decode_id(lacking[0].key)} was deleted while it was read: ask again"
            )

    def _fill(self, points: Sequence[Point], inline: int) -> None:
        keys = list(dict.fromkeys(point.key for point in points))
        found = {point.key: point for point in self._retrieve(Retrieve(keys, self._wanted, inline))}
        for point in points:
            if (come := found.get(point.key)) is not None:
                point.payload, point.vector = come.payload, come.vector

    def _lacks(self, point: Point) -> bool:
        payload, vector = self._wanted
        return (payload and point.payload is None) or (vector and point.vector is None)


class Content:
    """Payload and vector of one of them: see `records.Content`."""

    __slots__ = ("_contents", "_position")

    def __init__(self, contents: Contents, position: int) -> None:
        self._contents = contents
        self._position = position

    @property
    def payload_size(self) -> int:
        return len(self.payload())

    def payload(self, start: int = 0, end: int | None = None) -> bytes:
        text = self._contents.at(self._position).payload
        assert text is not None, "it was said to be wanted"
        return text[start:end]

    @property
    def vector(self) -> Vectors:
        vector = self._contents.at(self._position).vector
        assert vector is not None, "it was said to be wanted"
        return np.frombuffer(vector, np.float32)
