"""Reading request bodies under two limits: bytes of one body, and bytes that all requests in flight hold.

A request waits for its share of the second limit before its body is read, so that the operating system's
buffers and the client's patience hold what the engine has no room for. What making the answer takes comes out of
the same share. What a write makes of its body is held under a limit of its own, for which it waits with its body: were
it the same, all might wait for each other. Decoding is not done here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vectorizer_engine.api.errors import RETRY_SOON, HttpError

Receive = Callable[[], Awaitable[Any]]

WAIT_SECONDS = 5.0
"""How long a request waits for its share; then it is answered 429."""

WRITE_COPIES = 4
"""How often the vectors of a write are held at a time: as numbers, scaled to length 1, in a record, in what is written
to the log or to the object store."""

READ_SECONDS = 60.0
"""How long a client may take to send a body, which holds its share all the while."""


class ClientDisconnected(Exception):
    """The client went away before its request was complete."""


class RequestMemory:
    """The byte budget of all requests in flight. Belongs to one event loop. First come, first served."""

    def __init__(self, limit: int, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self.limit = limit
        self.used = 0
        self._wait_seconds = wait_seconds
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, nbytes: int) -> bool:
        """Take *nbytes* if they are there and nobody waits for any."""
        if self._waiting or self.used + nbytes > self.limit:
            return False
        self.used += nbytes
        return True

    async def reserve(self, nbytes: int) -> None:
        """Take *nbytes*, waiting for them where needed. Raises HttpError 429 when the wait is over in vain."""
        if self.take(nbytes):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (nbytes, granted)
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await granted
        except BaseException as error:
            if not granted.cancelled():  # granted in the very moment in which the wait ended
                self.release(nbytes)
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
                self._grant()
            if not isinstance(error, TimeoutError):
                raise
            raise HttpError(
                429,
                f"no memory for {nbytes} bytes of this request: requests in flight hold {self.used} of "
                f"{self.limit} bytes (of server.request_memory_bytes): send fewer at a time or smaller ones",
                RETRY_SOON,
            ) from None

    def release(self, nbytes: int) -> None:
        self.used -= nbytes
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.used + self._waiting[0][0] <= self.limit:
            nbytes, granted = self._waiting.popleft()
            if not granted.cancelled():
                self.used += nbytes
                granted.set_result(None)


class WriteMemory:
    """The byte budget of what writes make of their bodies: vectors, and records of the log. Any thread may call."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._changed = threading.Condition()
        # Held by the one that is next, so that a large write is not passed by small ones for ever.
        self._turn = threading.Lock()

    @property
    def is_awaited(self) -> bool:
        """Whether a write waits for room."""
        return self._turn.locked()

    @contextmanager
    def room(self, nbytes: int) -> Iterator[None]:
        """Wait for room for *nbytes*, which is taken while inside. What is larger than all of it has it alone."""
        taken = min(nbytes, self.limit)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self.used + taken <= self.limit)
            self.used += taken
        try:
            yield
        finally:
            with self._changed:
                self.used -= taken
                self._changed.notify_all()


class RequestBudget:
    """What requests in flight may hold: three quarters are for bodies and answers, the rest for what writes make."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.writes = WriteMemory(limit // 4)
        self.bodies = RequestMemory(limit - self.writes.limit)

    @property
    def used(self) -> int:
        return self.bodies.used + self.writes.used


class Body:
    """One request's body and its share of the budget, as an asynchronous context manager."""

    def __init__(self, receive: Receive, *, length: int | None, largest: int, memory: RequestMemory) -> None:
        """*length* is the Content-Length, None where the body comes in chunks."""
        self._receive = receive
        self._length = length
        self._largest = largest
        self._memory = memory
        self._reserved = 0
        self._answer_bytes = 0
        self._user: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> bytes | bytearray:
        """The whole body. Raises HttpError 413, 408 or 429, and ClientDisconnected."""
        if self._length == 0:
            return b""
        try:
            if self._length is not None:
                await self._reserve(self._length)
            async with asyncio.timeout(READ_SECONDS):
                return await self._read()
        except TimeoutError:
            self._release()
            raise HttpError(408, f"the body did not arrive within {READ_SECONDS:.0f} seconds") from None
        except BaseException:
            self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        if self._user is None:
            self._release()
        else:
            self._user.add_done_callback(lambda _: self._release())

    def keep_until(self, user: asyncio.Future[Any]) -> None:
        """Hold the share until *user* is done, though the request is answered before."""
        self._user = user

    async def hold(self, nbytes: int, *, advice: str) -> None:
        """Hold *nbytes* besides the body, to make the answer. Raises HttpError 422 or 429."""
        more = nbytes - self._answer_bytes
        if self._reserved + more > self._memory.limit:
            raise HttpError(
                422,
                f"the request would take {self._reserved + more} bytes of memory, more than the "
                f"{self._memory.limit} that server.request_memory_bytes leaves for bodies and answers: {advice}",
            )
        if more > 0:
            await self._memory.reserve(more)
            self._reserved += more
            self._answer_bytes = nbytes

    async def _read(self) -> bytes | bytearray:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message["body"]
            await self._reserve(len(body))
            return body
        # Of its final size at once, where that is known: growing would copy, and leave holes on the heap.
        whole = bytearray(self._length or 0)
        filled = 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            piece = message["body"]
            await self._reserve(filled + len(piece))
            whole[filled : filled + len(piece)] = piece
            filled += len(piece)
            if not message.get("more_body"):
                return whole
            message = await self._receive()

    async def _reserve(self, nbytes: int) -> None:
        """Hold *nbytes* altogether."""
        if nbytes > self._largest:
            raise HttpError(
                413,
                f"the body is larger than {self._largest} bytes, the least of server.max_request_bytes and "
                "three quarters of server.request_memory_bytes: send smaller batches",
            )
        if nbytes > self._reserved:
            await self._memory.reserve(nbytes - self._reserved)
            self._reserved = nbytes

    def _release(self) -> None:
        if self._reserved:
            self._memory.release(self._reserved)
            self._reserved = 0
