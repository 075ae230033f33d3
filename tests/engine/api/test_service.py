"""The process itself over HTTP: version, health, keys, metrics, memory, and that every route does its work."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.common.version_check import is_compatible
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.engine.fixtures import EngineProcess, StartEngine
from vectorizer_engine.api.auth import Access
from vectorizer_engine.api.routes import ROUTES
from vectorizer_engine.api.service import MOST_SEGMENTS
from vectorizer_engine.index.planner import WORTH_INDEXING

VECTORS = {"vectors": {"size": 2, "distance": "Dot"}}
POINTS = {"points": [{"id": 1, "vector": [1, 0]}]}
QUERY = {"query": [1, 0]}
SEARCH = {"vector": [1, 0], "limit": 1}

CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/", None),
    ("GET", "/healthz", None),
    ("GET", "/livez", None),
    ("GET", "/readyz", None),
    ("GET", "/metrics", None),
    ("GET", "/cluster", None),
    ("GET", "/cluster/memory", None),
    ("PUT", "/collections/{collection}", VECTORS),
    ("PATCH", "/collections/{collection}", {}),
    ("GET", "/collections", None),
    ("GET", "/collections/{collection}", None),
    ("GET", "/collections/{collection}/exists", None),
    ("GET", "/collections/{collection}/cluster", None),
    ("PUT", "/collections/{collection}/points", POINTS),
    ("POST", "/collections/{collection}/points", {"ids": [1]}),
    ("GET", "/collections/{collection}/points/{id}", None),
    ("POST", "/collections/{collection}/points/payload", {"payload": {"a": 1}, "points": [1]}),
    ("PUT", "/collections/{collection}/points/payload", {"payload": {"a": 1}, "points": [1]}),
    ("POST", "/collections/{collection}/points/payload/delete", {"keys": ["a"], "points": [1]}),
    ("POST", "/collections/{collection}/points/payload/clear", {"points": [1]}),
    ("PUT", "/collections/{collection}/index", {"field_name": "a", "field_schema": "integer"}),
    ("DELETE", "/collections/{collection}/index/{field}", None),
    ("POST", "/collections/{collection}/points/batch", {"operations": [{"upsert": POINTS}]}),
    ("POST", "/collections/{collection}/points/scroll", {}),
    ("POST", "/collections/{collection}/points/count", {}),
    ("POST", "/collections/{collection}/points/search", SEARCH),
    ("POST", "/collections/{collection}/points/search/batch", {"searches": [SEARCH]}),
    ("POST", "/collections/{collection}/points/query", QUERY),
    ("POST", "/collections/{collection}/points/query/batch", {"searches": [QUERY]}),
    ("POST", "/collections/{collection}/points/delete", {"points": [1]}),
    ("DELETE", "/collections/{collection}", None),
]
"""One good call for each route, in an order that works."""

KEYS = {"auth": {"api_key": "all-of-it", "read_only_api_key": "just-looking"}}


FOR_CLIENTS = [route for route in ROUTES if route.access is not Access.MEMBER]


def call(http: httpx.Client, method: str, pattern: str, body: Any, **options: Any) -> httpx.Response:
    path = pattern.replace("{collection}", "routes").replace("{id}", "1").replace("{field}", "a")
    return http.request(method, path, json=body, **options)


def test_every_route_of_the_table_answers_and_is_counted_under_its_pattern(http: httpx.Client) -> None:
    assert {(route.method, route.pattern) for route in FOR_CLIENTS} == {call[:2] for call in CALLS}

    for method, pattern, body in CALLS:
        answer = call(http, method, pattern, body)
        assert answer.status_code == 200, (method, pattern, answer.text)
    call(http, "GET", "/unknown/{collection}", None)

    metrics = http.get("/metrics").text
    for method, pattern, _ in CALLS:
        line = f'requests_total{{method="{method}",route="{pattern}",status="200"}}'
        assert line in metrics, line
    assert 'requests_total{method="other",route="other",status="404"}' in metrics
    assert "unknown" not in metrics


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine that asks for keys."""
    engine = EngineProcess(tmp_path_factory.mktemp("guarded"), KEYS, covered=True)
    engine.launch()
    engine.wait_until(lambda: engine.answers("/readyz"), "ready")
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "headers",
    [{"api-key": "all-of-it"}, {"authorization": "Bearer all-of-it"}, {"Authorization": "bearer  all-of-it"}],
)
def test_the_full_key_opens_every_route(guarded: EngineProcess, headers: dict[str, str]) -> None:
    with guarded.http(headers=headers) as http:
        assert {call(http, *each).status_code for each in CALLS} == {200}


