"""A flood of small writes that nobody waits for: memory stays bounded, and kill -9 loses none that was acknowledged.

Every client sends its next write before the last one is answered, so as many wait as the sockets and the engine take.
VECTORIZER_BACKLOG sets how many there are (`make crash` sends a million).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from pathlib import Path

from tests.engine.fixtures import EngineProcess

WRITES = int(os.environ.get("VECTORIZER_BACKLOG", "4000"))
CLIENTS = 8
MIB = 1024**2
LIMIT = 64 * MIB
REQUEST_MEMORY = 16 * MIB
COLLECTION = "/collections/backlog"


def upsert(point: int) -> bytes:
    """A request that is answered when the log has it."""
    body = json.dumps({"points": [{"id": point, "vector": [point, 1, 2, 3]}]})
    head = f"PUT {COLLECTION}/points?wait=false HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


async def flood(port: int, points: range) -> int:
    """Send all without waiting for answers. Returns how many were acknowledged; the others got 429."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sending = asyncio.create_task(send(writer, points))
    acknowledged = 0
    for _ in points:
        status = int((await reader.readline()).split()[1])
        headers = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", headers)
        assert length is not None
        body = await reader.readexactly(int(length[1]))
        assert status in (200, 429), body
        acknowledged += status == 200
    await sending
    writer.close()
    return acknowledged


async def send(writer: asyncio.StreamWriter, points: range) -> None:
    for point in points:
        writer.write(upsert(point))
        await writer.drain()


async def flood_by_all(engine: EngineProcess) -> tuple[int, int]:
    """How many writes were acknowledged, and the most anonymous memory that the engine had."""
    each = WRITES // CLIENTS
    floods = [flood(engine.port, range(client * each, (client + 1) * each)) for client in range(CLIENTS)]
    flooding = asyncio.gather(*floods)
    peak = 0
    while not flooding.done():
        peak = max(peak, engine.anonymous_bytes)
        await asyncio.wait([flooding], timeout=0.02)
    return sum(flooding.result()), peak


def test_a_flood_of_small_writes_is_held_back_and_survives_kill_9(tmp_path: Path) -> None:
    limits = {
        "cluster": {"max_cache_memory_bytes": LIMIT},
        "server": {"request_memory_bytes": REQUEST_MEMORY},
    }
    engine = EngineProcess(tmp_path, limits)
    try:
        with engine.start().http() as http:
            http.put(COLLECTION, json={"vectors": {"size": 4, "distance": "Dot"}}).raise_for_status()
        idle = engine.anonymous_bytes
        began = time.monotonic()
        acknowledged, peak = asyncio.run(flood_by_all(engine))
        seconds = time.monotonic() - began
        engine.kill()
        began = time.monotonic()
        with engine.start().http() as http:
            started = time.monotonic() - began
            count = http.post(f"{COLLECTION}/points/count", json={}).json()["result"]["count"]
    finally:
        engine.close()
    print(  # noqa: T201 - the figures of the run
        f"{acknowledged} of {WRITES} writes acknowledged in {seconds:.0f} s, memory {idle / MIB:.0f} MiB before and at "
        f"most {peak / MIB:.0f} while; ready {started:.1f} s after kill -9"
    )
    assert acknowledged > 0
    assert count == acknowledged
    assert peak <= (idle + LIMIT + REQUEST_MEMORY) * 1.05
