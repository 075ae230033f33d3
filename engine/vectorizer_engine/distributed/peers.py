"""Requests from one member of the cluster to another: kept-open connections, deadlines, and what an error means.

The one question that matters to a writer is whether a request can have been carried out. `NotSent` says that it was
not, and that it may be sent somewhere else. `NotAnswered` says that nobody knows.
"""

from __future__ import annotations

import http.client
import logging
import math
import select
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from vectorizer_engine.distributed.topology import Member

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
"""How long a member of the same cluster may take to accept a connection."""

IDLE_SECONDS = 30.0
"""After so long a connection is not used again: well before the other side closes it."""

GLANCE_SECONDS = 0.05
"""How often whoever waits for an answer looks whether to go on waiting."""

MOST_IDLE = 16
"""So many connections are kept open to each member."""


class NotSent(Exception):
    """The member cannot be reached: it has not seen the request."""


class NotAnswered(Exception):
    """The member took the request, and no answer came."""


class Answer(NamedTuple):
    status: int
    body: bytes


class Peers:
    """Connections to other members. Any thread may call."""

    def __init__(self, key: str) -> None:
        """*key* is the cluster's own, which every request carries."""
        self._headers = {"api-key": key, "content-type": "application/msgpack"}
        self._lock = threading.Lock()
        self._idle: defaultdict[str, list[tuple[float, http.client.HTTPConnection]]] = defaultdict(list)

    def send(self, member: Member, method: str, path: str, body: bytes, *, seconds: float) -> Asked:
        """Send a request, and return before it is answered. Raises NotSent, NotAnswered.

        *seconds* is how long the answer may take.
        """
        connection = self._connection(member.address)
        connection.sock.settimeout(seconds)
        try:
            connection.request(method, path, body, self._headers)
        except OSError as error:
            connection.close()
            raise NotAnswered(f"{member.name} at {member.address}: {error}") from error
        return Asked(self, member, connection, deadline=time.monotonic() + seconds)

    def ask(self, member: Member, method: str, path: str, body: bytes = b"", *, seconds: float) -> Answer:
        """`send`, and the answer."""
        return self.send(member, method, path, body, seconds=seconds).answer()

    def ask_each(
        self, members: Sequence[Member], method: str, path: str, body: bytes = b"", *, seconds: float
    ) -> list[Answer | None]:
        """Ask *members* the same, all at once. None is in the place of an answer that did not come."""

        def attempt(step: Callable[[], _T]) -> _T | None:
            try:
                return step()
            except (NotSent, NotAnswered) as error:
                logger.info("no answer to %s %s: %s", method, path, error)
                return None

        asked = [attempt(partial(self.send, each, method, path, body, seconds=seconds)) for each in members]
        return [None if each is None else attempt(each.answer) for each in asked]

    def close(self) -> None:
        with self._lock:
            for idle in self._idle.values():
                for _, connection in idle:
                    connection.close()
            self._idle.clear()

    def _connection(self, address: str) -> http.client.HTTPConnection:
        """One that is open, as far as can be known."""
        while True:
            with self._lock:
                idle = self._idle[address]
                since, connection = idle.pop() if idle else (0.0, None)
            if connection is None:
                break
            if time.monotonic() - since < IDLE_SECONDS and not _has_news(connection):
                return connection
            connection.close()
        connection = http.client.HTTPConnection(address, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise NotSent(f"{address}: {error}") from error
        return connection

    def keep(self, address: str, connection: http.client.HTTPConnection) -> None:
        """Use *connection*, whose answer was read, for another request."""
        with self._lock:
            idle = self._idle[address]
            if len(idle) < MOST_IDLE:
                idle.append((time.monotonic(), connection))
                return
        connection.close()


class Asked:
    """A request under way."""

    def __init__(
        self, peers: Peers, member: Member, connection: http.client.HTTPConnection, *, deadline: float
    ) -> None:
        self._peers = peers
        self._member = member
        self._connection = connection
        self._deadline = deadline

    def answer(self, *, within: Callable[[], float] = lambda: math.inf) -> Answer:
        """The answer. Raises NotAnswered.

        *within* is asked again and again how many seconds from now on it is still waited for.
        """
        while not _has_news(self._connection, GLANCE_SECONDS):
            if min(within(), self._deadline - time.monotonic()) <= 0:
                self._connection.close()
                raise NotAnswered(f"{self._member.name} at {self._member.address} did not answer in time")
        try:
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = str(error) or type(error).__name__
            raise NotAnswered(f"{self._member.name} at {self._member.address}: {reason}") from error
        if response.will_close:
            self._connection.close()
        else:
            self._peers.keep(self._member.address, self._connection)
        return Answer(response.status, body)


def _has_news(connection: http.client.HTTPConnection, seconds: float = 0.0) -> bool:
    """Whether something comes on a connection. On an idle one that can only be its end."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(1000 * seconds))
