"""Searches that are answered as soon as they are read are answered like all others."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.engine.api.test_pipelining import exchange, request
from tests.engine.fixtures import EngineProcess, running_engine

SEARCH = "/collections/c/points/query"
COUNT = 50


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine whose searches are known to be brief."""
    with running_engine(tmp_path_factory.mktemp("engine"), {"cache": {"query_results": False}}) as engine:
        with engine.http() as http:
            http.put("/collections/c", json={"vectors": {"size": 2, "distance": "Euclid"}}).raise_for_status()
            points = [
                {"id": i, "vector": [i, 0], "payload": {"text": "x" * (200_000 if i == 7 else 9)}}
                for i in range(COUNT)
            ]
            http.put("/collections/c/points?wait=true", json={"points": points}).raise_for_status()
            for _ in range(20):
                nearest(http, 3)
        yield engine


@pytest.fixture
def http(warm: EngineProcess) -> Iterator[httpx.Client]:
    with warm.http() as client:
        yield client


def nearest(http: httpx.Client, place: int, **more: object) -> list[dict[str, object]]:
    answer = http.post(SEARCH, json={"query": [place, 0], "limit": 1, **more}).raise_for_status()
    points: list[dict[str, object]] = answer.json()["result"]["points"]
    return points


def counted(http: httpx.Client, status: int = 200) -> int:
    text = http.get("/metrics").text
    found = re.search(
        rf'vectorizer_http_requests_total\{{method="POST",route="[^"]*points/query",status="{status}"\}} (\d+)',
        text,
    )
    return int(found[1]) if found else 0


def body(place: int) -> str:
    return json.dumps({"query": [place, 0], "limit": 1})


def test_each_is_counted_once_and_holds_no_memory_afterwards(http: httpx.Client) -> None:
    before = counted(http)
    for place in range(COUNT):
        assert nearest(http, place)[0]["id"] == place
    assert counted(http) == before + COUNT
    assert "vectorizer_request_bodies_bytes 0.0" in http.get("/metrics").text


def test_those_of_one_stream_are_answered_in_their_order(warm: EngineProcess) -> None:
    stream = b"".join(request("POST", SEARCH, body(place)) for place in list(range(COUNT)) * 20)
    answers = exchange(warm, stream, COUNT * 20)
    ids = [json.loads(text)["result"]["points"][0]["id"] for _, text in answers]
    assert ids == list(range(COUNT)) * 20


def test_one_whose_body_comes_in_parts_waits_for_all_of_it(warm: EngineProcess) -> None:
    sent = request("POST", SEARCH, body(5) + " " * 20_000)
    for cut in (10, sent.index(b"\r\n\r\n") + 4, len(sent) - 20_010, len(sent) - 1):
        with socket.create_connection(("127.0.0.1", warm.port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(sent[:cut])
            with warm.http() as other:  # has the engine look at what has come so far
                assert nearest(other, 1)[0]["id"] == 1
            connection.sendall(sent[cut:])
            received = b""
            while b'"status":"ok"' not in received:
                received += connection.recv(1 << 16)
            assert b'"id":5' in received


def test_a_body_of_chunks_is_read_too(http: httpx.Client) -> None:
    pieces = iter([b'{"query": [4', b', 0], "limit": 1}'])
    assert http.post(SEARCH, content=pieces).json()["result"]["points"][0]["id"] == 4


@pytest.mark.parametrize(("version", "header"), [("1.1", "connection: close\r\n"), ("1.0", "")])
def test_a_connection_that_is_to_be_closed_is(warm: EngineProcess, version: str, header: str) -> None:
    sent = (
        f"POST {SEARCH} HTTP/{version}\r\nhost: a\r\n{header}content-length: {len(body(2))}\r\n\r\n{body(2)}"
    )
    with socket.create_connection(("127.0.0.1", warm.port), timeout=60) as connection:
        connection.sendall(sent.encode())
        received = b""
        while piece := connection.recv(1 << 16):
            received += piece
    head, _, text = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"date: " in head
    assert json.loads(text)["result"]["points"][0]["id"] == 2


def test_a_long_answer_is_whole_and_counted_once(http: httpx.Client) -> None:
    before = counted(http)
    [point] = nearest(http, 7, with_payload=True)
    assert point["payload"] == {"text": "x" * 200_000}
    assert counted(http) == before + 1
    assert nearest(http, 8)[0]["id"] == 8


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        ('{"query": [1], "limit": 1}', 400, "got one of dimension 1"),
        ('{"query": [1, 2], "limit": 1', 400, "JSON is malformed"),
        ('{"query": [1, 2], "limit": 0}', 422, "limit"),
        ('{"query": [1, null], "limit": 1}', 400, "finite"),
        ('{"query": 999, "limit": 1}', 404, "999"),
        ('{"query": [1, 2], "colour": 1}', 400, "colour"),
        ("", 400, "empty"),
    ],
)
def test_what_is_wrong_is_said_and_counted_once(
    http: httpx.Client, sent: str, status: int, says: str
) -> None:
    before = counted(http, status)
    answer = http.post(SEARCH, content=sent)
    assert answer.status_code == status
    assert says in answer.json()["status"]["error"]
    assert counted(http, status) == before + 1
    assert nearest(http, 1)[0]["id"] == 1, "the connection goes on"


def test_a_deleted_collection_is_not_found(warm: EngineProcess, http: httpx.Client) -> None:
    http.put("/collections/gone", json={"vectors": {"size": 2, "distance": "Dot"}}).raise_for_status()
    search = {"query": [1, 0], "limit": 1}
    for _ in range(3):
        http.post("/collections/gone/points/query", json=search).raise_for_status()
    http.delete("/collections/gone").raise_for_status()
    assert http.post("/collections/gone/points/query", json=search).status_code == 404


def test_a_key_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = {"auth": {"api_key": "secret-key-of-some-length"}}
    with running_engine(tmp_path_factory.mktemp("engine"), config) as engine:
        with engine.http(headers={"api-key": "secret-key-of-some-length"}) as http:
            http.put("/collections/c", json={"vectors": {"size": 2, "distance": "Dot"}}).raise_for_status()
            for _ in range(5):
                http.post(SEARCH, json={"query": [1, 0]}).raise_for_status()
        with engine.http() as http:
            assert http.post(SEARCH, json={"query": [1, 0]}).status_code == 401
            assert http.post(SEARCH, json={"query": [1, 0]}, headers={"api-key": "other"}).status_code == 401
