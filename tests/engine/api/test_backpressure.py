"""A body that nobody takes yet fills the client's socket, not the engine's heap."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from vectorizer_engine.api.connection import Connection

BODY_BYTES = 32 * 1024**2


async def test_a_body_that_waits_for_memory_is_not_read_and_then_arrives_whole() -> None:
    taken = asyncio.Event()
    connections: list[Connection] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await taken.wait()
        received, more = 0, True
        while more:
            message = await receive()
            received += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d bytes" % received})

    config = uvicorn.Config(application, lifespan="off", log_config=None)
    config.load()

    def connection() -> Connection:
        connections.append(Connection(config=config, server_state=ServerState(), app_state={}))
        return connections[-1]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1")
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(
            b"PUT / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % BODY_BYTES
        )
        writer.write(bytes(BODY_BYTES))
        async with asyncio.timeout(20):
            while not (connections and connections[0].flow.read_paused):
                await asyncio.sleep(0.001)
        assert len(connections[0].cycle.body) < 2**20
        taken.set()
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"%d bytes\r\n0\r\n\r\n" % BODY_BYTES)
        writer.close()
