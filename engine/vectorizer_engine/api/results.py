"""Points on their way to the client: payload and vector as it asked for them, in Qdrant's shapes.

A payload goes out as it is stored, as JSON; it is decoded only where the client asked for a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from vectorizer_engine.api.answers import PIECE_BYTES, Fragments, Hold, encode, listed
from vectorizer_engine.api.requests import WithPayload
from vectorizer_engine.collection.payload_path import Projection, excluding, including
from vectorizer_engine.collection.payloads import decode_payload
from vectorizer_engine.collection.records import Answer, Content, Record, Scored, Wanted
from vectorizer_engine.errors import InvalidRequest

_DECODED = 16
"""A payload takes up to so many times its size while a part of it is chosen: small numbers in lists do."""


class Selection:
    """What of each point the client wants to see."""

    __slots__ = ("_payload", "_project", "_vector", "_vector_parts")

    def __init__(
        self, with_payload: WithPayload, with_vector: bool | list[str] | None, *, vector_name: str
    ) -> None:
        """*vector_name* is the collection's. Raises InvalidRequest for others and for what is no payload path."""
        for name in with_vector if isinstance(with_vector, list) else ():
            if name != vector_name:
                raise InvalidRequest(
                    f"with_vector: this collection has no vector {name!r}: send true or false"
                )
        self._vector = bool(with_vector)
        self._vector_parts = (b"{%b:" % encode(vector_name), b"}}") if vector_name else (b"", b"}")
        self._payload = with_payload is not None and with_payload is not False
        self._project = _projection(with_payload)

    @property
    def wanted(self) -> Wanted:
        """What of each point is looked at."""
        return Wanted(self._payload, self._vector)

    def record(self, point: Record) -> Fragments:
        return self._point({"id": point.id}, point)

    def hits(self, points: Sequence[Scored]) -> Fragments:
        """A list of them. Without payloads and vectors it is small, and is made at once."""
        if isinstance(points, Answer) and points.text is not None:
            return iter((points.text,))
        if not self._payload and not self._vector:
            return iter((encode([_hit(point) for point in points]),))
        return listed(self._point(_hit(point), point) for point in points)

    def _point(self, fields: dict[str, Any], point: Record) -> Fragments:
        yield encode(fields)[:-1]
        if self._payload:
            yield b',"payload":'
            yield from _whole(point.place) if self._project is None else _part(point.place, self._project)
        if not self._vector:
            yield b"}"
            return
        before, after = self._vector_parts
        yield b',"vector":' + before
        yield encode(point.vector)
        yield after


def made_already(answers: Sequence[Sequence[Scored]]) -> list[bytes] | None:
    """The JSON of each of *answers*, if it was made with all of them."""
    texts = [answer.text for answer in answers if isinstance(answer, Answer) and answer.text is not None]
    return texts if len(texts) == len(answers) else None


def _hit(point: Scored) -> dict[str, Any]:
    # A score is a float32, and is printed as one: 0.1 and not 0.10000000149011612.
    return {"id": point.id, "version": point.version, "score": np.float32(point.score)}


def _whole(place: Content) -> Fragments:
    size = place.payload_size
    if not size:
        yield b"{}"
    for start in range(0, size, PIECE_BYTES):
        yield place.payload(start, start + PIECE_BYTES)


def _part(place: Content, project: Projection) -> Fragments:
    yield Hold(_DECODED * place.payload_size, "ask for the whole payload, which is not decoded")
    # Not `encode`, which refuses integers beyond 64 bits: they are stored as they came.
    yield msgspec.json.encode(project(decode_payload(place.payload())))


def _projection(with_payload: WithPayload) -> Projection | None:
    if isinstance(with_payload, list):
        return including(with_payload)
    if not isinstance(with_payload, dict):
        return None
    makers: dict[str, Callable[[list[str]], Projection]] = {"include": including, "exclude": excluding}
    if len(with_payload) != 1 or not with_payload.keys() <= makers.keys():
        raise InvalidRequest(
            f"with_payload: expected true, false, a list of paths, include or exclude, "
            f"found an object with {', '.join(map(repr, with_payload)) or 'nothing'}"
        )
    [(name, paths)] = with_payload.items()
    return makers[name](paths)
