"""A client's connection: uvicorn's, with an end to how many requests it holds that are not yet being answered,
and to how long it may stay without sending one.

A client may send requests without waiting for answers. They are answered one after the other, and uvicorn makes objects
of all that have arrived, and reads more with each answer: a flood of small writes took hundreds of megabytes. Here a
request is taken when those before it are answered (but for the few in one piece of 4 KiB), and meanwhile nothing is
read, so that what waits fills the client's socket and not the engine's heap.

uvicorn closes a connection that is idle after an answer. One that never sends a whole request, which takes a file
descriptor as well, is closed here after the same time without a byte.

How much bodies may hold is not decided here: `bodies`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PIECE_BYTES = 4096


class _Reading(FlowControl):
    """What pauses and resumes reading, for either of two reasons: requests that wait, and uvicorn's own, which pauses
    while a body that nobody takes is in its buffer.
    """

    held = False
    _paused = False

    def hold(self, held: bool) -> None:
        self.held = held
        self._pause_or_resume()

    def pause_reading(self) -> None:
        self._paused = True
        self._pause_or_resume()

    def resume_reading(self) -> None:
        self._paused = False
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        if self.held or self._paused:
            super().pause_reading()
        else:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unread = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.flow: _Reading = _Reading(transport)
        self._close_unless_used()

    def data_received(self, data: bytes) -> None:
        if len(data) <= PIECE_BYTES and not self._unread and not self.pipeline:
            super().data_received(data)
        else:
            self._unread += data
            self._take()
        if self.cycle is None or self.cycle.response_complete:
            self._close_unless_used()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.flow.held:
            self._take()

    def _close_unless_used(self) -> None:
        """Close it as if it were idle after an answer, unless something comes."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _take(self) -> None:
        """Give what was read to the parser, as long as no request waits for another's answer."""
        while self._unread and not self.pipeline and not self.transport.is_closing():
            piece = bytes(self._unread[:PIECE_BYTES])
            del self._unread[:PIECE_BYTES]
            super().data_received(piece)
        self.flow.hold(bool(self._unread or self.pipeline))