def test_the_read_only_key_opens_reading_and_no_writing(guarded: EngineProcess) -> None:
    access = {(route.method, route.pattern): route.access for route in ROUTES}
    with guarded.http(headers={"api-key": "just-looking"}) as http:
        for each in CALLS:
            answer = call(http, *each)
            assert (answer.status_code == 403) == (access[each[:2]] is Access.WRITE), each
    assert "may only read" in http_error(answer)


@pytest.mark.parametrize("headers", [{}, {"api-key": "wrong"}, {"api-key": ""}, {"authorization": "Basic x"}])
def test_without_a_valid_key_only_probes_and_the_version_are_answered(
    guarded: EngineProcess, headers: dict[str, str]
) -> None:
    with guarded.http(headers=headers) as http:
        answers = {each[1]: call(http, *each).status_code for each in CALLS}
        refused = http.get("/collections")
    assert {path for path, status in answers.items() if status == 200} == {
        "/",
        "/healthz",
        "/livez",
        "/readyz",
    }
    assert set(answers.values()) == {200, 401}
    assert "API key" in http_error(refused)


def test_the_real_client_works_with_a_key_and_not_without(guarded: EngineProcess) -> None:
    with pytest.warns(UserWarning, match="insecure connection"):
        allowed = guarded.client(api_key="all-of-it", https=False)
    assert allowed.get_collections().collections == []
    with pytest.raises(UnexpectedResponse) as refusal:
        guarded.client().get_collections()
    assert refusal.value.status_code == 401


def http_error(answer: httpx.Response) -> str:
    message: str = answer.json()["status"]["error"]
    return message


def test_metrics_and_memory_report_tell_the_same(http: httpx.Client, client: QdrantClient) -> None:
    client.create_collection("measured", models.VectorParams(size=64, distance=models.Distance.DOT))
    batch = [models.PointStruct(id=i, vector=[float(i)] * 64, payload={"i": i}) for i in range(500)]
    client.upsert("measured", batch)

    report = http.get("/cluster/memory").json()["result"]
    metrics = parse(http.get("/metrics").text)

    ledger = report["ledger"]
    assert ledger["limit_bytes"] == metrics["vectorizer_cluster_cache_limit_bytes"] == 1024**3
    assert ledger["used_bytes"] == sum(ledger["by_cache"].values())
    assert 0 < ledger["used_bytes"] <= ledger["peak_bytes"] <= ledger["limit_bytes"]
    for cache, nbytes in ledger["by_cache"].items():
        assert metrics[f'vectorizer_cluster_cache_usage_bytes{{type="{cache}"}}'] == nbytes
    usage = "vectorizer_cluster_memory_usage_bytes"
    assert metrics[f'{usage}{{component="metadata"}}'] == ledger["by_cache"]["metadata"]
    assert (
        metrics[f'{usage}{{component="cache"}}'] + metrics[f'{usage}{{component="metadata"}}']
        == ledger["used_bytes"]
    )
    # The process goes on living between the two requests, so its own figures are only close.
    assert metrics[f'{usage}{{component="mmap"}}'] == pytest.approx(
        report["reclaimable_mapped_bytes"], rel=0.1
    )
    assert metrics["vectorizer_process_anonymous_bytes"] == pytest.approx(
        report["anonymous_rss_bytes"], rel=0.1
    )
    assert report["request_bodies"] == {"limit_bytes": 64 * 1024**2, "used_bytes": 0}
    assert metrics["vectorizer_request_bodies_bytes"] == 0
    assert metrics["vectorizer_points"] >= 500
    assert metrics["vectorizer_collections"] >= 1
    assert metrics["vectorizer_storage_bytes"] > 0
    assert metrics["vectorizer_cluster_validation_skipped"] == 0


