"""What a collection should hold: a dictionary, and the plainest search over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance, PointId
from vectorizer_engine.storage.files import Files

MiB = 1024**2

SMALL = ShardLimits(head_points=8, head_bytes=MiB, log_bytes=4096, sealing_heads=2, segment_points=200)
"""Heads and segments so small that a few writes go through sealing and merging."""

RESTLESS = replace(SMALL, quiet_seconds=0.02, quiet_head_points=3)
"""So hasty that a pause between two writes is a rest."""

Points = dict[PointId, tuple[np.ndarray, dict[str, Any]]]


def open_store(path: Path, *, limits: ShardLimits = SMALL, files: Files | None = None) -> VectorStore:
    return VectorStore.open(path, memory=CacheMemoryManager(16 * MiB), files=files, limits=limits)


def params(dimension: int = 4, distance: Distance = Distance.DOT) -> CollectionParams:
    return CollectionParams(dimension, distance)


def vectors_of(seeds: list[int], dimension: int = 4) -> np.ndarray:
    """A vector for each seed, always the same one."""
    return np.array(
        [np.random.default_rng(seed).standard_normal(dimension) for seed in seeds], np.float32
    ).reshape(len(seeds), dimension)


def everything(collection: Collection) -> Points:
    """All that a collection gives back, page by page."""
    points: Points = {}
    start: PointId | None = None
    while True:
        page, start = collection.scroll(start=start, limit=7)
        for record in page:
            assert record.id not in points, "a scroll shows a point once"
            assert record.vector is not None
            assert record.payload is not None
            points[record.id] = (record.vector, record.payload)
        if start is None:
            return points


def scores(query: np.ndarray, rows: np.ndarray, distance: Distance) -> np.ndarray:
    """Qdrant's scores, in double precision."""
    query, rows = query.astype(np.float64), rows.astype(np.float64)
    match distance:
        case Distance.COSINE:
            return rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
        case Distance.DOT:
            return rows @ query
        case Distance.EUCLID:
            return np.linalg.norm(rows - query, axis=1)
        case Distance.MANHATTAN:
            return np.abs(rows - query).sum(axis=1)


def assert_same(found: Points, expected: Points) -> None:
    assert found.keys() == expected.keys()
    for point, (vector, payload) in expected.items():
        np.testing.assert_array_equal(found[point][0], vector)
        assert found[point][1] == payload
