"""The ASGI application: route, authorise, read the body, run the handler on its thread, answer.

Bare on purpose: measured on one core, a bare handler on uvicorn answers four times as many requests as the
usual framework. Starting and stopping is `api.server`'s affair.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl

from vectorizer_engine.api.auth import Authenticator, presented_key
from vectorizer_engine.api.bodies import Body, ClientDisconnected, Receive
from vectorizer_engine.api.call import Call, Engine, Plain
from vectorizer_engine.api.errors import HttpError, answer_error, encode
from vectorizer_engine.api.pace import Pace
from vectorizer_engine.api.results import encode_result
from vectorizer_engine.api.router import Route, Router, Where
from vectorizer_engine.api.routes import ROUTES
from vectorizer_engine.errors import (
    ClusterConfigViolation,
    CollectionNotFound,
    InvalidRequest,
    StorageFailure,
    StoreClosed,
)

Send = Callable[[dict[str, Any]], Awaitable[None]]

_JSON = b"application/json"

WRITERS = 16
"""Writers mostly wait for the disk; the more wait together, the more share one fsync."""

_VALUES = {
    "ordering": ("weak", "medium", "strong"),
    "consistency": ("majority", "quorum", "all"),
    "wait": ("true", "false"),
}


class Application:
    """Serves the routes on behalf of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._router = Router(ROUTES)
        self._authenticator = Authenticator(engine.config)
        server = engine.config.server
        self._largest = min(server.max_request_bytes, server.request_memory_bytes)
        self._pace = Pace()
        self._searches = 0
        self._pools = {
            Where.READERS: ThreadPoolExecutor(2 * _cores(), thread_name_prefix="reader"),
            Where.WRITERS: ThreadPoolExecutor(WRITERS, thread_name_prefix="writer"),
        }

    def close(self) -> None:
        """Start nothing more. Does not wait for what runs."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        route: Route | None = None
        try:
            route, path = self._router.match(scope["method"], scope["raw_path"])
            answer = await self._answer(route, path, scope, receive, began)
        except ClientDisconnected:
            return
        except Exception as error:  # noqa: BLE001 - every error becomes an answer, and bugs are logged
            answer = self._failure(error, began)
        await self._send(answer, send)
        self._observe(route, answer.status, time.perf_counter() - began)

    async def _answer(
        self, route: Route, path: dict[str, str], scope: dict[str, Any], receive: Receive, began: float
    ) -> Plain:
        headers = scope["headers"]
        tenant = self._authenticator.check(presented_key(headers), route.access)
        query = _query(scope["query_string"], route) if scope["query_string"] else {}
        if route.where is Where.LOOP:
            return self._perform(route, Call(self._engine, tenant, path, query, b""), began)
        length = _body_length(headers)
        if length == 0:
            return await self._run(route, Call(self._engine, tenant, path, query, b""), began)
        async with Body(
            receive, length=length, largest=self._largest, memory=self._engine.request_memory
        ) as body:
            return await self._run(route, Call(self._engine, tenant, path, query, body), began)

    async def _run(self, route: Route, call: Call, began: float) -> Plain:
        if route.where is not Where.SEARCHERS:
            return await self._run_in_thread(self._pools[route.where], route, call, began)
        collection = call.tenant, call.path["collection"]
        self._searches += 1
        try:
            await asyncio.sleep(0)  # so that searches that came at the same moment are counted
            started = time.perf_counter()
            if self._searches == 1 and self._pace.is_brief(collection, call.body):
                answer = self._perform(route, call, began)
            else:
                answer = await self._run_in_thread(self._pools[Where.READERS], route, call, began)
            self._pace.note(collection, time.perf_counter() - started)
            return answer
        finally:
            self._searches -= 1

    async def _run_in_thread(self, pool: ThreadPoolExecutor, route: Route, call: Call, began: float) -> Plain:
        running = asyncio.get_running_loop().run_in_executor(pool, self._perform, route, call, began)
        if "timeout" not in call.query:
            return await running
        try:
            return await asyncio.wait_for(running, int(call.query["timeout"]))
        except TimeoutError:
            raise HttpError(
                408,
                f"not done within timeout={call.query['timeout']} seconds; a write may still happen",
            ) from None

    def _perform(self, route: Route, call: Call, began: float) -> Plain:
        """Run the handler and encode its result, all on the current thread.

        Errors become answers here: one that crossed to the loop would keep the frames that it passed, and the
        request's body with them, until the next garbage collection.
        """
        try:
            result = route.handler(call)
            if isinstance(result, Plain):
                return result
            encoded = encode_result(result)
        except (StorageFailure, StoreClosed) as error:
            deleted = CollectionNotFound(call.path["collection"]) if call.lost_its_collection else None
            return self._failure(deleted or error, began)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failure(error, began)
        seconds = time.perf_counter() - began
        return Plain(b'{"result":%b,"status":"ok","time":%.9f}' % (encoded, seconds), _JSON)

    def _failure(self, error: Exception, began: float) -> Plain:
        if isinstance(error, ClusterConfigViolation):
            for violation in error.violations:
                self._engine.metrics.violations.labels(violation.error_type).inc()
        failure = answer_error(error, seconds=time.perf_counter() - began)
        return Plain(encode(failure.body), _JSON, failure.status, failure.headers)

    async def _send(self, answer: Plain, send: Send) -> None:
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", str(len(answer.body)).encode()),
            *answer.headers,
        ]
        if self._engine.stopping:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _observe(self, route: Route | None, status: int, seconds: float) -> None:
        method, pattern = (route.method, route.pattern) if route else ("other", "other")
        metrics = self._engine.metrics
        metrics.requests.labels(method, pattern, status).inc()
        metrics.request_seconds.labels(method, pattern).observe(seconds)


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
            return int(value)
        if name == b"transfer-encoding":
            length = None
        if name == b"content-encoding" and value != b"identity":
            raise HttpError(415, "compressed bodies are not supported: send the JSON as it is")
    return length


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
