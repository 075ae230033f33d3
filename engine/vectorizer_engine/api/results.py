"""Points on their way to the client: payload and vector as it asked for them, in Qdrant's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from vectorizer_engine.api.requests import WithPayload
from vectorizer_engine.collection.payload_path import Projection, excluding, including
from vectorizer_engine.collection.types import Record, Scored
from vectorizer_engine.errors import InvalidRequest


class Selection:
    """What of each point the client wants to see."""

    __slots__ = ("_project", "payload", "vector")

    def __init__(self, with_payload: WithPayload, with_vector: bool | list[str] | None) -> None:
        """Raises InvalidRequest for named vectors and for what is no payload path."""
        if isinstance(with_vector, list):
            raise InvalidRequest("with_vector: named vectors are not supported: send true or false")
        self.vector = bool(with_vector)
        self.payload = with_payload is not None and with_payload is not False
        self._project = _projection(with_payload)

    def record(self, point: Record) -> dict[str, Any]:
        result: dict[str, Any] = {"id": point.id}
        self._add_parts(result, point)
        return result

    def scored(self, point: Scored) -> dict[str, Any]:
        result: dict[str, Any] = {"id": point.id, "version": point.version, "score": point.score}
        self._add_parts(result, point)
        return result

    def _add_parts(self, result: dict[str, Any], point: Record) -> None:
        if self.payload:
            payload = point.payload or {}
            result["payload"] = payload if self._project is None else self._project(payload)
        if self.vector:
            result["vector"] = point.vector


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


def _numbers(value: object) -> object:
    """Vectors become numbers one at a time while they are encoded, never all at once."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"an answer holds a {type(value).__name__}")


encode_result = msgspec.json.Encoder(enc_hook=_numbers).encode
