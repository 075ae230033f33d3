"""Whatever a client sends, the engine answers in Qdrant's envelope and never fails itself."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorizer_engine.api.app import Application
from vectorizer_engine.api.bodies import RequestBudget
from vectorizer_engine.api.call import Engine
from vectorizer_engine.api.routes import ROUTES
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.config import Config
from vectorizer_engine.metrics import Metrics

FIELDS = st.sampled_from(
    re.findall(
        r"\w+",
        """vectors size distance on_disk points batch ids payloads id vector payload filter must should must_not
    min_should conditions min_count key match value any except text range gte lt values_count is_empty is_null
    has_id nested with_payload with_vector include exclude limit offset params exact hnsw_ef score_threshold
    query nearest searches keys wait shard_key using prefetch""",
    )
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "a", "a.b", "a[]", "Cosine", "2024-06-15", "12345678-1234-5678-1234-567812345678"]),
    st.text(max_size=5),
)
VECTORS = st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2)
JSON = st.recursive(
    SCALARS | VECTORS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.one_of(
    st.dictionaries(FIELDS, JSON, max_size=5).map(lambda body: json.dumps(body).encode()),
    st.builds(
        lambda filter_, limit: json.dumps({"filter": filter_, "limit": limit, "query": [1, 0]}).encode(),
        st.dictionaries(st.sampled_from(["must", "should", "must_not"]), JSON, max_size=2),
        st.integers(-1, 20),
    ),
    st.builds(
        lambda points: json.dumps({"points": points}).encode(),
        st.lists(st.fixed_dictionaries({"id": SCALARS, "vector": VECTORS, "payload": JSON}), max_size=3),
    ),
    st.binary(max_size=30),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.AsyncClient]:
    """An application over a store of its own; errors that it does not expect come out as they are."""
    memory = CacheMemoryManager(64 * 2**20)
    store = VectorStore.open(tmp_path_factory.mktemp("fuzz"), memory=memory)
    store.create_collection("c", CollectionParams(2, Distance.COSINE))
    engine = Engine(
        config=Config(),
        memory=memory,
        metrics=Metrics(),
        request_memory=RequestBudget(2**20),
        member_memory=RequestBudget(2**20),
        recovered=store,
    )
    application: Any = Application(engine)
    yield httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://engine")
    application.close()
    store.close()


@settings(max_examples=300, deadline=None)
@given(route=st.sampled_from(ROUTES), body=BODIES, identifier=st.sampled_from(["1", "x", "-1", "%00"]))
def test_no_body_makes_the_engine_fail(
    client: httpx.AsyncClient, route: Any, body: bytes, identifier: str
) -> None:
    if (route.method, route.pattern) == ("DELETE", "/collections/{collection}"):
        return
    path = route.pattern.replace("{collection}", "c").replace("{id}", identifier)

    answer = asyncio.run(_request(client, route.method, path, body))

    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["status"]["error"]


async def _request(client: httpx.AsyncClient, method: str, path: str, body: bytes) -> httpx.Response:
    return await client.request(method, path, content=body)


def test_a_client_that_invents_paths_and_values_adds_no_series_to_the_metrics(
    client: httpx.AsyncClient,
) -> None:
    async def series(rounds: int) -> int:
        for i in range(rounds):
            await client.get(f"/{i}/{i}")
            await client.get(f"/collections/c{i}")
            await client.request(f"M{i}", "/collections")
        return (await client.get("/metrics")).text.count("\n")

    async def grown() -> tuple[int, int]:
        await series(1)
        return await series(1), await series(50)

    before, after = asyncio.run(grown())
    assert before == after
