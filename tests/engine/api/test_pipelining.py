"""Clients that send requests without waiting for answers get them in order, and make the engine hold few at a time."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor, wait

import httpx

from tests.engine.fixtures import EngineProcess

ANSWER = re.compile(rb"HTTP/1.1 (\d+) (?:[^\r]*\r\n)+?content-length: (\d+)(?:\r\n[^\r]+)*\r\n\r\n")


def request(method: str, path: str, body: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def exchange(engine: EngineProcess, sent: bytes, answers: int) -> list[tuple[int, bytes]]:
    """Send everything at once; status and body of so many answers."""
    with socket.create_connection(("127.0.0.1", engine.port), timeout=60) as connection:
        connection.sendall(sent)
        received, found = b"", list[tuple[int, bytes]]()
        while len(found) < answers:
            received += connection.recv(1 << 20)
            while (head := ANSWER.match(received)) and len(received) >= head.end() + int(head[2]):
                end = head.end() + int(head[2])
                found.append((int(head[1]), received[head.end() : end]))
                received = received[end:]
    return found


def test_a_thousand_requests_at_once_are_answered_in_their_order(engine: EngineProcess) -> None:
    paths = [f"/collections/none-{number}" for number in range(1000)]
    answers = exchange(engine, b"".join(request("GET", path) for path in paths), 1000)
    for path, (status, body) in zip(paths, answers, strict=True):
        assert status == 404
        assert f"'{path.removeprefix('/collections/')}'".encode() in body


def test_large_and_small_bodies_in_one_stream_arrive_whole(engine: EngineProcess, http: httpx.Client) -> None:
    http.put("/collections/mixed", json={"vectors": {"size": 2, "distance": "Dot"}}).raise_for_status()
    sizes = [0, 10, 5_000, 1_000_000, 1, 4_096, 300_000]
    points = [
        {"id": number, "vector": [1, 2], "payload": {"text": "x" * size}} for number, size in enumerate(sizes)
    ]
    stream = b"".join(
        request("PUT", "/collections/mixed/points", json.dumps({"points": [point]})) for point in points
    )
    assert [status for status, _ in exchange(engine, stream, len(sizes))] == [200] * len(sizes)
    stored = http.post("/collections/mixed/points/scroll", json={}).json()["result"]["points"]
    assert [len(point["payload"]["text"]) for point in stored] == sizes


def test_what_waits_to_be_answered_is_not_in_memory(engine: EngineProcess) -> None:
    stream = request("GET", "/livez") * 5_000
    peaks = [engine.anonymous_bytes]
    with ThreadPoolExecutor(4) as clients:
        exchanges = [clients.submit(exchange, engine, stream, 5_000) for _ in range(4)]
        while not all(each.done() for each in exchanges):
            peaks.append(engine.anonymous_bytes)
            wait(exchanges, timeout=0.01)
    assert all({status for status, _ in each.result()} == {200} for each in exchanges)
    assert max(peaks) - peaks[0] < 10_000_000
