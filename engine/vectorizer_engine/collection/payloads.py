"""Payloads as they are stored: JSON, and nothing at all where there is nothing in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from vectorizer_engine.collection.types import Payload
from vectorizer_engine.errors import InvalidPoint

_DEPTH = 128
"""So many objects and lists inside each other, as in Qdrant. What is stored can then always be read again:
decoders give up at a depth that depends on who calls them."""

_payload = msgspec.json.Decoder(Payload)


def encode_payload(payload: Mapping[str, Any] | None) -> bytes:
    """A payload as it is stored. Raises InvalidPoint."""
    if not payload:
        return b""
    try:
        text = msgspec.json.encode(payload)
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise InvalidPoint(f"a payload cannot be stored as JSON: {error}") from error
    if text.count(b"{") + text.count(b"[") > _DEPTH and _is_deep(payload):
        raise InvalidPoint(f"a payload is nested too deeply: expected at most {_DEPTH} levels")
    return text


def decode_payload(text: bytes) -> Payload:
    """A payload as it is stored, as a dictionary."""
    return _payload.decode(text) if text else {}


def _is_deep(payload: Mapping[str, Any]) -> bool:
    level: list[Any] = [payload]
    for _ in range(_DEPTH):
        inner = (each.values() if isinstance(each, Mapping) else each for each in level)
        level = [value for values in inner for value in values if isinstance(value, Mapping | list)]
    return bool(level)
