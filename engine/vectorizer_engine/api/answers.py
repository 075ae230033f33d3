"""Answers on their way out: made piece by piece, so that a long one is never whole in memory.

A handler answers with a value, or with fragments of JSON, of which only as many are made as fit into a piece.
An answer of one piece is sent with its length. A longer one goes out in chunks, and the next piece is made when
the client has taken the last one. What a handler holds besides a piece and grows with the request, it asks for
with `Hold`, and it is charged to the memory of requests. Sending is `api.app`'s affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

PIECE_BYTES = 128 * 1024

STREAM_BYTES = 4 * PIECE_BYTES
"""What an answer in pieces is charged: the piece, its copies on the way to the socket, and the points in it."""

FREE_BYTES = 2 * PIECE_BYTES
"""Less than this is not asked for: only so many threads make answers at a time."""


def encode(value: object) -> bytes:
    """*value* as JSON. float32, in numpy arrays too, is written as shortly as it can be read back."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


class Hold(NamedTuple):
    """A fragment that is not sent: from here on up to `nbytes` are held, for what `advice` is about.

    It says what the client can do where there is not as much memory.
    """

    nbytes: int
    advice: str


Fragments = Iterator[bytes | Hold]


def listed(items: Iterable[Iterable[bytes | Hold]]) -> Fragments:
    """A JSON list of what each of *items* is the fragments of."""
    separator = b"["
    for item in items:
        yield separator
        yield from item
        separator = b","
    yield b"]" if separator == b"," else b"[]"


class Outgoing:
    """A result in Qdrant's envelope, in the making. `advance` makes the next piece; one thread at a time."""

    __slots__ = (
        "_began",
        "_fragments",
        "_held",
        "_missing_shards",
        "_pending",
        "advice",
        "finished",
        "granted",
        "needed",
    )

    def __init__(
        self,
        result: Any,
        *,
        began: float,
        missing_shards: Callable[[], Mapping[int, str] | None] = lambda: None,
    ) -> None:
        """*missing_shards*, asked when all else is made, are those that the answer goes without."""
        self._began = began
        self._missing_shards = missing_shards
        self._fragments: Fragments = result if isinstance(result, Iterator) else iter((encode(result),))
        self._pending = bytearray(b'{"result":')
        self._held: dict[str, int] = {}
        self.finished = False
        self.granted = FREE_BYTES
        """So much may be held."""
        self.needed = 0
        """So much is held, or has to be before more can be made."""
        self.advice = ""
        """What the client can do where that is too much."""

    def advance(self) -> None:
        """Make fragments until there is a piece, the end, or more is needed than granted.

        Raises what the handler does.
        """
        pending = self._pending
        while len(pending) < PIECE_BYTES and self.needed <= self.granted:
            fragment = next(self._fragments, None)
            if fragment is None:
                if (missing := self._missing_shards()) is not None:
                    pending += b',"missing_shards":' + encode(missing)
                pending += b',"status":"ok","time":%.9f}' % (time.perf_counter() - self._began)
                self.finished = True
                return
            if isinstance(fragment, Hold):
                self.advice = fragment.advice
                self._held[fragment.advice] = max(fragment.nbytes, self._held.get(fragment.advice, 0))
                self.needed = sum(self._held.values())
            else:
                pending += fragment

    def take(self) -> bytes:
        """What was made since the last time."""
        piece, self._pending = bytes(self._pending), bytearray()
        return piece
