"""Answers of any length: whole, in bounded memory, and never cut without the client noticing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.engine.fixtures import EngineProcess, running_engine
from vectorizer_engine.api import app as app_module
from vectorizer_engine.api.answers import PIECE_BYTES, Hold, Outgoing, encode, listed
from vectorizer_engine.api.app import Application
from vectorizer_engine.api.auth import Access
from vectorizer_engine.api.bodies import RequestBudget
from vectorizer_engine.api.call import Call, Engine
from vectorizer_engine.api.router import Route, Where
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.config import Config
from vectorizer_engine.metrics import Metrics

MIB = 1024**2
BUDGET = 4 * MIB
"""Of bodies and answers, which leaves as much again as a third of it for what writes make."""

REQUEST_MEMORY = BUDGET * 4 // 3
POINTS = 3000
LONG = 2 * MIB


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with many small points in `many`, and a few with long payloads in `long`."""
    config = {
        "server": {"request_memory_bytes": REQUEST_MEMORY},
        "cluster": {"max_cache_memory_bytes": 16 * MIB},
    }
    with running_engine(tmp_path_factory.mktemp("engine"), config) as process, process.http() as http:
        for name in ("many", "long"):
            http.put(f"/collections/{name}", json={"vectors": {"size": 2, "distance": "Dot"}})
        points = [{"id": n, "vector": [n / 7, 1], "payload": {"n": n}} for n in range(POINTS)]
        http.put("/collections/many/points?wait=true", json={"points": points}).raise_for_status()
        for n in range(3):
            point = {"id": n, "vector": [1, 1], "payload": {"text": str(n) * LONG, "n": n}}
            http.put("/collections/long/points?wait=true", json={"points": [point]}).raise_for_status()
        yield process


