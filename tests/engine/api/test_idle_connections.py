"""Connections that only take up a file descriptor are closed, and others stay."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from vectorizer_engine.api.connection import Connection

IDLE_SECONDS = 0.3
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@asynccontextmanager
async def connected(
    answer_after: float = 0.0,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that answers each request so many seconds after it came."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(answer_after)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    application.at_once = lambda *_: False  # type: ignore[attr-defined]
    config = uvicorn.Config(application, timeout_keep_alive=IDLE_SECONDS, lifespan="off", log_config=None)  # type: ignore[arg-type]
    config.load()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config=config, server_state=ServerState(), app_state={}), "127.0.0.1"
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()


@pytest.mark.parametrize("sent", [b"", REQUEST[:10]], ids=["nothing", "a part of a request"])
async def test_a_connection_that_never_sends_a_request_is_closed(sent: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(20):
            assert await reader.read() == b""


async def test_a_connection_whose_request_takes_long_is_not_idle() -> None:
    async with connected(answer_after=4 * IDLE_SECONDS) as (reader, writer):
        writer.write(REQUEST)
        async with asyncio.timeout(20):
            assert (await reader.readline()).startswith(b"HTTP/1.1 204")
            assert b"content" not in await reader.read(), "and is closed when it is idle afterwards"


def test_the_engine_may_open_as_many_files_as_the_system_allows() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import resource; from vectorizer_engine.api.server import allow_many_files; allow_many_files();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    limited = subprocess.run(
        ["sh", "-c", f'ulimit -S -n 100; exec "{sys.executable}" -c "{code}"'],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert limited.stdout == f"{hard}\n"


def test_a_limit_of_files_that_cannot_be_raised_is_named_and_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vectorizer_engine.api.server import allow_many_files

    def refuse(*_: Any) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_many_files()
    assert "the limit of open files stays" in caplog.text
