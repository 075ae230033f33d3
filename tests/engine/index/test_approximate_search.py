"""What both approximate indexes promise: nearly the true neighbours, with exact scores, whatever is asked for."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.engine.index.samples import (
    BACKENDS,
    AnyIndex,
    bitmask,
    clustered,
    exact,
    open_index,
    prepared,
    real_vectors,
    recall,
    unit,
)
from vectorizer_engine.index import quantized, rabitq
from vectorizer_engine.index.base import Distance
from vectorizer_engine.index.faiss_file import FileLayout, IndexShape, faiss_body, write_index_file
from vectorizer_engine.index.native import faiss
from vectorizer_engine.index.rescoring import rescore
from vectorizer_engine.storage.files import Files

COUNT, DIMENSION = 6000, 48
INDEXED = (Distance.COSINE, Distance.DOT, Distance.EUCLID)

backends = pytest.mark.parametrize("backend", BACKENDS)
distances = pytest.mark.parametrize("distance", INDEXED)


@pytest.fixture(
    scope="module", params=[(b, d) for b in BACKENDS for d in INDEXED], ids=lambda p: f"{p[0]}-{p[1]}"
)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AnyIndex, Distance]:
    backend, distance = request.param
    path = tmp_path_factory.mktemp("index") / "index"
    return open_index(backend, path, vectors_for(distance), distance), distance


def vectors_for(distance: Distance) -> np.ndarray:
    return prepared(clustered(COUNT, DIMENSION), distance)


def queries_for(distance: Distance, count: int = 50) -> np.ndarray:
    return prepared(clustered(count, DIMENSION), distance) + np.float32(0.01)


def test_most_of_the_true_neighbours_are_found(case: tuple[AnyIndex, Distance]) -> None:
    index, distance = case
    queries = queries_for(distance)
    found = index.search(queries, 10)
    assert recall(found, exact(vectors_for(distance), distance, queries, 10)) >= 0.96


@backends
def test_real_embeddings_are_found_again_by_their_neighbours(backend: str, tmp_path: Path) -> None:
    vectors, queries = real_vectors()[200:], real_vectors()[:200]
    index = open_index(backend, tmp_path / "index", vectors, Distance.COSINE)
    assert recall(index.search(queries, 10), exact(vectors, Distance.COSINE, queries, 10)) >= 0.96


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e15])
def test_inner_products_are_found_whatever_size_the_values_have(tmp_path: Path, factor: float) -> None:
    vectors = clustered(COUNT, DIMENSION) * np.float32(factor)
    queries = clustered(50, DIMENSION) + np.float32(0.01)
    index = open_index("hnsw-sq8", tmp_path / "index", vectors, Distance.DOT)
    assert recall(index.search(queries, 10), exact(vectors, Distance.DOT, queries, 10)) >= 0.96


def test_a_query_of_zeros_is_answered(tmp_path: Path) -> None:
    vectors = clustered(COUNT, DIMENSION)
    index = open_index("hnsw-sq8", tmp_path / "index", vectors, Distance.DOT)
    (hits,) = index.search(np.zeros((1, DIMENSION), np.float32), 10)
    assert hits.scores.tolist() == [0] * 10


def test_an_index_with_float_codes_as_earlier_versions_wrote_is_searched(tmp_path: Path) -> None:
    vectors = vectors_for(Distance.COSINE)
    written = faiss.IndexHNSWSQ(DIMENSION, faiss.ScalarQuantizer.QT_8bit, 16, faiss.METRIC_INNER_PRODUCT)
    written.train(vectors)
    written.add(vectors)
    shape = IndexShape(FileLayout.HNSW_SQ8, Distance.COSINE, DIMENSION, COUNT)
    write_index_file(tmp_path / "index", faiss_body(written), shape, recipe=bytes(8), files=Files())
    index = quantized.QuantizedIndex(tmp_path / "index", vectors, Distance.COSINE)
    queries = queries_for(Distance.COSINE)
    assert recall(index.search(queries, 10), exact(vectors, Distance.COSINE, queries, 10)) >= 0.96


def test_scores_are_those_of_exact_search_and_in_its_order(case: tuple[AnyIndex, Distance]) -> None:
    index, distance = case
    vectors = vectors_for(distance)
    queries = queries_for(distance, 5)
    for query, hits in zip(queries, index.search(queries, 10), strict=True):
        chosen = vectors[hits.offsets].astype(np.float64)
        expected = np.linalg.norm(chosen - query, axis=1) if distance is Distance.EUCLID else chosen @ query
        np.testing.assert_allclose(hits.scores, expected, rtol=1e-4, atol=1e-4)
        farness = -hits.scores if distance.larger_is_closer else hits.scores
        assert (np.diff(farness) >= 0).all()


@pytest.mark.parametrize("share", [0.7, 0.3, 0.1, 0.02])
@pytest.mark.parametrize("together", [False, True], ids=["spread", "together"])
def test_a_mask_limits_the_answer_and_keeps_its_recall(
    case: tuple[AnyIndex, Distance], share: float, together: bool
) -> None:
    index, distance = case
    vectors = vectors_for(distance)
    closeness = vectors @ vectors[0] if together else np.random.default_rng(1).random(COUNT)
    allowed = closeness >= np.quantile(closeness, 1 - share)
    queries = queries_for(distance)
    found = index.search(queries, 10, mask=bitmask(allowed))
    assert all(allowed[hits.offsets].all() for hits in found)
    assert recall(found, exact(vectors, distance, queries, 10, bitmask(allowed))) >= 0.95


def test_there_are_as_many_hits_as_vectors_where_more_are_asked_for(case: tuple[AnyIndex, Distance]) -> None:
    index, distance = case
    (hits,) = index.search(queries_for(distance, 1), COUNT + 5)
    assert sorted(hits.offsets) == list(range(COUNT))


def test_there_are_as_many_hits_as_the_mask_allows(case: tuple[AnyIndex, Distance]) -> None:
    index, distance = case
    allowed = np.zeros(COUNT, bool)
    allowed[[3, 5000, 77]] = True
    (hits,) = index.search(queries_for(distance, 1), 10, mask=bitmask(allowed))
    assert sorted(hits.offsets) == [3, 77, 5000]


def test_a_mask_that_allows_nothing_finds_nothing(case: tuple[AnyIndex, Distance]) -> None:
    index, distance = case
    (hits,) = index.search(queries_for(distance, 1), 10, mask=bitmask(np.zeros(COUNT, bool)))
    assert len(hits.offsets) == len(hits.scores) == 0


def test_a_batch_is_answered_as_its_queries_one_by_one(case: tuple[AnyIndex, Distance]) -> None:
    index, distance = case
    queries = queries_for(distance, 30)
    together = index.search(queries, 10)
    for row, hits in enumerate(together):
        (alone,) = index.search(queries[row : row + 1], 10)
        np.testing.assert_array_equal(alone.offsets, hits.offsets)


def test_threads_that_search_at_once_get_their_own_answers(case: tuple[AnyIndex, Distance]) -> None:
    index, distance = case
    queries = queries_for(distance)
    mask = bitmask(np.arange(COUNT) % 2 == 0)
    alone = [[hits.offsets.tolist() for hits in index.search(queries, 10, mask=m)] for m in (None, mask)]
    wrong: list[int] = []

    def work(number: int) -> None:
        m = (None, mask)[number % 2]
        for row in np.random.default_rng(number).permutation(len(queries)).tolist():
            (hits,) = index.search(queries[row : row + 1], 10, mask=m)
            if hits.offsets.tolist() != alone[number % 2][row]:
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@backends
@distances
def test_equal_vectors_come_in_the_order_of_their_offsets(
    backend: str, distance: Distance, tmp_path: Path
) -> None:
    """Candidates may hold any of the many equals; those that are in an answer are ordered."""
    vectors = vectors_for(distance).copy()
    same = np.arange(0, COUNT, 600)
    vectors[same] = vectors[0]
    index = open_index(backend, tmp_path / "index", vectors, distance)
    (hits,) = index.search(vectors[:1] * np.float32(1), len(same))
    if distance is not Distance.DOT:  # a longer vector may have a larger product
        assert hits.offsets.tolist() == same.tolist()
    ties = np.flatnonzero(np.diff(hits.scores) == 0)
    assert (hits.offsets[ties] < hits.offsets[ties + 1]).all()


@backends
def test_a_handful_of_vectors_can_be_indexed(backend: str, tmp_path: Path) -> None:
    for count in (1, 2, 17):
        vectors = unit(clustered(count, DIMENSION))
        index = open_index(backend, tmp_path / f"index-{count}", vectors, Distance.COSINE)
        (hits,) = index.search(vectors[-1:], 5)
        assert hits.offsets[0] == count - 1
        assert len(hits.offsets) == min(5, count)


@backends
def test_vectors_that_are_all_equal_can_be_indexed(backend: str, tmp_path: Path) -> None:
    vectors = np.tile(unit(clustered(1, DIMENSION)), (COUNT, 1))
    index = open_index(backend, tmp_path / "index", vectors, Distance.COSINE)
    (hits,) = index.search(vectors[:1], 10)
    assert len(set(hits.offsets.tolist())) == 10
    np.testing.assert_allclose(hits.scores, 1, rtol=1e-5)


def test_a_larger_ef_finds_more(tmp_path: Path) -> None:
    vectors = np.random.default_rng(5).standard_normal((10_000, 32), np.float32)
    queries = np.random.default_rng(6).standard_normal((100, 32), np.float32)
    index = open_index("hnsw-sq8", tmp_path / "index", vectors, Distance.EUCLID)
    true = exact(vectors, Distance.EUCLID, queries, 10)
    assert isinstance(index, quantized.QuantizedIndex)
    low, high = (recall(index.search(queries, 10, ef=ef), true) for ef in (20, 100))
    assert high > low + 0.1


def test_manhattan_has_no_approximate_index() -> None:
    for backend in (quantized, rabitq):
        assert {d for d in Distance if backend.supports(d)} == set(INDEXED)


def test_little_that_is_allowed_is_scanned_and_much_is_searched_with_a_wider_ef() -> None:
    count = 67_431
    assert quantized.effective_ef(64, 10, allowed=count, count=count) == 64
    assert quantized.effective_ef(64, 10, allowed=count // 2, count=count) == 129
    assert quantized.effective_ef(64, 10, allowed=count // 50, count=count) is None
    assert quantized.effective_ef(64, 10, allowed=0, count=count) is None
    assert quantized.effective_ef(64, 100, allowed=count, count=count) == 200
    assert quantized.effective_ef(64, 5000, allowed=count, count=count) is None


def test_candidates_that_are_missing_are_left_out() -> None:
    vectors = unit(clustered(10, 8))
    candidates = np.array([[4, -1, 2, -1], [-1, -1, -1, -1]], np.int64)
    first, second = rescore(vectors, Distance.COSINE, vectors[[4, 2]], candidates, 3)
    assert first.offsets.tolist() == [4, 2]
    assert second.offsets.tolist() == []


def test_a_query_that_the_lists_lead_nowhere_is_answered_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = vectors_for(Distance.COSINE)
    index = open_index("ivf-rabitq", tmp_path / "index", vectors, Distance.COSINE)
    monkeypatch.setattr(index, "_candidates", lambda queries, *_: np.full((len(queries), 20), -1, np.int64))
    queries = queries_for(Distance.COSINE, 3)
    for found, true in zip(
        index.search(queries, 10), exact(vectors, Distance.COSINE, queries, 10), strict=True
    ):
        assert found.offsets.tolist() == true.offsets.tolist()