def test_how_segments_are_searched_and_why_is_told_of_a_collection_and_of_the_engine(
    engine: EngineProcess, http: httpx.Client
) -> None:
    sizes = {"indexed": WORTH_INDEXING, **{f"small {number}": 300 + number for number in range(12)}}
    for name, size in sizes.items():
        http.put(f"/collections/{name}", json=VECTORS).raise_for_status()
        batch = {"ids": [*range(size)], "vectors": [[number % 97, number % 89] for number in range(size)]}
        http.put(f"/collections/{name}/points", json={"batch": batch}).raise_for_status()

    def about(name: str) -> dict[str, Any]:
        result: dict[str, Any] = http.get(f"/collections/{name}").json()["result"]
        return result

    # What has no more points to come is sealed, and what is worth it is indexed.
    engine.wait_until(lambda: {about(name)["status"] for name in sizes} == {"green"}, "at rest")
    reason = f"the index of {WORTH_INDEXING} vectors fits into the memory there is"
    assert about("indexed")["layouts"] == [{"points": WORTH_INDEXING, "layout": "hnsw-sq8", "reason": reason}]
    [small] = about("small 11")["layouts"]
    assert (small["points"], small["layout"]) == (311, "exact")
    assert "scanned faster than an index would repay" in small["reason"]

    told = http.get("/cluster/memory").json()["result"]["layouts"]
    assert told["hnsw-sq8"] == {
        "segments": 1,
        "points": WORTH_INDEXING,
        "largest": [{"collection": "indexed", "points": WORTH_INDEXING, "reason": reason}],
    }
    assert told["ivf-rabitq"] == {"segments": 0, "points": 0, "largest": []}
    assert told["exact"]["segments"] >= 12
    assert told["exact"]["points"] >= sum(range(300, 312))
    points = [each["points"] for each in told["exact"]["largest"]]
    assert len(points) == MOST_SEGMENTS
    assert points == sorted(points, reverse=True)
    assert {"collection": "small 11", "points": 311, "reason": small["reason"]} in told["exact"]["largest"]
    for name in sizes:
        http.delete(f"/collections/{name}")


def parse(metrics: str) -> dict[str, float]:
    lines = re.findall(r"^(?!#)(\S+) (\S+)$", metrics, re.MULTILINE)
    return {series: float(value) for series, value in lines}


def test_the_client_finds_a_version_that_it_is_compatible_with(client: QdrantClient) -> None:
    assert client.info().title.startswith("vectorizer engine ")
    assert is_compatible(version("qdrant-client"), client.info().version)


def test_health_is_answered_in_words(http: httpx.Client) -> None:
    assert http.get("/healthz").text == "healthz check passed"
    assert http.get("/livez").text == "livez check passed"
    assert http.get("/readyz").text == "all shards are ready"


def test_a_request_larger_than_all_request_memory_is_refused_at_once(make_engine: StartEngine) -> None:
    engine = make_engine({"server": {"request_memory_bytes": "1Mi"}}).start()
    with engine.http() as http:
        http.put("/collections/a", json=VECTORS)
        answer = http.put("/collections/a/points", content=b" " * 2_000_000)
    assert answer.status_code == 413
    assert "larger than 786432 bytes" in http_error(answer)


def test_a_request_waits_for_request_memory_and_is_then_told_to_come_back(make_engine: StartEngine) -> None:
    engine = make_engine({"server": {"request_memory_bytes": "1Mi"}}).start()
    client = engine.client()
    client.create_collection("a", models.VectorParams(size=2, distance=models.Distance.DOT))
    large = [models.PointStruct(id=1, vector=[1, 0], payload={"text": "x" * 600_000})]
    head = b"PUT /collections/a/points HTTP/1.1\r\nhost: a\r\ncontent-length: 700000\r\n\r\n"

    with socket.create_connection(("127.0.0.1", engine.port)) as slow:
        slow.sendall(head + b"{")
        with engine.http() as http:
            engine.wait_until(lambda: held(http) == 700_000, "holding the slow client's share")
        with pytest.raises(ResourceExhaustedResponse) as refusal:
            client.upsert("a", large)
    assert refusal.value.retry_after_s == 1
    assert client.upsert("a", large).status == models.UpdateStatus.COMPLETED


def held(http: httpx.Client) -> int:
    used: int = http.get("/cluster/memory").json()["result"]["request_bodies"]["used_bytes"]
    return used


def test_the_documentation_lists_every_call() -> None:
    text = Path("docs/users/API.md").read_text()
    documented = set(re.findall(r"`((?:GET|PUT|POST|PATCH|DELETE) /[^`]*)`", text))
    assert documented == {f"{route.method} {route.pattern}" for route in FOR_CLIENTS}
