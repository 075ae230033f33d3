"""A client's connection: uvicorn's, with an end to how many requests it holds that are not yet being answered,
and to how long it may stay without sending one.

A client may send requests without waiting for answers. They are answered one after the other, and uvicorn makes objects
of all that have arrived, and reads more with each answer: a flood of small writes took hundreds of megabytes. Here a
request is taken when those before it are answered (but for the few in one piece of 4 KiB), and meanwhile nothing is
read, so that what waits fills the client's socket and not the engine's heap.

uvicorn closes a connection that is idle after an answer. One that never sends a whole request, which takes a file
descriptor as well, is closed here after the same time without a byte.

A search that came in one piece is answered in the same turn of the event loop, where that can be done without waiting
(`app.Application.at_once`): starting a task for it, and the messages of ASGI, take longer than all the rest of it.

How much bodies may hold is not decided here: `bodies`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from vectorizer_engine.api.call import Plain

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
        self._application: Any = self.config.app
        self._unread = bytearray()
        self._parsing = False
        self._body_left = 0
        self._unstarted: tuple[RequestResponseCycle, Any] | None = None
        """A request of which what was read is not all parsed yet, and the application."""
        self._may_answer = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.flow: _Reading = _Reading(transport)
        self._close_unless_used()

    def data_received(self, data: bytes) -> None:
        self._may_answer = True
        # What is left of a body holds no other request.
        if len(data) <= max(PIECE_BYTES, self._body_left) and not self._unread and not self.pipeline:
            self._parse(data)
        else:
            self._unread += data
            self._take()
        self._start_unstarted()
        if self.cycle is None or self.cycle.response_complete:
            self._close_unless_used()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        length = next((value for name, value in self.headers if name == b"content-length"), b"0")
        self._body_left = int(length)

    def on_body(self, body: bytes) -> None:
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._unstarted is None:
            return
        cycle, app = self._unstarted
        if self._may_answer and not self.flow.write_paused and not cycle.waiting_for_100_continue:
            self._may_answer = False  # one of what was read, so that other connections get their turn
            if self._application.at_once(cycle.scope, cycle.body, partial(self._answer, cycle, app)):
                self._unstarted = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.flow.held and not self._parsing:
            self._take()
            self._start_unstarted()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._parsing and self._unstarted is None:
            self._unstarted = cycle, app  # its body may be in what was read
        else:
            super()._start_asgi_task(cycle, app)

    def _start_unstarted(self) -> None:
        """Have the request that was read last answered the usual way. What is left of its body comes later."""
        if self._unstarted is not None:
            cycle, app = self._unstarted
            self._unstarted = None
            super()._start_asgi_task(cycle, app)

    def _answer(self, cycle: RequestResponseCycle, app: Any, answer: Plain | None) -> None:
        """Send what was made at once, or have it made the usual way."""
        if self.transport.is_closing():
            return
        if answer is None:
            super()._start_asgi_task(cycle, app)
        else:
            self._send(cycle, answer)

    def _send(self, cycle: RequestResponseCycle, answer: Plain) -> None:
        """What `cycle.send` does with an answer that is whole."""
        headers = [
            *self.server_state.default_headers,
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(answer.body)),
            *answer.headers,
        ]
        if not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join((STATUS_LINE[answer.status], *lines, b"\r\n", answer.body)))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _close_unless_used(self) -> None:
        """Close it as if it were idle after an answer, unless something comes."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _take(self) -> None:
        """Give what was read to the parser, as long as no request waits for another's answer."""
        while self._unread and not self.pipeline and not self.transport.is_closing():
            size = max(PIECE_BYTES, self._body_left)
            piece = bytes(self._unread[:size])
            del self._unread[:size]
            self._parse(piece)
        self.flow.hold(bool(self._unread or self.pipeline))

    def _parse(self, data: bytes) -> None:
        self._parsing = True
        try:
            super().data_received(data)
        finally:
            self._parsing = False
