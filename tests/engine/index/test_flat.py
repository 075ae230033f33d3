"""Exact search finds what comparing by numpy finds, whether a mask allows much or next to nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.collection.model import scores
from tests.engine.index.samples import bitmask, clustered, prepared
from vectorizer_engine.index.base import Distance
from vectorizer_engine.index.flat import FlatIndex

COUNT, DIMENSION, LIMIT = 2000, 24, 10


@pytest.mark.parametrize("distance", Distance)
@pytest.mark.parametrize("allowed", [0, 1, 7, 30, 31, 32, 400, COUNT])
def test_the_nearest_of_what_a_mask_allows_are_found(distance: Distance, allowed: int) -> None:
    vectors = prepared(clustered(COUNT, DIMENSION), distance)
    queries = prepared(clustered(25, DIMENSION, seed=5), distance)
    rows = np.sort(np.random.default_rng(allowed).permutation(COUNT)[:allowed])
    mask = np.zeros(COUNT, bool)
    mask[rows] = True

    found = FlatIndex(vectors, distance).search(queries, LIMIT, mask=bitmask(mask))

    assert len(found) == len(queries)
    for query, hits in zip(queries, found, strict=True):
        expected = scores(query, vectors[rows], distance)
        order = np.argsort(-expected if distance.larger_is_closer else expected, kind="stable")[:LIMIT]
        np.testing.assert_array_equal(hits.offsets, rows[order])
        np.testing.assert_allclose(hits.scores, expected[order], rtol=1e-4, atol=1e-5)
