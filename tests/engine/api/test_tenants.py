"""Tenants through the HTTP door: who may reach what, whose memory it is, and what becomes of a tenant's data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from tests.engine.api.test_query_cache import lookups
from tests.engine.api.test_service import CALLS, VECTORS, call, http_error, parse
from tests.engine.fixtures import EngineProcess, StartEngine
from vectorizer_engine.api.auth import Access
from vectorizer_engine.api.routes import ROUTES

TENANTS = ("acme", "globex")
MEMORY = "vectorizer_cluster_tenant_memory_bytes"


def with_tenants(folder: Path, **quotas: str) -> dict[str, dict[str, Any]]:
    """A configuration of two tenants, whose keys are NAME-key and NAME-reader."""
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for name in TENANTS:
        for kind in ("key", "reader"):
            (folder / f"{name}-{kind}").write_text(f"{name}-{kind}\n")
        member = {
            "name": name,
            "api_key_file": str(folder / f"{name}-key"),
            "read_only_api_key_file": str(folder / f"{name}-reader"),
        }
        members.append(member | ({"memory_quota_bytes": quotas[name]} if name in quotas else {}))
    return {
        "auth": {"api_key": "admin-key", "read_only_api_key": "admin-reader"},
        "tenants": {"enabled": True, "members": members},
    }


def as_caller(engine: EngineProcess, key: str) -> httpx.Client:
    return engine.http(headers={"api-key": key})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    folder = tmp_path_factory.mktemp("tenants")
    engine = EngineProcess(folder, with_tenants(folder), covered=True)
    try:
        engine.launch()
        engine.wait_until(lambda: engine.answers("/readyz"), "ready")
        yield engine
    finally:
        engine.close()


@pytest.fixture
def acme(shared: EngineProcess) -> Iterator[httpx.Client]:
    with as_caller(shared, "acme-key") as http:
        yield http


@pytest.fixture
def globex(shared: EngineProcess) -> Iterator[httpx.Client]:
    with as_caller(shared, "globex-key") as http:
        yield http


@pytest.fixture
def admin(shared: EngineProcess) -> Iterator[httpx.Client]:
    with as_caller(shared, "admin-key") as http:
        yield http


def names(http: httpx.Client) -> list[str]:
    return [
        each["name"] for each in http.get("/collections").raise_for_status().json()["result"]["collections"]
    ]


def fill(http: httpx.Client, name: str, count: int) -> None:
    http.put(f"/collections/{name}", json=VECTORS).raise_for_status()
    add(http, name, range(1, count + 1))


def add(http: httpx.Client, name: str, ids: range) -> None:
    batch = {"ids": [*ids], "vectors": [[i % 97, i % 89] for i in ids]}
    http.put(f"/collections/{name}/points?wait=true", json={"batch": batch}).raise_for_status()


def test_the_real_client_of_each_tenant_sees_its_own_collection_of_a_name(shared: EngineProcess) -> None:
    def client(key: str) -> QdrantClient:
        with pytest.warns(UserWarning, match="insecure connection"):
            return shared.client(api_key=key, https=False)

    callers = {key: client(key) for key in ("acme-key", "globex-key", "admin-key")}
    for number, each in enumerate(callers.values(), 1):
        each.create_collection("docs", models.VectorParams(size=2, distance=models.Distance.DOT))
        each.upsert("docs", [models.PointStruct(id=number, vector=[number, 1], payload={"of": number})])
    for number, each in enumerate(callers.values(), 1):
        assert [found.name for found in each.get_collections().collections] == ["docs"]
        assert [hit.id for hit in each.query_points("docs", query=[1.0, 0.0], limit=10).points] == [number]
    assert callers["acme-key"].delete_collection("docs")
    assert callers["globex-key"].count("docs").count == 1
    for key in ("globex-key", "admin-key"):
        callers[key].delete_collection("docs")


def said(answer: httpx.Response) -> tuple[int, Any]:
    """What an answer tells, without its time."""
    body = answer.json()
    body.pop("time", None)
    return answer.status_code, body


@pytest.mark.parametrize(
    "each", [each for each in CALLS if "{collection}" in each[1]], ids="{0[0]} {0[1]}".format
)
def test_another_tenants_collection_is_as_one_that_is_not_there(
    acme: httpx.Client, globex: httpx.Client, admin: httpx.Client, each: tuple[str, str, Any]
) -> None:
    """Each route of the table, as `test_service` has a call for each."""
    not_there = {http: said(call(http, *each)) for http in (globex, admin)}
    for http in not_there:
        http.delete("/collections/routes")
    fill(acme, "routes", 3)
    before = acme.post("/collections/routes/points/scroll", json={"with_vector": True}).json()["result"]

    assert {http: said(call(http, *each)) for http in not_there} == not_there
    assert (
        acme.post("/collections/routes/points/scroll", json={"with_vector": True}).json()["result"] == before
    )
    for http in (acme, globex, admin):
        http.delete("/collections/routes")


def test_a_tenants_read_only_key_opens_reading_and_no_writing(
    shared: EngineProcess, acme: httpx.Client
) -> None:
    access = {(route.method, route.pattern): route.access for route in ROUTES}
    fill(acme, "routes", 3)
    with as_caller(shared, "acme-reader") as reader:
        for each in CALLS:
            refused = access[each[:2]] in (Access.WRITE, Access.ENGINE)
            assert call(reader, *each).status_code == (403 if refused else 200), each
    acme.delete("/collections/routes")


def test_only_the_keys_of_the_engine_tell_about_all_tenants(
    shared: EngineProcess, acme: httpx.Client
) -> None:
    fill(acme, "told", 100)
    for key in ("admin-key", "admin-reader"):
        with as_caller(shared, key) as http:
            report = http.get("/cluster/memory").json()["result"]["ledger"]
            metrics = parse(http.get("/metrics").text)
        assert report["by_tenant"].keys() == set(TENANTS)
        for tenant, held in report["by_tenant"].items():
            assert held["used_bytes"] == sum(held["by_cache"].values())
            assert metrics[f'{MEMORY}{{tenant="{tenant}"}}'] == held["used_bytes"]
        assert 0 < report["by_tenant"]["acme"]["used_bytes"] <= report["used_bytes"]
    own = acme.get("/cluster/memory").json()["result"]
    own.pop("layouts")
    assert own == report["by_tenant"]["acme"]
    refused = acme.get("/metrics")
    assert (refused.status_code, http_error(refused)) == (
        403,
        "this call tells about all tenants: it needs the key of whoever runs the engine",
    )
    acme.delete("/collections/told")


def test_a_tenant_is_told_how_its_own_segments_are_searched_and_of_no_others(
    shared: EngineProcess, acme: httpx.Client, globex: httpx.Client, admin: httpx.Client
) -> None:
    def told(http: httpx.Client) -> list[tuple[str, int]]:
        exact = http.get("/cluster/memory").json()["result"]["layouts"]["exact"]
        return sorted((each["collection"], each["points"]) for each in exact["largest"])

    fill(acme, "sealed", 300)
    fill(globex, "sealed", 400)
    shared.wait_until(lambda: len(told(admin)) == 2, "sealed")
    assert told(admin) == [("acme/sealed", 300), ("globex/sealed", 400)]
    assert told(acme) == [("sealed", 300)]
    assert told(globex) == [("sealed", 400)]
    for http in (acme, globex):
        http.delete("/collections/sealed")


def series(metrics: str) -> set[str]:
    return set(re.findall(r"^(vectorizer_cluster\S+) ", metrics, re.MULTILINE))


TEXT = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20)


def test_nobody_can_add_a_series_by_tenant_or_a_tenant(shared: EngineProcess, admin: httpx.Client) -> None:
    before = series(admin.get("/metrics").text)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(key=TEXT | st.sampled_from(["acme-key", "admin-key"]), name=TEXT, header=TEXT)
    def anybody_sends_anything(key: str, name: str, header: str) -> None:
        path = "/collections/" + "".join(f"%{byte:02x}" for byte in name.encode())
        with shared.http(headers={"api-key": key, "tenant": header, "x-tenant": header}) as http:
            http.put(path, params={"tenant": header}, json=VECTORS)
            http.put(path, json=VECTORS | {"tenant": header})
            if http.put(path, json=VECTORS).status_code == 200:
                http.get(path).raise_for_status()
                http.delete(path).raise_for_status()

    anybody_sends_anything()
    assert series(admin.get("/metrics").text) == before
    assert {each for each in before if MEMORY in each} == {f'{MEMORY}{{tenant="{t}"}}' for t in TENANTS}


def used(engine: EngineProcess) -> Mapping[str, Any]:
    """What each tenant holds, as the one who runs the engine is told."""
    with as_caller(engine, "admin-reader") as http:
        found: Mapping[str, Any] = http.get("/cluster/memory").json()["result"]["ledger"]["by_tenant"]
    return found


def ask(http: httpx.Client, name: str, number: int) -> None:
    body = {"query": [number, 1], "limit": 10}
    http.post(f"/collections/{name}/points/query", json=body).raise_for_status()


def flood(http: httpx.Client, name: str, requests: int) -> None:
    """Different questions all the time, whose answers are 64 KB each to keep."""
    for number in range(requests):
        searches = [{"query": [number, i], "limit": 500} for i in range(8)]
        http.post(f"/collections/{name}/points/query/batch", json={"searches": searches}).raise_for_status()


def evictions(engine: EngineProcess) -> float:
    with as_caller(engine, "admin-key") as http:
        metrics = parse(http.get("/metrics").text)
    return metrics['vectorizer_cluster_cache_evictions_total{reason="memory_limit",type="query"}']


def test_what_a_quiet_tenant_has_cached_survives_the_flood_of_a_noisy_one(
    make_engine: StartEngine, tmp_path: Path
) -> None:
    limited = {"cluster": {"max_cache_memory_bytes": "6Mi"}}
    engine = make_engine(with_tenants(tmp_path / "keys") | limited).start()
    with as_caller(engine, "acme-key") as quiet, as_caller(engine, "globex-key") as noisy:
        fill(quiet, "docs", 17_000)  # more than a head takes
        add(quiet, "docs", range(20_000, 20_001))

        def indexed() -> int:
            count: int = quiet.get("/collections/docs").json()["result"]["indexed_vectors_count"]
            return count

        engine.wait_until(lambda: indexed() == 17_000, "indexing the sealed segment")
        fill(noisy, "docs", 600)
        for number in range(50):
            ask(quiet, "docs", number)
        held = used(engine)["acme"]

        flood(noisy, "docs", 130)

        assert evictions(engine) > 0
        assert used(engine)["acme"] == held
        assert held["by_cache"]["hnsw"] > 0 and held["by_cache"]["query"] > 0
        with as_caller(engine, "admin-key") as admin:
            before = lookups(admin)
            for number in range(50):
                ask(quiet, "docs", number)
            assert lookups(admin) == {"hit": before["hit"] + 50, "miss": before["miss"]}
        assert indexed() == 17_000


def test_a_tenant_stays_within_its_quota_and_goes_on_being_answered(
    make_engine: StartEngine, tmp_path: Path
) -> None:
    engine = make_engine(with_tenants(tmp_path / "keys", acme="1Mi")).start()
    with as_caller(engine, "acme-key") as acme:
        fill(acme, "docs", 600)
        flood(acme, "docs", 25)
        held = used(engine)["acme"]
        assert held["quota_bytes"] == 1024**2
        assert 0.5 * 1024**2 < held["used_bytes"] <= 1024**2
        assert evictions(engine) > 0

        ids = [*range(1, 10_001)]
        batch = {"ids": ids, "vectors": [[1, 1]] * len(ids)}
        refused = acme.put("/collections/docs/points", json={"batch": batch})
        assert refused.status_code == 422
        assert "the limit for this tenant is 1048576 bytes" in http_error(refused)
        assert refused.json()["details"]["violation"] == "tenants.members.memory_quota_bytes"
        for start in range(1, 12_000, 2_000):  # heads are sealed when the quota is reached
            add(acme, "docs", range(start, start + 2_000))
        assert acme.post("/collections/docs/points/count", json={}).json()["result"]["count"] == 12_000
        assert used(engine)["acme"]["used_bytes"] <= 1024**2


def test_the_data_of_a_tenant_that_is_taken_away_is_kept_and_out_of_reach(
    make_engine: StartEngine, tmp_path: Path
) -> None:
    config = with_tenants(tmp_path / "keys")
    engine = make_engine(config, covered=True).start()
    with as_caller(engine, "acme-key") as acme:
        fill(acme, "docs", 10)
    engine.kill()

    everything = engine.config_file.read_text()
    without = yaml.safe_load(everything)
    without["tenants"] = {"enabled": True, "members": [config["tenants"]["members"][1]]}
    engine.config_file.write_text(yaml.safe_dump(without))
    engine.start()
    assert "1 collection(s) of tenant 'acme' are kept and cannot be reached" in engine.log
    for key, status in {"acme-key": 401, "globex-key": 404, "admin-key": 404}.items():
        with as_caller(engine, key) as http:
            assert http.get("/collections/docs").status_code == status
    with as_caller(engine, "admin-key") as admin:
        assert 'tenant="acme"' not in admin.get("/metrics").text
    engine.kill()

    engine.config_file.write_text(everything)
    engine.start()
    with as_caller(engine, "acme-key") as acme:
        assert acme.post("/collections/docs/points/count", json={}).json()["result"]["count"] == 10


def test_a_server_with_a_wrong_tenant_does_not_start_and_says_why(tmp_path: Path) -> None:
    config = with_tenants(tmp_path / "keys", acme="2Gi")
    config["tenants"]["members"][1]["api_key_file"] = config["tenants"]["members"][0]["api_key_file"]
    engine = EngineProcess(tmp_path / "engine", config)
    engine.launch()
    assert engine.wait() == 1
    assert "tenants.members.0.memory_quota_bytes: 2147483648 bytes are more than" in engine.log
    assert (
        "tenants.members.1.api_key_file: holds the same key as tenants.members.0.api_key_file" in engine.log
    )
    assert "acme-key" not in engine.log.replace(str(tmp_path), "")
