"""Flipped bits in the files of a serving engine: said over HTTP and in the metrics, and the rest is served.

That every kind of file is noticed is `collection/test_bit_flips`'.
"""

from __future__ import annotations

from typing import Any

import httpx

from tests.engine.api.test_service import parse
from tests.engine.collection.test_bit_flips import flip
from tests.engine.fixtures import EngineProcess, StartEngine

SEALED = 300
"""Enough for a head at rest to become a segment."""

LATER = 10
NAMES = ("whole", "flipped", "lost")


def upsert(http: httpx.Client, name: str, ids: range) -> None:
    batch = {"ids": [*ids], "vectors": [[number, 1] for number in ids]}
    http.put(f"/collections/{name}/points", json={"batch": batch}).raise_for_status()


def info(http: httpx.Client, name: str) -> dict[str, Any]:
    result: dict[str, Any] = http.get(f"/collections/{name}").raise_for_status().json()["result"]
    return result


def nearest(http: httpx.Client, name: str) -> list[int]:
    query = {"query": [1, 0], "limit": 3}
    found = http.post(f"/collections/{name}/points/query", json=query).raise_for_status().json()["result"]
    return [hit["id"] for hit in found["points"]]


def damage(engine: EngineProcess, collection: str, file: str) -> None:
    """Flip a bit in the middle of the only *file* of that name."""
    [path] = (engine.data / "collections").glob(f"{collection}.*/**/{file}")
    flip(path, path.stat().st_size // 2)


def counts(http: httpx.Client) -> tuple[float, float, float]:
    """Quarantined segments, damaged collections, and collections that are served."""
    metrics = parse(http.get("/metrics").text)
    return (
        metrics["vectorizer_quarantined_segments"],
        metrics["vectorizer_damaged_collections"],
        metrics["vectorizer_collections"],
    )


def test_flipped_bits_are_told_with_the_file_and_counted_and_the_rest_is_served(
    make_engine: StartEngine,
) -> None:
    """Each collection has a segment, and a few points more in the log."""
    engine = make_engine()
    with engine.start().http() as http:
        for name in NAMES:
            vectors = {"size": 2, "distance": "Dot"}
            http.put(f"/collections/{name}", json={"vectors": vectors}).raise_for_status()
            upsert(http, name, range(SEALED))
        engine.wait_until(lambda: all(info(http, name)["layouts"] for name in NAMES), "sealed")
        for name in NAMES:
            upsert(http, name, range(SEALED, SEALED + LATER))
        assert counts(http) == (0, 0, 3)
    assert engine.stop() == 0
    damage(engine, "flipped", "vectors.f32")
    damage(engine, "lost", "MANIFEST")

    with engine.start().http() as http:
        flipped = info(http, "flipped")
        assert flipped["status"] == "red"
        [warning] = flipped["warnings"]
        assert f"with {SEALED} points was set aside" in warning["message"]
        assert "vectors.f32" in warning["message"]
        assert flipped["points_count"] == LATER
        assert nearest(http, "flipped") == [309, 308, 307]

        for refused in (
            http.get("/collections/lost"),
            http.put("/collections/lost/points", json={"points": [{"id": 1, "vector": [1, 1]}]}),
            http.post("/collections/lost/points/query", json={"query": [1, 0]}),
        ):
            assert refused.status_code == 500
            assert "collection 'lost' cannot be served" in refused.json()["status"]["error"]
            assert "MANIFEST" in refused.json()["status"]["error"]

        assert info(http, "whole")["status"] != "red"
        assert info(http, "whole")["points_count"] == SEALED + LATER
        assert nearest(http, "whole") == [309, 308, 307]

        assert counts(http) == (1, 1, 2)
