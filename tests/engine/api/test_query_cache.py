"""The query-result cache through the HTTP door: answers come from it, and never from before a write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.engine.api.test_service import parse
from tests.engine.fixtures import StartEngine

LOOKUPS = "vectorizer_cluster_cache_lookups_total"
SEARCH = {"query": [1, 0], "limit": 3, "with_payload": True}


def point(number: int, *, x: float) -> dict[str, Any]:
    return {"id": number, "vector": [x, 1], "payload": {"n": number}}


def write(http: httpx.Client, name: str, points: list[dict[str, Any]], *, wait: bool = True) -> None:
    path = f"/collections/{name}/points?wait={str(wait).lower()}"
    http.put(path, json={"points": points}).raise_for_status()


def make(http: httpx.Client, name: str) -> None:
    body = {"vectors": {"size": 2, "distance": "Dot"}}
    http.put(f"/collections/{name}", json=body).raise_for_status()
    write(http, name, [point(number, x=number) for number in range(1, 6)])


def search(http: httpx.Client, name: str) -> list[dict[str, Any]]:
    answer = http.post(f"/collections/{name}/points/query", json=SEARCH)
    points: list[dict[str, Any]] = answer.raise_for_status().json()["result"]["points"]
    return points


def ids(http: httpx.Client, name: str) -> list[int]:
    return [found["id"] for found in search(http, name)]


def lookups(http: httpx.Client, cache: str = "query") -> dict[str, float]:
    metrics = parse(http.get("/metrics").text)
    return {result: metrics[f'{LOOKUPS}{{result="{result}",type="{cache}"}}'] for result in ("hit", "miss")}


def test_the_same_search_is_answered_from_the_cache_and_counted(http: httpx.Client) -> None:
    make(http, "again")
    before = lookups(http)
    first = search(http, "again")
    after_one = parse(http.get("/metrics").text)
    assert search(http, "again") == first
    assert lookups(http) == {"hit": before["hit"] + 1, "miss": before["miss"] + 1}
    assert after_one['vectorizer_cluster_cache_usage_bytes{type="query"}'] > 0
    assert after_one['vectorizer_cluster_cache_evictions_total{reason="ttl",type="query"}'] == 0


def post(path: str, body: dict[str, Any]) -> Callable[[httpx.Client], None]:
    def change(http: httpx.Client) -> None:
        http.post(f"/collections/changed/points{path}?wait=true", json=body).raise_for_status()

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda http: write(http, "changed", [point(9, x=9)]), [(9, {"n": 9}), (5, {"n": 5}), (4, {"n": 4})]),
        (lambda http: write(http, "changed", [point(5, x=0)]), [(4, {"n": 4}), (3, {"n": 3}), (2, {"n": 2})]),
        (post("/delete", {"points": [5]}), [(4, {"n": 4}), (3, {"n": 3}), (2, {"n": 2})]),
        (
            post("/payload", {"payload": {"m": 1}, "points": [5]}),
            [(5, {"n": 5, "m": 1}), (4, {"n": 4}), (3, {"n": 3})],
        ),
        (post("/payload/clear", {"points": [5]}), [(5, {}), (4, {"n": 4}), (3, {"n": 3})]),
    ],
    ids=["insert", "overwrite", "delete", "set payload", "clear payload"],
)
def test_a_search_after_a_write_shows_it(
    http: httpx.Client, change: Callable[[httpx.Client], None], expected: list[tuple[int, dict[str, Any]]]
) -> None:
    http.delete("/collections/changed")
    make(http, "changed")
    assert ids(http, "changed") == ids(http, "changed") == [5, 4, 3]
    change(http)
    assert [(found["id"], found["payload"]) for found in search(http, "changed")] == expected


def test_a_collection_made_again_under_its_name_does_not_answer_for_the_former(http: httpx.Client) -> None:
    make(http, "phoenix")
    assert ids(http, "phoenix") == [5, 4, 3]
    http.delete("/collections/phoenix")
    http.put("/collections/phoenix", json={"vectors": {"size": 2, "distance": "Dot"}})
    assert ids(http, "phoenix") == []


def test_searches_beside_a_writer_never_go_back_in_time(http: httpx.Client) -> None:
    """Each write puts a larger point on top, so what is best may only grow, and is at least what was answered."""
    make(http, "growing")
    written = 5
    stop = threading.Event()
    failures: list[str] = []

    def look() -> None:
        best = 0
        with httpx.Client(base_url=http.base_url, timeout=60) as own:
            while not stop.is_set():
                known = written
                now = ids(own, "growing")[0]
                if now < max(best, known):
                    failures.append(f"found {now} after {best}, when {known} was written")
                    return
                best = now

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(6, 120):
        write(http, "growing", [point(number, x=number)])
        written = number
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []


def test_with_the_cache_off_nothing_is_kept_or_counted(make_engine: StartEngine) -> None:
    engine = make_engine({"cache": {"query_results": False}}).start()
    with engine.http() as http:
        make(http, "plain")
        assert ids(http, "plain") == ids(http, "plain") == [5, 4, 3]
        assert lookups(http) == {"hit": 0, "miss": 0}
        metrics = parse(http.get("/metrics").text)
    assert metrics['vectorizer_cluster_cache_usage_bytes{type="query"}'] == 0
