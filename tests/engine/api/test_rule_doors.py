"""CLUSTER_001 at every call that can make or change a collection, and at the data folder.

The calls come from the table of routes, so that a new one fails here until it says how it is asked for memory storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import httpx
import pytest

from tests.engine.fixtures import EngineProcess, StartEngine, running_engine
from vectorizer_engine.api.routes import ROUTES
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.distributed.store import DistributedStore

Call = tuple[str, str]

VECTORS = {"size": 4, "distance": "Cosine"}

ASKS: dict[Call, Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("PUT", "/collections/{collection}"): lambda vectors: {"vectors": VECTORS | vectors},
    ("PATCH", "/collections/{collection}"): lambda vectors: {"vectors": {"": vectors}},
}
"""For each call that can make or change a collection, the body that asks for vectors of a kind."""

VIOLATIONS: dict[str, tuple[dict[str, Any], str, Any, Any, str]] = {
    "on-disk": ({"on_disk": False}, "vectors.on_disk", False, True, "true"),
    "pinned": ({"memory": "pinned"}, "vectors.memory", "pinned", "cold", '"cold"'),
    "cached": ({"memory": "cached"}, "vectors.memory", "cached", "cold", '"cold"'),
    "on-disk-but-pinned": (
        {"on_disk": True, "memory": "pinned"},
        "vectors.memory",
        "pinned",
        "cold",
        '"cold"',
    ),
}
"""What is asked for, and of the answer: path, current value, required value, the fix's value."""

MAKING = {"create_collection"}
"""The store's methods that make or replace a collection, or change what it is."""

NOT_MAKING = {
    "open", "damaged", "delete_collection", "collection", "collections", "collections_of", "identity", "close",
    "describe", "is_needed", "leaving", "not_ready", "refresh", "serves", "waiting",
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with running_engine(
        tmp_path_factory.mktemp("cluster"), {"cluster": {"enabled": True}}, covered=True
    ) as engine:
        with engine.http() as http:
            http.put("/collections/there", json={"vectors": VECTORS}).raise_for_status()
        yield engine


def test_every_call_that_can_make_a_collection_is_in_the_table() -> None:
    assert {(route.method, route.pattern) for route in ROUTES if route.makes_collections} == ASKS.keys()


def test_every_call_that_reaches_a_making_method_of_the_store_is_marked() -> None:
    public = {name for store in (VectorStore, DistributedStore) for name in vars(store) if name[0] != "_"}
    assert public <= MAKING | NOT_MAKING, "say of a new method of the store whether it makes collections"
    for route in ROUTES:
        if MAKING & names_used_by(route.handler):
            assert route.makes_collections, f"{route.method} {route.pattern} is not marked as a door"


def names_used_by(function: Any) -> set[str]:
    """The names in a function, and in those of the API that it calls."""
    seen: set[FunctionType] = set()
    waiting = [function]
    names: set[str] = set()
    while waiting:
        each = waiting.pop()
        seen.add(each)
        used = set(each.__code__.co_names)
        names |= used
        inner = (each.__globals__.get(name) for name in used)
        waiting += [
            found
            for found in inner
            if isinstance(found, FunctionType) and "engine.api." in found.__module__ and found not in seen
        ]
    return names


@pytest.mark.parametrize("violation", VIOLATIONS)
@pytest.mark.parametrize("call", ASKS, ids=" ".join)
def test_a_cluster_refuses_memory_storage_with_the_same_body_everywhere(
    cluster: EngineProcess, call: Call, violation: str
) -> None:
    method, pattern = call
    vectors, path, current, required, fix_value = VIOLATIONS[violation]
    name = "new" if method == "PUT" else "there"
    with cluster.http() as http:
        answer = http.request(method, pattern.format(collection=name), json=ASKS[call](vectors))
        collections = http.get("/collections").json()["result"]["collections"]
    body = answer.json()
    shown = "false" if current is False else f'"{current}"'
    message = (
        f"CLUSTER_001: {path} is {shown}, but a cluster keeps its vectors in memory-mapped files: "
        f"set {path} to {fix_value} or leave it out"
    )
    assert answer.status_code == 422
    assert body.pop("time") >= 0
    assert body == {
        "status": {"error": message},
        "error": "ClusterConfigViolation",
        "message": message,
        "code": "CLUSTER_001",
        "details": {
            "violation": path,
            "current_value": current,
            "required_value": required,
            "fix": f"set {path} to {fix_value} or leave it out",
        },
    }
    assert collections == [{"name": "there"}]


def test_each_refusal_is_counted(make_engine: StartEngine) -> None:
    with make_engine({"cluster": {"enabled": True}}).start().http() as http:
        http.put("/collections/new", json={"vectors": VECTORS | {"on_disk": False}})
        http.put("/collections/new", json={"vectors": VECTORS | {"on_disk": False, "memory": "pinned"}})
        metrics = http.get("/metrics").text
    assert 'vectorizer_cluster_config_violations_total{type="ClusterConfigViolation"} 3.0' in metrics


def test_in_a_cluster_unset_storage_is_mapped(cluster: EngineProcess) -> None:
    with cluster.http() as http:
        assert storage_shown(http, "there") == {"on_disk": True}
        assert http.get("/cluster/memory").json()["result"]["memory_storage_bytes"] == 0


def test_data_in_memory_storage_is_not_served_in_cluster_mode(make_engine: StartEngine) -> None:
    standalone = make_engine({"storage": {"type": "memory"}}).start()
    with standalone.http() as http:
        http.put("/collections/a", json={"vectors": VECTORS})
        http.put("/collections/b", json={"vectors": VECTORS | {"on_disk": True}})
        http.put("/collections/c", json={"vectors": VECTORS})
    standalone.kill()
    before = contents(standalone.data)

    refused = make_engine({"storage": {"path": str(standalone.data)}, "cluster": {"enabled": True}})
    refused.launch()

    assert refused.wait() == 1
    for name in ("a", "c"):
        assert (
            f"CLUSTER_001: the storage of collection '{name}' is \"memory\", but a cluster keeps its vectors in "
            "memory-mapped files: run vectorizer --migrate-to-cluster --config FILE (docs/users/MIGRATION.md), or set "
            "cluster.enabled to false"
        ) in refused.log
    assert "collection 'b'" not in refused.log
    assert "Traceback" not in refused.log
    assert contents(standalone.data) == before


def test_data_in_memory_storage_is_served_where_the_validation_is_skipped(make_engine: StartEngine) -> None:
    standalone = make_engine({"storage": {"type": "memory"}}).start()
    with standalone.http() as http:
        http.put("/collections/a", json={"vectors": VECTORS})
    standalone.kill()

    unsafe = make_engine(
        {"storage": {"path": str(standalone.data)}, "cluster": {"enabled": True}},
        arguments=("--skip-cluster-validation",),
    ).start()

    with unsafe.http() as http:
        assert storage_shown(http, "a") == {"on_disk": False}
        refused = http.put("/collections/b", json={"vectors": VECTORS | {"on_disk": False}})
        assert refused.status_code == 422


def storage_shown(http: httpx.Client, name: str) -> dict[str, Any]:
    vectors = http.get(f"/collections/{name}").json()["result"]["config"]["params"]["vectors"]
    return {key: value for key, value in vectors.items() if key not in VECTORS}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
