"""What must not get in: each with Qdrant's status code and envelope, and a message that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.engine.fixtures import EngineProcess


@pytest.fixture(scope="module")
def path(engine: EngineProcess) -> str:
    """The points of a cosine collection of dimension 3, which nothing here may change."""
    with engine.http() as http:
        http.put("/collections/unchanged", json={"vectors": {"size": 3, "distance": "Cosine"}})
        upsert = {"points": [{"id": 1, "vector": [1, 0, 0]}, {"id": 2, "vector": [0, 1, 0]}]}
        http.put("/collections/unchanged/points?wait=true", json=upsert).raise_for_status()
    return "/collections/unchanged/points"


@pytest.fixture
def points(http: httpx.Client, path: str) -> Iterator[str]:
    """Afterwards the collection holds what it held before."""
    yield path
    records = http.post(f"{path}/scroll", json={"with_vector": True}).json()["result"]["points"]
    assert [record["id"] for record in records] == [1, 2], "a refused request left something behind"
    assert [record["vector"] for record in records] == [[1, 0, 0], [0, 1, 0]]
    assert [record["payload"] for record in records] == [{}, {}]


def error(answer: httpx.Response) -> str:
    """The message in Qdrant's envelope."""
    body = answer.json()
    assert isinstance(body["time"], float)
    message: str = body["status"]["error"]
    return message


def with_good_ones(point: dict[str, Any]) -> str:
    good = {"id": 1, "vector": [0, 0, 1], "payload": {"changed": True}}
    return json.dumps({"points": [good, point, {**good, "id": 2}]})


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"id": 3, "vector": [1, 0]}, "vectors of dimension 3, got one of dimension 2"),
        ({"id": 3, "vector": []}, "got one of dimension 0"),
        ({"id": 3, "vector": [0, 0, 0]}, "zero"),
        ({"id": 3, "vector": [1, 0, None]}, "every number must be finite"),
        ({"id": 3, "vector": [1, 0, 1e300]}, "beyond float32"),
        ({"id": 3, "vector": [1, 0, "x"]}, "points[1].vector: expected a list of numbers: [2]"),
        ({"id": 3, "vector": "x"}, "points[1].vector: expected a list of numbers"),
        (
            {"id": 3, "vector": {"a": [1, 0, 0]}},
            "named vectors, sparse vectors and inference are not supported",
        ),
        ({"id": 3, "vector": [[1, 0, 0]]}, "multivectors are not supported"),
        ({"id": 3}, "points[1]: Object missing required field `vector`"),
        ({"vector": [1, 0, 0]}, "points[1]: Object missing required field `id`"),
        ({"id": -1, "vector": [1, 0, 0]}, "-1 is no point id: use an integer from 0 to 2^64-1 or a UUID"),
        ({"id": 2**64, "vector": [1, 0, 0]}, "is no point id"),
        ({"id": "three", "vector": [1, 0, 0]}, "points[1]: 'three' is no point id"),
        ({"id": 1.5, "vector": [1, 0, 0]}, "points[1].id: Expected `int | str`, got `float`"),
        ({"id": True, "vector": [1, 0, 0]}, "points[1].id: Expected `int | str`, got `bool`"),
        ({"id": 3, "vector": [1, 0, 0], "payload": 7}, "points[1].payload: Expected `object | null`"),
        ({"id": 3, "vector": [1, 0, 0], "colour": 7}, "the field `colour`"),
    ],
)
def test_one_wrong_point_refuses_the_whole_batch(
    http: httpx.Client, points: str, point: dict[str, Any], says: str
) -> None:
    answer = http.put(f"{points}?wait=true", content=with_good_ones(point))
    assert says in error(answer)
    assert answer.status_code == 400


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_payload_that_is_stored_can_be_read_however_deep_it_is(
    http: httpx.Client, points: str, opening: str, closing: str
) -> None:

    def upsert(levels: int) -> httpx.Response:
        inner = opening * (levels - 1) + "7" + closing * (levels - 1)
        point = f'{{"id": 3, "vector": [1, 0, 0], "payload": {{"a": {inner}}}}}'
        return http.put(f"{points}?wait=true", content=f'{{"points": [{point}]}}')

    assert upsert(128).status_code == 200
    for call, body in (
        ("/scroll", {}),
        ("/count", {"filter": {"must": [{"key": "a[].a.a", "match": {"value": 1}}]}}),
        ("/query", {"query": [1, 0, 0], "with_payload": ["a"]}),
        ("/query", {"query": [1, 0, 0], "with_payload": {"exclude": ["b"]}}),
        ("/payload?wait=true", {"payload": {"b": 1}, "points": [3]}),
        ("/delete?wait=true", {"points": [3]}),
    ):
        assert http.post(f"{points}{call}", json=body).status_code == 200, call
    for levels in (129, 500, 975):
        refused = upsert(levels)
        assert "nested too deeply: expected at most 128 levels" in error(refused)
        assert refused.status_code == 400


