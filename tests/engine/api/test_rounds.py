"""Searches that come at the same moment are answered as if each had come alone."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from tests.engine.api.test_at_once import counted
from tests.engine.api.test_pipelining import request
from tests.engine.fixtures import EngineProcess, running_engine
from vectorizer_engine.api.answers import FREE_BYTES
from vectorizer_engine.api.pace import BRIEFER_SECONDS, Pace
from vectorizer_engine.api.rounds import MOST, Asked, Rounds
from vectorizer_engine.collection.records import Scored

SEARCH = "/collections/c/points/query"
OLDER = "/collections/c/points/search"
COUNT = 200

Hits = Sequence[Scored] | None


@pytest.fixture(scope="module", params=[False, True], ids=["nothing kept", "results kept"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineProcess]:
    """An engine with two collections, whose searches are known to be brief."""
    config = {"cache": {"query_results": request.param}}
    with running_engine(tmp_path_factory.mktemp("engine"), config) as engine, engine.http() as http:
        for name, sign in (("c", 1), ("d", -1)):
            params = {"vectors": {"size": 3, "distance": "Euclid"}}
            http.put(f"/collections/{name}", json=params).raise_for_status()
            points = [
                {"id": i, "vector": [sign * i, i % 7, 1], "payload": {"n": i, "name": name}}
                for i in range(COUNT)
            ]
            http.put(f"/collections/{name}/points?wait=true", json={"points": points}).raise_for_status()
            for _ in range(10):
                query = {"query": [1, 1, 1], "limit": 1}
                http.post(f"/collections/{name}/points/query", json=query).raise_for_status()
        yield engine


def together(engine: EngineProcess, asked: Sequence[tuple[str, str]]) -> list[tuple[int, Any]]:
    """Status and body of the answer to each path and body, all sent before any answer is read."""
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", engine.port), timeout=60))
            for _ in asked
        ]
        for connection, (path, body) in zip(connections, asked, strict=True):
            connection.sendall(request("POST", path, body))
        return [answer_from(connection) for connection in connections]


def answer_from(connection: socket.socket) -> tuple[int, Any]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1 << 16)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(body) < length:
        body += connection.recv(1 << 16)
    return int(head.split()[1]), json.loads(body)


def alone(http: httpx.Client, path: str, body: str) -> Any:
    answer = http.post(path, content=body)
    return answer.status_code, answer.json()


def told(answer: tuple[int, Any]) -> tuple[int, Any]:
    """An answer without how long it took."""
    status, body = answer
    return status, {name: value for name, value in body.items() if name != "time"}


def queries() -> list[tuple[str, str]]:
    """Of different kinds, collections and lengths, and some in which something is wrong."""
    vectors = np.random.default_rng(3).integers(0, COUNT, (60, 3)).tolist()
    asked = [(SEARCH, {"query": vector, "limit": 3}) for vector in vectors[:20]]
    asked += [(SEARCH, {"query": vector, "limit": 5, "with_payload": True}) for vector in vectors[20:25]]
    asked += [(OLDER, {"vector": vector, "limit": 3}) for vector in vectors[25:35]]
    asked += [(SEARCH.replace("/c/", "/d/"), {"query": vector, "limit": 3}) for vector in vectors[35:45]]
    asked += [(SEARCH, {"query": number, "limit": 3, "offset": 1}) for number in range(5)]
    asked += [(SEARCH, {"query": vector, "params": {"exact": True}}) for vector in vectors[45:50]]
    asked += [(SEARCH, {"query": vector, "score_threshold": 50}) for vector in vectors[50:55]]
    asked += [(SEARCH, {"query": vector, "limit": COUNT, "with_vector": True}) for vector in vectors[55:60]]
    asked += [
        (SEARCH, {"query": [1, 2], "limit": 3}),
        (SEARCH, {"query": 999, "limit": 3}),
        (SEARCH, {"query": [1, 2, None]}),
        (SEARCH, {"limit": 2}),
        (SEARCH.replace("/c/", "/gone/"), {"query": [1, 2, 3]}),
    ]
    return [(path, json.dumps(body)) for path, body in asked]


def test_each_gets_the_answer_that_it_would_get_alone(engine: EngineProcess) -> None:
    asked = queries()
    with engine.http() as http:
        expected = [told(alone(http, *each)) for each in asked]
        before = counted(http)
    for _ in range(5):
        assert [told(each) for each in together(engine, asked)] == expected
    with engine.http() as http:
        fine = sum(
            path != OLDER and status == 200 for (path, _), (status, _) in zip(asked, expected, strict=True)
        )
        assert counted(http) == before + 5 * fine
        assert "vectorizer_request_bodies_bytes 0.0" in http.get("/metrics").text


def test_one_whose_client_goes_away_takes_nothing_from_the_others(engine: EngineProcess) -> None:
    body = json.dumps({"query": [3, 3, 1], "limit": 1})
    for _ in range(5):
        with ExitStack() as stack:
            connections = [
                stack.enter_context(socket.create_connection(("127.0.0.1", engine.port), timeout=60))
                for _ in range(20)
            ]
            for connection in connections:
                connection.sendall(request("POST", SEARCH, body))
            for connection in connections[::2]:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
            for connection in connections[1::2]:
                assert answer_from(connection)[1]["result"]["points"][0]["id"] == 3
    with engine.http() as http:
        assert "vectorizer_request_bodies_bytes 0.0" in http.get("/metrics").text


class Plan(NamedTuple):
    kind: bytes
    took: Any = None

    def key(self) -> bytes:
        return self.kind

    def run(self, plans: Sequence[Plan]) -> list[Any]:
        if self.took is not None:
            self.took()
        return [[plan.kind, len(plans)] for plan in plans]


class Planned:
    """Stands in for a search, to see with what it is run."""

    def __init__(self, kind: bytes, *, nbytes: int = 1000, took: Any = None) -> None:
        self.plan = Plan(kind, took)
        self.nbytes = nbytes


def asked_of(name: str, search: Any, given: list[Any]) -> Asked:
    return Asked(search, ("", name), given.append)


async def test_what_is_alike_is_run_as_one_in_the_same_turn() -> None:
    pace, given = Pace(), list[Any]()
    rounds = Rounds(pace)
    for name, kind in (("a", b"x"), ("b", b"x"), ("a", b"y"), ("a", b"x")):
        assert rounds.add(asked_of(name, Planned(kind), given))
    assert given == []
    await asyncio.sleep(0)
    assert sorted(given) == [[b"x", 1], [b"x", 2], [b"x", 2], [b"y", 1]]
    assert pace.is_brief(("", "a"), b"", alone=False)


async def test_a_round_has_an_end_and_holds_no_more_than_is_free_to_one_answer() -> None:
    given = list[Any]()
    rounds = Rounds(Pace())
    for _ in range(MOST + 1):
        assert rounds.add(asked_of("a", Planned(b"x"), given))
    assert given == [[b"x", MOST]] * MOST
    await asyncio.sleep(0)
    assert len(given) == MOST + 1
    given.clear()
    for _ in range(3):
        assert rounds.add(asked_of("a", Planned(b"x", nbytes=FREE_BYTES // 2), given))
    assert given == [[b"x", 2]] * 2
    await asyncio.sleep(0)
    assert len(given) == 3
    assert not rounds.add(asked_of("a", Planned(b"x", nbytes=FREE_BYTES + 1), given))


async def test_where_one_fails_all_that_ran_with_it_are_left_to_the_usual_way() -> None:
    def fail() -> None:
        raise OSError("the disk is gone")

    given = list[Any]()
    rounds = Rounds(Pace())
    for kind in (b"x", b"y", b"x"):
        rounds.add(asked_of("a", Planned(kind, took=fail if kind == b"x" else None), given))
    await asyncio.sleep(0)
    assert given == [None, None, [b"y", 1]]


async def test_a_collection_whose_searches_became_long_is_measured_again() -> None:
    clock = asyncio.get_running_loop().time

    def last() -> None:
        end = clock() + 2 * BRIEFER_SECONDS
        while clock() < end:
            pass

    pace, given = Pace(), list[Any]()
    pace.note(("", "a"), 0.0)
    rounds = Rounds(pace)
    rounds.add(asked_of("a", Planned(b"x", took=last), given))
    await asyncio.sleep(0)
    assert given == [[b"x", 1]]
    assert not pace.is_brief(("", "a"), b"", alone=True)
