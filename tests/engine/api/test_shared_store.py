"""The running engine over an object store: a pod that is killed and loses its volume has lost nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.engine.fixtures import StartEngine
from tests.engine.s3 import S3Server

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def upsert(client: httpx.Client, start: int, stop: int) -> None:
    points = [{"id": n, "vector": [n, 1.0], "payload": {"n": n}} for n in range(start, stop)]
    assert client.put("/collections/c/points", json={"points": points}).status_code == 200


def ids(client: httpx.Client) -> list[int]:
    answer = client.post("/collections/c/points/scroll", json={"limit": 1000}).json()
    return [point["id"] for point in answer["result"]["points"]]


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_killed_engine_that_lost_its_volume_serves_all_that_it_acknowledged(
    make_engine: StartEngine, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    if kind == "file":
        store: Mapping[str, str] = {"url": f"file://{tmp_path}/objects"}
    else:
        s3: S3Server = request.getfixturevalue("s3")
        store = {"url": f"{s3.url}/engine", "endpoint": s3.settings["endpoint"], "region": "us-east-1"}
    engine = make_engine({"storage": {"object_store": store}}, environment=CREDENTIALS).start()
    with engine.http() as client:
        client.put("/collections/c", json={"vectors": {"size": 2, "distance": "Dot"}})
        for start in range(0, 100, 10):
            upsert(client, start, start + 10)
        client.post("/collections/c/points/delete", json={"points": [5, 6]})
    engine.kill()
    shutil.rmtree(engine.data)
    engine.start()
    with engine.http() as client:
        assert ids(client) == [n for n in range(100) if n not in (5, 6)]
        upsert(client, 100, 101)
        nearest = client.post("/collections/c/points/search", json={"vector": [1, 0], "limit": 1}).json()
        assert nearest["result"][0]["id"] == 100
    assert engine.stop() == 0


def test_an_engine_over_a_store_without_credentials_says_so_and_ends(
    make_engine: StartEngine, s3: S3Server
) -> None:
    store = {"url": f"{s3.url}/engine", "endpoint": s3.settings["endpoint"], "region": "us-east-1"}
    engine = make_engine(
        {"storage": {"object_store": store}}, environment={**CREDENTIALS, "AWS_SECRET_ACCESS_KEY": "wrong"}
    )
    engine.launch()
    assert engine.wait(30) == 1
    assert "cannot use the object store s3://bucket/engine" in engine.log
    assert "SignatureDoesNotMatch" in engine.log
    assert "wrong" not in engine.log


def test_two_engines_over_one_store_never_both_acknowledge(make_engine: StartEngine, tmp_path: Path) -> None:
    config = {"storage": {"object_store": {"url": f"file://{tmp_path}/objects"}}}
    first = make_engine(config).start()
    with first.http() as one:
        one.put("/collections/c", json={"vectors": {"size": 2, "distance": "Dot"}})
        upsert(one, 0, 1)
        second = make_engine(config).start()
        point = {"id": 1, "vector": [1.0, 1.0]}
        refused = one.put("/collections/c/points", json={"points": [point]})
        assert refused.status_code == 503
        assert "another process has taken over" in refused.json()["status"]["error"]
        with second.http() as other:
            upsert(other, 2, 3)
            assert ids(other) == [0, 2]


def test_calls_to_the_store_are_counted_by_kind(make_engine: StartEngine, tmp_path: Path) -> None:
    engine = make_engine({"storage": {"object_store": {"url": f"file://{tmp_path}/objects"}}}).start()
    with engine.http() as http:
        http.put("/collections/c", json={"vectors": {"size": 4, "distance": "Dot"}}).raise_for_status()
        before = calls(http)
        for number in range(5):
            body = {"points": [{"id": number, "vector": [1, 2, 3, 4]}]}
            http.put("/collections/c/points", params={"wait": "true"}, json=body).raise_for_status()
        http.post("/collections/c/points/count", json={}).raise_for_status()
        after = calls(http)
    assert after["create"] - before["create"] == 5, "one put for each group of writes"
    assert after["read"] == before["read"], "what is served is read here"
    assert after["sent"] - before["sent"] > 5 * 16


def calls(http: httpx.Client) -> dict[str, float]:
    found = re.findall(
        r'vectorizer_object_store_(?:calls|bytes)_total{\w+="(\w+)"} (\S+)', http.get("/metrics").text
    )
    return {kind: float(count) for kind, count in found}