@pytest.mark.parametrize(
    ("number", "says"),
    [("NaN", "invalid character (byte"), ("Infinity", "invalid character"), ("1e999", "must be finite")],
)
def test_numbers_that_json_does_not_have_are_refused(
    http: httpx.Client, points: str, number: str, says: str
) -> None:
    answer = http.put(points, content=f'{{"points": [{{"id": 3, "vector": [0, 1, {number}]}}]}}')
    assert says in error(answer)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"{", "ends in the middle of a value (byte 1)"),
        (b'{"points": [}', "(byte 12)"),
        (b'{"points": []} x', "trailing characters (byte 16)"),
        (b'{"points": [{"id": "\xff", "vector": []}]}', "not UTF-8: invalid start byte (byte 20)"),
        (b"[" * 100_000, "JSON"),
        (b'{"points":[{"id":1,"vector":[1,0,0],"payload":{"a":' + b"[" * 100_000, "nested too deeply"),
        (b"7", "Expected `object`, got `int`"),
        (b"{}", "exactly one of points and batch"),
        (b'{"points": []}', "no point in the request"),
        (b'{"points": [], "batch": {"ids": [], "vectors": []}}', "exactly one of points and batch"),
        (b'{"batch": {"ids": [3], "vectors": []}}', "1 ids, 0 vectors and 0 payloads"),
        (
            b'{"batch": {"ids": [3], "vectors": {"a": [[1, 0, 0]]}}}',
            "batch.vectors: found an object with 'a'",
        ),
        (b'{"batch": {"ids": [3], "vectors": [[1, 0]]}}', "dimension 2"),
        (b'{"batch": {"ids": ["x"], "vectors": [[1, 0, 0]]}}', "batch.ids[0]: 'x' is no point id"),
        (b'{"points": [{"id": 3, "vector": [1,0,0]}], "update_mode": "insert_only"}', "update_mode"),
        (
            b'{"points": [{"id": 3, "vector": [1,0,0]}], "update_filter": {}}',
            "update_filter is not supported",
        ),
    ],
)
def test_a_body_that_is_no_upsert_is_refused_with_the_place(
    http: httpx.Client, points: str, content: bytes, says: str
) -> None:
    answer = http.put(points, content=content)
    assert says in error(answer)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("call", "body", "status", "says"),
    [
        ("/scroll", {"limit": -1}, 400, "limit: Expected `int` >= 0"),
        ("/scroll", {"limit": 2**64}, 400, "limit: Expected `int` <= 4294967295"),
        ("/scroll", {"limit": 0}, 422, "must be 1 or larger"),
        ("/scroll", {"offset": "x"}, 400, "offset: 'x' is no point id"),
        ("/scroll", {"order_by": "n"}, 400, "order_by is not supported"),
        ("/search", {"vector": [1, 0, 0]}, 400, "Object missing required field `limit`"),
        ("/search", {"vector": [1, 0], "limit": 1}, 400, "got one of dimension 2"),
        ("/search", {"vector": [0, 0, 0], "limit": 1}, 400, "zero"),
        ("/search", {"vector": [1, 0, None], "limit": 1}, 400, "must be finite"),
        ("/search", {"vector": {"name": "a", "vector": []}, "limit": 1}, 400, "no vector 'a'"),
        ("/count", {"filter": {"must": [{"key": "a", "match": {"value": 0.5}}]}}, 400, "use range"),
        ("", {"ids": ["x"]}, 400, "ids[0]: 'x' is no point id"),
        ("/delete", {}, 400, "exactly one of points and filter"),
        ("/delete", {"points": [1], "filter": {}}, 400, "exactly one of points and filter"),
        ("/payload", {"payload": {"a": 1}}, 400, "exactly one of points and filter"),
        ("/payload", {"points": [1]}, 400, "Object missing required field `payload`"),
        ("/payload", {"payload": {}, "points": [1], "key": "a"}, 400, "key is not supported"),
        ("/payload/delete", {"keys": ["a..b"], "points": [1]}, 400, "is not a payload path"),
        ("/payload/delete", {"keys": ["a[0]"], "points": [1]}, 400, "names one element of a list"),
    ],
)
def test_other_wrong_requests_name_what_is_wrong(
    http: httpx.Client, points: str, call: str, body: dict[str, Any], status: int, says: str
) -> None:
    answer = http.post(points + call, json=body)
    assert says in error(answer)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("wait=yes", "wait: expected true or false, found 'yes'"),
        ("ordering=random", "ordering: expected weak or medium or strong"),
        ("timeout=0", "timeout: expected seconds from 1 on"),
        ("consistency=all", "consistency: not supported here, supported: ordering, timeout, wait"),
    ],
)
def test_a_wrong_query_parameter_is_named(http: httpx.Client, points: str, query: str, says: str) -> None:
    answer = http.put(f"{points}?{query}", json={"points": [{"id": 3, "vector": [1, 0, 0]}]})
    assert says in error(answer)
    assert answer.status_code == 400


