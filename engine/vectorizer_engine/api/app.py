"""The ASGI application: route, authorise, read the body, run the handler on its thread, answer.

Bare on purpose: measured on one core, a bare handler on uvicorn answers four times as many requests as the
usual framework. Starting and stopping is `api.server`'s affair.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from vectorizer_engine.api.answers import STREAM_BYTES, Fragments, Outgoing, encode
from vectorizer_engine.api.auth import Access, Authenticator, presented_key
from vectorizer_engine.api.bodies import Body, ClientDisconnected, Receive
from vectorizer_engine.api.call import Answer, Call, Engine, Plain
from vectorizer_engine.api.errors import HttpError, answer_error
from vectorizer_engine.api.pace import BRIEF_SECONDS, Effort, Pace
from vectorizer_engine.api.rounds import Asked, Rounds
from vectorizer_engine.api.router import Route, Router, Where
from vectorizer_engine.api.routes import ABSENT, ROUTES
from vectorizer_engine.api.workers import Workers
from vectorizer_engine.collection.records import Scored
from vectorizer_engine.cores import usable_cores
from vectorizer_engine.errors import (
    ClusterConfigViolation,
    CollectionGone,
    CollectionNotFound,
    EngineError,
    InvalidRequest,
    StorageFailure,
    StoreClosed,
)
from vectorizer_engine.metrics import WRITE_FAILURES

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]

_JSON = b"application/json"

WRITE_SECONDS = 60.0
"""How long a client may take to read a piece of a long answer, which holds memory all the while."""

_SMALLER = "ask for less at a time"

READERS = 2 * usable_cores()
"""Threads that read and search: twice as many as processors, so that one that waits for the disk leaves none idle."""

WAITERS = 64
"""Threads in a cluster that wait for its other members. A request holds one until it is answered."""

WRITERS = 16
"""Writers mostly wait for the disk; the more wait together, the more share one fsync."""

_VALUES = {
    "ordering": ("weak", "medium", "strong"),
    "consistency": ("majority", "quorum", "all"),
    "wait": ("true", "false"),
    "partial": ("true", "false"),
}


class Application:
    """Serves the routes on behalf of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._router = Router(ROUTES, absent=ABSENT)
        self._authenticator = Authenticator(engine.config)
        self._largest = min(engine.config.server.max_request_bytes, engine.request_memory.bodies.limit)
        self._pace = Pace()
        self._rounds = Rounds(self._pace)
        self._searches = 0
        self._pools = {
            Where.READERS: Workers(READERS, name="reader"),
            Where.WRITERS: Workers(WRITERS, name="writer"),
        }
        self._in_cluster = engine.config.cluster.pod_name is not None
        if self._in_cluster:
            self._pools[Where.WAITERS] = Workers(WAITERS, name="waiter")
            self._pools[Where.WAITING_WRITERS] = Workers(WRITERS, name="waiting-writer")

    def close(self) -> None:
        """Start nothing more. Does not wait for what runs."""
        for pool in self._pools.values():
            pool.close()

    def at_once(
        self, scope: dict[str, Any], body: bytes | bytearray, give: Callable[[Plain | None], None]
    ) -> bool:
        """Whether the answer to a request that is here as a whole will be given without waiting for anything.

        *give* gets it in this turn of the loop. These are searches that will likely be brief (`api.pace`). All others
        take the usual way, and so do those about which something is wrong, and those whose answer turns out to be long:
        it is then None, and made again.
        """
        began = time.perf_counter()
        if scope["query_string"] or self._in_cluster or self._engine.stopping:
            return False
        memory = self._engine.request_memory.bodies
        size = len(body)
        try:
            route, path = self._router.match(scope["method"], scope["raw_path"])
            if route.plan is None or _body_length(scope["headers"]) != size or size > self._largest:
                return False
            tenant = self._authenticator.check(presented_key(scope["headers"]), route.access)
            collection = tenant, path["collection"]
            if not self._pace.is_brief(collection, body, alone=False) or not memory.take(size):
                return False
        except EngineError:
            return False

        try:
            search = route.plan(Call(self._engine, tenant, path, {}, body))
        except Exception:  # noqa: BLE001 - it comes again the usual way, which says what is wrong
            memory.release(size)
            return False

        def finish(hits: Sequence[Scored] | None) -> None:
            memory.release(size)
            give(None if hits is None else self._short(route, search.answer(hits), collection, began))

        if self._rounds.add(Asked(search, collection, finish)):
            return True
        memory.release(size)
        return False

    def _short(
        self, route: Route, fragments: Fragments, collection: tuple[str, str], began: float
    ) -> Plain | None:
        """The answer of these *fragments*. None where something is wrong with it, or it is long."""
        outgoing = Outgoing(fragments, began=began)
        try:
            outgoing.advance()
        except Exception:  # noqa: BLE001 - as above
            return None
        if not outgoing.finished:
            self._pace.note(collection, BRIEF_SECONDS)
            return None
        self._observe(route, 200, time.perf_counter() - began)
        return Plain(outgoing.take(), _JSON)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        route: Route | None = None
        try:
            route, path = self._router.match(scope["method"], scope["raw_path"])
            answer = await self._answer(route, path, scope, receive, send, began)
        except ClientDisconnected:
            return
        except Exception as error:  # noqa: BLE001 - every error becomes an answer, and bugs are logged
            answer = self._failure(error, began)
        status = 200
        if answer is not None:
            await self._send(answer, send)
            status = answer.status
        self._observe(route, status, time.perf_counter() - began)

    async def _answer(
        self,
        route: Route,
        path: dict[str, str],
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        began: float,
    ) -> Plain | None:
        """The answer, unless it was so long that it has been sent in pieces."""
        headers = scope["headers"]
        tenant = self._authenticator.check(presented_key(headers), route.access)
        query = _query(scope["query_string"], route) if scope["query_string"] else {}
        of_member = route.access is Access.MEMBER
        memory = (self._engine.member_memory if of_member else self._engine.request_memory).bodies
        share = Body(
            receive,
            length=0 if route.where is Where.LOOP else _body_length(headers),
            largest=memory.limit if of_member else self._largest,
            memory=memory,
        )
        async with share as body:
            call = Call(self._engine, tenant, path, query, body)
            answer = await self._run(route, call, share, began)
            while isinstance(answer, Outgoing) and answer.needed > answer.granted:
                await share.hold(answer.needed, advice=answer.advice)
                answer.granted = answer.needed
                answer = await self._run_in_thread(
                    self._for_clients(Where.READERS), call, share, self._advance, answer, call, began
                )
            if isinstance(answer, Outgoing):
                await self._send_in_pieces(answer, share, receive, send)
                return None
            return answer

    async def _run(self, route: Route, call: Call, share: Body, began: float) -> Plain | Outgoing:
        if route.where is Where.LOOP:
            return self._perform(route, call, began)
        where = route.where if route.access is Access.MEMBER else self._for_clients(route.where)
        if where is not Where.SEARCHERS:
            return await self._run_in_thread(where, call, share, self._perform, route, call, began)
        collection = call.tenant, call.path["collection"]
        self._searches += 1
        try:
            await asyncio.sleep(0)  # so that searches that came at the same moment are counted
            if self._pace.is_brief(collection, call.body, alone=self._searches == 1):
                return self._search(route, call, collection, began)
            return await self._run_in_thread(
                Where.READERS, call, share, self._search, route, call, collection, began
            )
        finally:
            self._searches -= 1

    def _search(
        self, route: Route, call: Call, collection: tuple[str, str], began: float
    ) -> Plain | Outgoing:
        """`_perform`, and note how long it takes."""
        effort = Effort()
        answer = self._perform(route, call, began)
        self._pace.note(collection, effort.seconds())
        return answer

    def _for_clients(self, where: Where) -> Where:
        """Which threads do for a client what these do where there is no cluster."""
        if not self._in_cluster:
            return where
        return Where.WAITING_WRITERS if where is Where.WRITERS else Where.WAITERS

    async def _run_in_thread(
        self, where: Where, call: Call, share: Body, work: Callable[..., Plain | Outgoing], *arguments: Any
    ) -> Plain | Outgoing:
        running = self._pools[where].run(work, *arguments)
        if "timeout" not in call.query:
            return await running
        done, _ = await asyncio.wait((running,), timeout=int(call.query["timeout"]))
        if done:
            return running.result()
        share.keep_until(running)
        raise HttpError(
            408, f"not done within timeout={call.query['timeout']} seconds; a write may still happen"
        )

    def _perform(self, route: Route, call: Call, began: float) -> Plain | Outgoing:
        """Run the handler and make the first piece of its answer, all on the current thread."""
        try:
            result = _handled(route, call)
            if isinstance(result, Plain):
                return result
            outgoing = Outgoing(result, began=began, missing_shards=lambda: call.missing_shards)
        except Exception as error:  # noqa: BLE001 - see _failure_of
            return self._failure_of(error, call, began)
        return self._advance(outgoing, call, began)

    def _advance(self, outgoing: Outgoing, call: Call, began: float) -> Plain | Outgoing:
        """Go on making an answer of which nothing was sent: it is whole afterwards, or too long, or in need."""
        try:
            outgoing.advance()
        except Exception as error:  # noqa: BLE001 - see _failure_of
            return self._failure_of(error, call, began)
        return Plain(outgoing.take(), _JSON) if outgoing.finished else outgoing

    def _failure_of(self, error: Exception, call: Call, began: float) -> Plain:
        """Errors become answers on the handler's thread.

        One that crossed to the loop would keep the frames that it passed, and the request's body with them,
        until the next garbage collection.
        """
        lost = isinstance(error, StorageFailure | StoreClosed) and call.lost_its_collection
        if lost or (isinstance(error, CollectionGone) and "collection" in call.path):
            error = CollectionNotFound(call.path["collection"])
        return self._failure(error, began)

    def _failure(self, error: Exception, began: float) -> Plain:
        if isinstance(error, ClusterConfigViolation):
            for violation in error.violations:
                self._engine.metrics.violations.labels(violation.error_type).inc()
        failure = answer_error(error, seconds=time.perf_counter() - began)
        return Plain(encode(failure.body), _JSON, failure.status, failure.headers)

    async def _send(self, answer: Plain, send: Send) -> None:
        length = (b"content-length", b"%d" % len(answer.body))
        await self._send_start(send, answer.status, answer.content_type, length, *answer.headers)
        await send({"type": "http.response.body", "body": answer.body})

    async def _send_start(
        self, send: Send, status: int, content_type: bytes, *headers: tuple[bytes, bytes]
    ) -> None:
        all_headers = [(b"content-type", content_type), *headers]
        if self._engine.stopping:
            all_headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": all_headers})

    async def _send_in_pieces(self, outgoing: Outgoing, share: Body, receive: Receive, send: Send) -> None:
        """Send an answer that is longer than a piece. Where that fails, the client sees the connection break off."""
        await share.hold(outgoing.needed + STREAM_BYTES, advice=_SMALLER)
        disconnected = asyncio.ensure_future(receive())
        try:
            await self._send_start(send, 200, _JSON)
            while True:
                message = {"type": "http.response.body", "body": outgoing.take()}
                async with asyncio.timeout(WRITE_SECONDS):
                    await send(message | {"more_body": not outgoing.finished})
                if outgoing.finished:
                    return
                if disconnected.done():
                    raise ClientDisconnected
                if outgoing.needed > outgoing.granted:
                    await share.hold(outgoing.needed + STREAM_BYTES, advice=outgoing.advice)
                    outgoing.granted = outgoing.needed
                await self._pools[self._for_clients(Where.READERS)].run(outgoing.advance)
        except ClientDisconnected:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must not take the answer for whole
            logger.error("an answer was broken off: %s", str(error) or type(error).__name__)
            raise ClientDisconnected from None
        finally:
            disconnected.cancel()

    def _observe(self, route: Route | None, status: int, seconds: float) -> None:
        method, pattern = (route.method, route.pattern) if route else ("other", "other")
        metrics = self._engine.metrics
        metrics.observe_request(method, pattern, status, seconds)
        if route is not None and route.access is Access.WRITE and status in WRITE_FAILURES:
            metrics.write_failures.labels(status).inc()