def ask(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    answer = http.post(f"/collections/{path}", json=body)
    assert answer.is_success, answer.text
    return answer.json()["result"]


def test_a_long_answer_comes_in_pieces_and_is_whole(http: httpx.Client) -> None:
    body = {"limit": POINTS, "with_vector": True}
    answer = http.post("/collections/many/points/scroll", json=body)
    assert len(answer.content) > PIECE_BYTES
    assert "content-length" not in answer.headers
    result = answer.json()["result"]
    assert [point["id"] for point in result["points"]] == list(range(POINTS))
    assert result["next_page_offset"] is None
    first = ask(http, "many/points/scroll", body | {"limit": 1700, "offset": 5})
    assert (len(first["points"]), first["next_page_offset"]) == (1700, 1705)
    ids = [7, 7, *range(POINTS)]
    found = ask(http, "many/points", {"ids": ids, "with_vector": True})
    assert found == [result["points"][n] for n in ids]
    few = [n for n in range(POINTS) if n % 3 == 0]
    odd = {"must": [{"key": "n", "match": {"any": few}}]}
    filtered = ask(http, "many/points/scroll", {"limit": 600, "filter": odd})
    assert [point["id"] for point in filtered["points"]] == few[:600]
    assert filtered["next_page_offset"] == few[600]


def test_a_short_answer_comes_at_once_with_its_length(http: httpx.Client) -> None:
    answer = http.post("/collections/many/points/scroll", json={"limit": 3})
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_numbers_print_as_float32_in_their_shortest_form(http: httpx.Client) -> None:
    http.put("/collections/short", json={"vectors": {"size": 2, "distance": "Dot"}})
    http.put("/collections/short/points?wait=true", json={"points": [{"id": 1, "vector": [0.1, 1e-7]}]})
    answer = http.post("/collections/short/points/query", json={"query": [1, 0], "with_vector": True}).text
    assert '"score":0.1,"vector":[0.1,1e-7]' in answer


def test_a_payload_goes_out_as_it_came_in_whole_or_in_part(http: httpx.Client) -> None:
    [whole] = ask(http, "long/points", {"ids": [1]})
    assert whole == {"id": 1, "payload": {"text": "1" * LONG, "n": 1}}
    assert ask(http, "long/points", {"ids": [2], "with_payload": False}) == [{"id": 2}]
    assert ask(http, "many/points", {"ids": [2], "with_payload": ["n"]}) == [{"id": 2, "payload": {"n": 2}}]
    assert ask(http, "many/points", {"ids": [2], "with_payload": {"exclude": ["n"]}}) == [
        {"id": 2, "payload": {}}
    ]


@pytest.mark.parametrize(
    ("path", "body", "advice"),
    [
        ("many/points", {"ids": [1] * 200_000}, "ask for fewer ids at a time"),
        ("many/points/query/batch", {"searches": [{"query": 1}] * 4000}, "send fewer searches in a batch"),
        ("long/points", {"ids": [1], "with_payload": ["n"]}, "ask for the whole payload"),
    ],
)
def test_what_would_take_more_memory_than_there_is_is_refused_with_what_to_do(
    http: httpx.Client, path: str, body: dict[str, Any], advice: str
) -> None:
    answer = http.post(f"/collections/{path}", json=body)
    assert answer.status_code == 422
    message = answer.json()["status"]["error"]
    assert (
        f"more than the {BUDGET} that server.request_memory_bytes leaves for bodies and answers: {advice}"
        in message
    )
    assert memory(http)["request_bodies"]["used_bytes"] == 0


def test_a_search_for_more_hits_than_memory_holds_is_refused(http: httpx.Client) -> None:
    http.put("/collections/wide", json={"vectors": {"size": 1, "distance": "Dot"}})
    for start in range(0, 9000, 1500):
        batch = {"ids": list(range(start, start + 1500)), "vectors": [[1]] * 1500}
        http.put("/collections/wide/points?wait=true", json={"batch": batch}).raise_for_status()
    answer = http.post("/collections/wide/points/query", json={"query": [1], "limit": 9000})
    assert answer.status_code == 422
    assert "ask for a smaller limit and offset, or scroll" in answer.text
    assert len(ask(http, "many/points/query", {"query": [1, 1], "limit": 2**32 - 1})["points"]) == POINTS
    assert len(ask(http, "wide/points/query", {"query": [1], "limit": 5000})["points"]) == 5000


def test_resident_memory_stays_within_the_budget_whatever_is_asked(engine: EngineProcess) -> None:
    long = {"ids": [0, 1, 2] * 15, "with_payload": True}
    requests = [
        ("long/points", long),
        ("long/points/query/batch", {"searches": [{"query": [1, 1], "with_payload": True}] * 15}),
        ("many/points/scroll", {"limit": 2**32 - 1, "with_vector": True}),
        ("many/points/query/batch", {"searches": [{"query": [1, n], "limit": 500} for n in range(300)]}),
    ]

    def send(request: tuple[str, dict[str, Any]]) -> tuple[int, int]:
        path, body = request
        with engine.http() as http, http.stream("POST", f"/collections/{path}", json=body) as answer:
            return answer.status_code, sum(len(piece) for piece in answer.iter_bytes())

    with engine.http() as http, ThreadPoolExecutor(4) as senders:
        list(senders.map(send, requests))  # so that code and thread stacks are there
        idle = engine.anonymous_bytes
        waiting = [senders.submit(send, request) for request in requests * 2]
        peak = idle
        while not all(each.done() for each in waiting):
            peak = max(peak, engine.anonymous_bytes)
        assert [each.result()[0] for each in waiting] == [200] * len(waiting)
        assert sum(each.result()[1] for each in waiting) > 300 * MIB
        assert peak - idle < 1.05 * BUDGET + 16 * MIB, "the budget, and the cache of query results"
        assert memory(http)["request_bodies"]["used_bytes"] == 0


def memory(http: httpx.Client) -> Any:
    return http.get("/cluster/memory").json()["result"]


def test_a_client_that_goes_away_in_the_middle_leaves_nothing_held(engine: EngineProcess) -> None:
    body = json.dumps({"ids": [0, 1, 2] * 20}).encode()
    with socket.create_connection(("127.0.0.1", engine.port)) as connection:
        connection.sendall(
            b"POST /collections/long/points HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        with engine.http() as http:
            assert memory(http)["request_bodies"]["used_bytes"] > PIECE_BYTES
    with engine.http() as http:
        engine.wait_until(lambda: memory(http)["request_bodies"]["used_bytes"] == 0, "free of that answer")


# --- without a process ---------------------------------------------------------------------------------


def serve(
    monkeypatch: pytest.MonkeyPatch, handler: Callable[[Call], Any], limit: int = REQUEST_MEMORY
) -> tuple[Application, Engine]:
    """An application whose only route, /long, is *handler*."""
    route = Route(method="GET", pattern="/long", handler=handler, access=Access.OPEN, where=Where.READERS)
    monkeypatch.setattr(app_module, "ROUTES", (route,))
    engine = Engine(
        config=Config(),
        memory=CacheMemoryManager(MIB),
        metrics=Metrics(),
        request_memory=RequestBudget(limit),
        member_memory=RequestBudget(limit),
    )
    return Application(engine), engine


async def get(application: Application, send: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """The messages of one GET of /long. The client stays until the end."""
    sent: list[dict[str, Any]] = []

    async def note(message: dict[str, Any]) -> None:
        sent.append(message)
        await send(message)

    async def never() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "raw_path": b"/long", "headers": [], "query_string": b""}
    await application(scope, never, note)
    application.close()
    return sent


async def taken(message: dict[str, Any]) -> None:
    """A client that reads at once."""


async def test_an_answer_that_fails_in_the_middle_is_not_ended_as_if_it_were_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(call: Call) -> Iterator[bytes]:
        yield b"[" + b" " * PIECE_BYTES
        raise OSError("the disk does not answer")

    application, engine = serve(monkeypatch, failing)
    sent = await get(application, taken)
    assert [message.get("more_body") for message in sent] == [None, True]
    assert "an answer was broken off: the disk does not answer" in caplog.text
    assert engine.request_memory.used == 0


async def test_a_client_that_does_not_read_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app_module, "WRITE_SECONDS", 0.01)

    async def stuck(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    application, engine = serve(monkeypatch, lambda call: iter([b"[" + b" " * PIECE_BYTES, b"]"]))
    await get(application, stuck)
    assert "an answer was broken off: TimeoutError" in caplog.text
    assert engine.request_memory.used == 0


async def test_what_an_answer_holds_is_charged_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def holding(call: Call) -> Iterator[bytes | Hold]:
        yield Hold(MIB, "one")
        seen.append(engine.request_memory.used)
        yield Hold(2 * MIB, "another")
        yield Hold(MIB, "another")
        seen.append(engine.request_memory.used)
        yield b"[" + b" " * PIECE_BYTES
        yield Hold(int(2.25 * MIB), "another")
        seen.append(engine.request_memory.used)
        yield b"]"

    application, engine = serve(monkeypatch, holding)
    sent = await get(application, taken)
    assert seen[:2] == [MIB, 3 * MIB]
    assert 3.25 * MIB < seen[2] < BUDGET
    text = b"".join(message.get("body", b"") for message in sent)
    assert json.loads(text)["result"] == []
    assert engine.request_memory.used == 0


def test_lists_of_any_length_are_json() -> None:
    for values in ([], [1], [1, 2, 3]):
        fragments = listed([encode(value)] for value in values)
        assert json.loads(b"".join(each for each in fragments if isinstance(each, bytes))) == values
    outgoing = Outgoing({"a": 1}, began=0.0)
    outgoing.advance()
    assert json.loads(outgoing.take())["result"] == {"a": 1}