def test_query_parameters_of_qdrant_that_hold_anyway_are_taken(http: httpx.Client, points: str) -> None:
    assert http.post(f"{points}/count?consistency=2&timeout=5", json={}).status_code == 200
    assert http.post(f"{points}/count?consistency=majority", json={}).status_code == 200
    assert http.post(f"{points}/delete?ordering=strong&wait=true", json={"points": [77]}).status_code == 200


def test_a_body_of_100_megabytes_is_refused_without_being_read_into_memory(
    http: httpx.Client, points: str
) -> None:
    before = _anonymous(http)
    announced = http.put(points, content=b" " * 100_000_000)
    chunked = http.put(points, content=(b" " * 1_000_000 for _ in range(100)))
    for answer in (announced, chunked):
        assert "larger than 33554432 bytes, the least of server.max_request_bytes" in error(answer)
        assert answer.status_code == 413
    assert _anonymous(http) - before < 40_000_000


def _anonymous(http: httpx.Client) -> int:
    figure: int = http.get("/cluster/memory").json()["result"]["anonymous_rss_bytes"]
    return figure


def test_a_compressed_body_is_refused(http: httpx.Client, points: str) -> None:
    headers = {"content-length": "2", "content-encoding": "gzip"}
    for order in (list(headers.items()), list(headers.items())[::-1]):
        answer = http.put(points, content=b"\x1f\x8b", headers=order)
        assert "compressed bodies are not supported" in error(answer)
        assert answer.status_code == 415


@pytest.mark.parametrize(
    ("method", "call", "status", "says"),
    [
        ("GET", "/nowhere", 404, "GET /nowhere: there is no such call"),
        ("POST", "/collections/a/points/discover", 404, "does not support it"),
        ("GET", "/collections/a/snapshots", 404, "does not support it"),
        ("DELETE", "/collections", 405, "this engine serves GET on this path"),
        ("GET", "/collections//points/1", 404, "there is no such call"),
        ("GET", "/collections/%ff", 400, "/collections/%ff is not UTF-8"),
        ("GET", "/collections/unchanged/points/-1", 400, "'-1' is no point id"),
        ("GET", f"/collections/unchanged/points/{2**64}", 400, "is no point id"),
        ("GET", f"/collections/unchanged/points/{'9' * 5000}", 400, "is no point id"),
    ],
)
def test_calls_that_do_not_exist_are_told_apart(
    http: httpx.Client, method: str, call: str, status: int, says: str
) -> None:
    answer = http.request(method, call)
    assert says in error(answer)
    assert answer.status_code == status


def test_a_405_lists_what_the_path_takes(http: httpx.Client) -> None:
    assert http.post("/collections/a").headers["allow"] == "DELETE, GET, PATCH, PUT"