def _handled(route: Route, call: Call) -> Answer:
    """What the handler answers. It is asked again where its collection was deleted, and perhaps made anew."""
    try:
        return route.handler(call)
    except CollectionGone:
        if route.access is Access.MEMBER:
            raise
        call.look_again()
        return route.handler(call)


def _query(raw: bytes, route: Route) -> dict[str, str]:
    """The query's parameters. Raises InvalidRequest for one that does nothing here, or a value it cannot have."""
    query = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))
    for name, value in query.items():
        if name not in route.parameters:
            known = ", ".join(sorted(route.parameters)) or "none"
            raise InvalidRequest(f"query parameter {name}: not supported here, supported: {known}")
        number = value.isascii() and value.isdigit() and 0 < len(value) < 10 and int(value) > 0
        if name in _VALUES and value not in _VALUES[name] and not (name == "consistency" and number):
            raise InvalidRequest(
                f"query parameter {name}: expected {' or '.join(_VALUES[name])}, found {value!r}"
            )
        if name == "timeout" and not number:
            raise InvalidRequest(f"query parameter timeout: expected seconds from 1 on, found {value!r}")
    return query


def _body_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """0 where there is no body, None where its length is not known yet. Raises HttpError 415 for compression."""
    length: int | None = 0
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        if name == b"transfer-encoding":
            length = None
        if name == b"content-encoding" and value != b"identity":
            raise HttpError(415, "compressed bodies are not supported: send the JSON as it is")
    return length
