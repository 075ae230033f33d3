"""Indexes move with their shards: whoever takes one over searches with the index that was built before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.distributed.pods import Pods
from tests.kube.eventually import eventually

POINTS, DIMENSION = 5000, 8


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    """Two, of which the first has a collection of one shard, all of it indexed in the store."""
    pods = Pods(tmp_path, 2, covered=True)
    try:
        pods.launch()
        pods.publish(0, to=(0, 1))
        pods.wait_until_ready(0)
        fill(pods)
        eventually(lambda: list((tmp_path / "store").glob("collections/*/*/segments/*/index.*")), seconds=60)
        yield pods
    finally:
        pods.close()


def fill(pods: Pods) -> None:
    vectors = np.random.default_rng(0).standard_normal((POINTS, DIMENSION)).round(3)
    with pods[0].http() as http:
        params = {"vectors": {"size": DIMENSION, "distance": "Dot"}, "shard_number": 1}
        http.put("/collections/docs", json=params).raise_for_status()
        for first in range(0, POINTS, 1000):
            points = [{"id": each, "vector": vectors[each].tolist()} for each in range(first, first + 1000)]
            http.put("/collections/docs/points?wait=true", json={"points": points}).raise_for_status()


def layouts(pods: Pods, number: int) -> list[dict[str, Any]]:
    with pods[number].http() as http:
        result = http.get("/collections/docs").raise_for_status().json()["result"]
    found: list[dict[str, Any]] = result["layouts"]
    return found


def assert_searched_with_what_was_built_before(pods: Pods) -> None:
    """What says so is the reason: an index that was built here has another."""
    assert [each["layout"] for each in layouts(pods, 1)] == ["hnsw-sq8"]
    assert [each["reason"] for each in layouts(pods, 1)] == [
        f"the index of {POINTS} vectors was built before"
    ]


def test_who_takes_over_from_a_pod_that_was_killed_has_its_index_at_once(pods: Pods) -> None:
    pods[0].kill()
    pods.publish(1)
    pods.wait_until_ready(1)
    assert_searched_with_what_was_built_before(pods)


def test_who_is_handed_a_shard_has_its_index_at_once(pods: Pods) -> None:
    pods.publish(1, to=(0, 1))
    pods.wait_until_moved(0, 1)
    assert_searched_with_what_was_built_before(pods)
