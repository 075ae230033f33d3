"""Reads that a client allows to go without some shards: they say which, in time, and everything else is as ever."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from qdrant_client.http.models import InlineResponse20020

from tests.engine.distributed.pods import Pods
from vectorizer_engine.distributed.operations import shard_of
from vectorizer_engine.distributed.partial import SECONDS
from vectorizer_engine.storage.keys import encode_id

SHARDS, POINTS = 6, 120
READS: dict[str, dict[str, Any]] = {
    "query": {"query": [1.0, 0.0], "limit": POINTS},
    "search": {"vector": [1.0, 0.0], "limit": POINTS},
    "query/batch": {"searches": [{"query": [1.0, 0.0], "limit": POINTS}]},
    "search/batch": {"searches": [{"vector": [1.0, 0.0], "limit": POINTS}]},
    "scroll": {"limit": POINTS, "with_vector": True},
    "count": {},
    "": {"ids": list(range(POINTS))},
}


def ids_in(result: Any) -> set[int]:
    """The points of an answer, whatever it was asked by; of a count, so many."""
    if isinstance(result, dict) and "count" in result:
        return set(range(result["count"]))
    while isinstance(result, dict) or (result and isinstance(result[0], list)):
        result = result["points"] if isinstance(result, dict) else result[0]
    if result and "points" in result[0]:
        result = result[0]["points"]
    return {point["id"] for point in result}


def fill(pods: Pods) -> None:
    with pods[0].http() as http:
        params = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": SHARDS}
        http.put("/collections/docs", json=params).raise_for_status()
        points = [{"id": each, "vector": [each, 1]} for each in range(POINTS)]
        http.put("/collections/docs/points?wait=true", json={"points": points}).raise_for_status()


def remote_shards(pods: Pods, number: int) -> set[int]:
    """Those that others have than this pod."""
    with pods[number].http() as http:
        result = http.get("/collections/docs/cluster").json()["result"]
    return {each["shard_id"] for each in result["remote_shards"]}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    pods = Pods(tmp_path_factory.mktemp("partial"), 2, covered=True)
    try:
        pods.launch()
        pods.publish(0, 1)
        pods.wait_until_ready()
        fill(pods)
        yield pods
    finally:
        pods.close()


@pytest.fixture
def missing(started: Pods) -> Iterator[set[int]]:
    """The shards of the other pod, which is frozen and still a member."""
    shards = remote_shards(started, 0)
    assert 0 < len(shards) < SHARDS
    started[1].signal(signal.SIGSTOP)
    yield shards
    started[1].signal(signal.SIGCONT)
    started[1].wait_until(lambda: started[1].answers("/readyz"), "answering again")


def ask(pods: Pods, call: str, body: Any, **query: str) -> httpx.Response:
    with pods[0].http() as http:
        return http.post(f"/collections/docs/points/{call}".rstrip("/"), json=body, params=query)


@pytest.mark.parametrize("call", READS)
def test_what_the_others_have_is_answered_in_time_and_what_is_missing_is_named(
    started: Pods, missing: set[int], call: str
) -> None:
    began = time.monotonic()
    answer = ask(started, call, READS[call], partial="true")
    assert time.monotonic() - began < SECONDS + 2
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(map(int, body["missing_shards"])) == missing
    assert all("pod-1" in reason for reason in body["missing_shards"].values())
    there = {each for each in range(POINTS) if shard_of(encode_id(each), SHARDS) not in missing}
    found = ids_in(body["result"])
    assert found == (set(range(len(there))) if call == "count" else there)


def test_without_the_parameter_it_is_an_error_that_names_them(started: Pods, missing: set[int]) -> None:
    with ThreadPoolExecutor() as both:
        answers = both.map(lambda query: ask(started, "count", {}, **query), ({}, {"partial": "false"}))
    for answer in answers:
        assert answer.status_code == 503
        assert ", ".join(map(str, sorted(missing))) in answer.json()["status"]["error"]
        assert "missing_shards" not in answer.json()


def test_the_shards_are_waited_for_as_long_as_the_client_can(started: Pods, missing: set[int]) -> None:
    began = time.monotonic()
    answer = ask(started, "count", {}, partial="true", timeout="4")
    assert answer.status_code == 200
    assert SECONDS < time.monotonic() - began < 4
    assert set(map(int, answer.json()["missing_shards"])) == missing


def test_a_long_answer_waits_for_a_missing_shard_once(started: Pods, missing: set[int]) -> None:
    """A retrieval reads a thousand ids at a time, so these are three."""
    ids = [each % POINTS for each in range(3000)]
    began = time.monotonic()
    answer = ask(started, "", {"ids": ids}, partial="true")
    assert time.monotonic() - began < 2 * SECONDS
    assert set(map(int, answer.json()["missing_shards"])) == missing


def test_ids_of_missing_shards_alone_are_an_error(started: Pods, missing: set[int]) -> None:
    gone = [each for each in range(POINTS) if shard_of(encode_id(each), SHARDS) in missing]
    answer = ask(started, "", {"ids": gone[:3]}, partial="true")
    assert answer.status_code == 503
    by_id = ask(started, "query", {"query": gone[0]}, partial="true", timeout="30")
    assert by_id.status_code == 503, "a point that is not reached is not one that is not there"


def test_when_nothing_is_missing_the_answer_says_so_and_is_the_same(started: Pods) -> None:
    for call, body in READS.items():
        whole, partial = ask(started, call, body).json(), ask(started, call, body, partial="true").json()
        assert partial["missing_shards"] == {}
        assert ids_in(partial["result"]) == ids_in(whole["result"])
        assert whole.keys() | {"missing_shards"} == partial.keys()


def test_qdrants_client_reads_such_an_answer(started: Pods, missing: set[int]) -> None:
    answer = ask(started, "count", {}, partial="true").content
    assert InlineResponse20020.model_validate_json(answer).result.count < POINTS  # type: ignore[union-attr]
    assert missing


def test_what_cannot_be_partial_is_refused(started: Pods) -> None:
    with started[0].http() as http:
        for value in ("1", "yes", ""):
            answer = http.post(f"/collections/docs/points/count?partial={value}", json={})
            assert answer.status_code == 400
            assert "partial: expected true or false" in answer.json()["status"]["error"]
        upsert = http.put("/collections/docs/points?partial=true", json={"points": []})
        one = http.get("/collections/docs/points/1?partial=true")
        delete = http.post("/collections/docs/points/delete?partial=true", json={"points": [1]})
        assert [each.status_code for each in (upsert, one, delete)] == [400] * 3


def test_an_engine_alone_misses_nothing(client: Any, http: httpx.Client) -> None:
    http.put("/collections/alone", json={"vectors": {"size": 2, "distance": "Dot"}}).raise_for_status()
    answer = http.post("/collections/alone/points/count?partial=true", json={})
    assert json.loads(answer.content)["missing_shards"] == {}


def test_shards_of_a_pod_that_is_gone_and_a_damaged_one_are_missing(tmp_path: Path) -> None:
    pods = Pods(tmp_path, 2)
    try:
        pods.launch()
        pods.publish(0, 1)
        pods.wait_until_ready()
        fill(pods)
        gone = remote_shards(pods, 0)
        mine = sorted(set(range(SHARDS)) - gone)
        pods[0].stop()
        pods[1].kill()
        damaged = mine[0]
        for frame in (tmp_path / "store/collections").glob(f"*/shard-{damaged}/log/*"):
            frame.write_bytes(frame.read_bytes()[:-1] + b"\0")
        pods.launch(0)
        pods.wait_until_ready(0)
        answer = ask(pods, "scroll", READS["scroll"], partial="true").json()
        assert set(map(int, answer["missing_shards"])) == gone | {damaged}
        assert "restore" in answer["missing_shards"][str(damaged)]
        there = {each for each in range(POINTS) if shard_of(encode_id(each), SHARDS) in mine[1:]}
        assert ids_in(answer["result"]) == there
    finally:
        pods.close()
