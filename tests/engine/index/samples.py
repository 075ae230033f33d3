"""Vectors to index: seeded ones with neighbourhoods, and the real ones of the examples."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from vectorizer_engine.index import backends, quantized, rabitq
from vectorizer_engine.index.base import Distance, Hits, Mask, Vectors
from vectorizer_engine.index.flat import FlatIndex
from vectorizer_engine.storage.files import Files

EXAMPLES = Path(__file__).parents[3] / "examples/data"

BACKENDS = {layout.value: (backend.build, backend.open) for layout, backend in backends.BACKENDS.items()}

AnyIndex = quantized.QuantizedIndex | rabitq.RabitqIndex


@cache
def clustered(count: int, dimension: int, *, seed: int = 0) -> Vectors:
    """Points around a few hundred centres, in no order: neighbours exist, as in real embeddings."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((200, dimension))
    points = centres[random.integers(len(centres), size=count)] + 0.5 * random.standard_normal(
        (count, dimension)
    )
    return np.ascontiguousarray(points, np.float32)


def unit(vectors: Vectors) -> Vectors:
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@cache
def real_vectors() -> Vectors:
    return unit(np.load(EXAMPLES / "packages.f16.npy").astype(np.float32))


def prepared(vectors: Vectors, distance: Distance) -> Vectors:
    """As a collection stores them: cosine vectors have length 1."""
    return unit(vectors) if distance is Distance.COSINE else vectors


def open_index(backend: str, path: Path, vectors: Vectors, distance: Distance) -> AnyIndex:
    build, index = BACKENDS[backend]
    build(path, vectors, distance, threads=2, files=Files())
    return index(path, vectors, distance)


def exact(
    vectors: Vectors, distance: Distance, queries: Vectors, limit: int, mask: Mask | None = None
) -> list[Hits]:
    return FlatIndex(vectors, distance).search(queries, limit, mask=mask)


def recall(found: list[Hits], true: list[Hits]) -> float:
    """The share of the true neighbours that were found."""
    shares = [np.isin(t.offsets, f.offsets).mean() for f, t in zip(found, true, strict=True)]
    return float(np.mean(shares))


def bitmask(allowed: np.ndarray) -> Mask:
    return np.packbits(allowed, bitorder="little")
