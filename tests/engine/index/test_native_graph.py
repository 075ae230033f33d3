"""Our search of a faiss graph finds what faiss' own finds, on every kind of processor, and survives any file.

faiss leaves to chance which of two nodes with equal codes it keeps or looks at first, so graphs in which a query is as
far from two nodes are left out where answers have to be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.engine.index.samples import bitmask, clustered, exact, prepared, recall
from vectorizer_engine._native import VARIANTS, Graph
from vectorizer_engine.index import quantized
from vectorizer_engine.index.base import Distance, Hits, Mask, Vectors
from vectorizer_engine.index.native import faiss
from vectorizer_engine.index.rescoring import rescore
from vectorizer_engine.storage.files import Files

INDEXED = (Distance.COSINE, Distance.DOT, Distance.EUCLID)

ROUNDING = 2e-6
"""What sums of floats in another order may differ by, of the sum."""

variants = pytest.mark.parametrize("variant", range(VARIANTS))


@dataclass(frozen=True)
class Built:
    """An index as faiss wrote it, and what it is of."""

    body: bytes
    vectors: Vectors
    distance: Distance
    codes: Any

    def graph(self, variant: int = 0) -> Graph:
        return Graph(self.body, self.vectors, *self.vectors.shape, self.distance is Distance.EUCLID, variant)

    @property
    def faiss(self) -> Any:
        return faiss.deserialize_index(np.frombuffer(self.body, np.uint8))


def built(folder: Path, vectors: Vectors, distance: Distance, codes: Any = None) -> Built:
    """With *codes* (a faiss number) as the first format had them, else as they are built now."""
    if codes is None:
        path = folder / "index"
        path.unlink(missing_ok=True)
        quantized.build(path, vectors, distance, threads=1, files=Files())
        return Built(path.read_bytes()[4096:], vectors, distance, codes)
    metric = faiss.METRIC_L2 if distance is Distance.EUCLID else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWSQ(vectors.shape[1], codes, 16, metric)
    index.train(vectors)
    index.add(vectors)
    return Built(faiss.serialize_index(index).tobytes(), vectors, distance, codes)


def ours(
    index: Built, queries: Vectors, limit: int, ef: int, mask: Mask | None = None, variant: int = 0
) -> list[Hits]:
    offsets = np.empty((len(queries), limit), np.int64)
    scores = np.empty((len(queries), limit), np.float32)
    found = np.empty(len(queries), np.int32)
    index.graph(variant).search(queries, limit, 2 * limit, ef, mask, offsets, scores, found)
    return [Hits(offsets[row, :n], scores[row, :n]) for row, n in enumerate(found)]


def faiss_own(index: Built, queries: Vectors, limit: int, ef: int, mask: Mask | None = None) -> list[Hits]:
    parameters = faiss.SearchParametersHNSW(efSearch=ef)
    if mask is not None:
        selector = faiss.IDSelectorBitmap(len(index.vectors), faiss.swig_ptr(mask))
        parameters = faiss.SearchParametersHNSW(efSearch=ef, sel=selector)
    asked = queries if index.distance is Distance.EUCLID or index.codes is not None else scaled(queries)
    _, candidates = index.faiss.search(asked, 2 * limit, params=parameters)
    return rescore(index.vectors, index.distance, queries, candidates, limit)


def scaled(queries: Vectors) -> Vectors:
    return np.rint(queries * (np.float32(127) / np.abs(queries).max(axis=1, keepdims=True)))


def codes_of(index: Built) -> np.ndarray:
    return index.faiss.reconstruct_n(0, len(index.vectors))


def has_ties(index: Built, queries: Vectors) -> bool:
    codes = codes_of(index)
    for query in queries if index.distance is Distance.EUCLID else scaled(queries):
        values = ((codes - query) ** 2).sum(axis=1) if index.distance is Distance.EUCLID else codes @ query
        if np.diff(np.sort(values)).min(initial=np.inf) <= ROUNDING * np.abs(values).max():
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_answers_are_those_of_faiss_for_any_graph_filter_and_ef(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    distance = data.draw(st.sampled_from(INDEXED))
    count = data.draw(st.integers(1, 200))
    dimension = data.draw(st.integers(200, 400))
    limit = data.draw(st.integers(1, 20))
    ef = data.draw(st.integers(2 * limit, 80))  # as wide as its candidates at least: see `effective_ef`
    variant = data.draw(st.integers(0, VARIANTS - 1))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors = prepared(random.standard_normal((count, dimension), np.float32), distance)
    queries = prepared(random.standard_normal((1, dimension), np.float32), distance)
    index = built(tmp_path_factory.mktemp("graph"), vectors, distance)
    assume(not has_ties(index, queries))
    allowed = data.draw(st.none() | st.floats(0, 1))
    mask = None if allowed is None else bitmask(random.random(count) < allowed)
    [found], [expected] = (
        ours(index, queries, limit, ef, mask, variant),
        faiss_own(index, queries, limit, ef, mask),
    )
    assert found.offsets.tolist() == expected.offsets.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("distance", INDEXED)
def test_a_large_graph_is_searched_as_by_faiss(distance: Distance, tmp_path: Path) -> None:
    everything = prepared(clustered(8200, 99), distance)
    vectors, queries = everything[:8000], everything[8000:]
    index = built(tmp_path, np.ascontiguousarray(vectors), distance)
    true = exact(vectors, distance, queries, 10)
    for share in (None, 0.5):
        mask = None if share is None else bitmask(np.random.default_rng(0).random(8000) < share)
        expected = faiss_own(index, queries, 10, 64, mask)
        for variant in range(VARIANTS):
            found = ours(index, queries, 10, 64, mask, variant)
            same = np.mean(
                [a.offsets.tolist() == b.offsets.tolist() for a, b in zip(found, expected, strict=True)]
            )
            assert same >= 0.98, "few queries are as far from two nodes at the edge of what is looked at"
            if mask is None:
                assert abs(recall(found, true) - recall(expected, true)) <= 0.002


@variants
def test_codes_of_the_first_format_are_searched_too(variant: int, tmp_path: Path) -> None:
    """Inner products over codes with ranges, which are built for Euclid only by now."""
    everything = prepared(clustered(3100, 70), Distance.COSINE)
    vectors, queries = np.ascontiguousarray(everything[:3000]), everything[3000:]
    index = built(tmp_path, vectors, Distance.COSINE, codes=faiss.ScalarQuantizer.QT_8bit)
    found, expected = ours(index, queries, 10, 64, variant=variant), faiss_own(index, queries, 10, 64)
    same = np.mean([a.offsets.tolist() == b.offsets.tolist() for a, b in zip(found, expected, strict=True)])
    assert same >= 0.97


def test_many_queries_at_once_are_answered_like_each_alone(tmp_path: Path) -> None:
    everything = prepared(clustered(2050, 32), Distance.COSINE)
    vectors, queries = np.ascontiguousarray(everything[:2000]), everything[2000:]
    index = built(tmp_path, vectors, Distance.COSINE)
    together = ours(index, queries, 10, 64)
    for row, hits in enumerate(together):
        [alone] = ours(index, queries[row : row + 1], 10, 64)
        assert alone.offsets.tolist() == hits.offsets.tolist()
        assert alone.scores.tolist() == hits.scores.tolist()


def links_at(body: bytes) -> tuple[int, int]:
    """Where the links are in *body*, and how many there are: behind four arrays, each after its length."""
    at = 4 + 33
    for size in (8, 4, 4, 8):
        at += 8 + size * int.from_bytes(body[at : at + 8], "little")
    return at + 8, int.from_bytes(body[at : at + 8], "little")


def test_a_query_that_the_graph_leads_nowhere_is_answered_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph may hold parts that no link leads to; which ones is chance, so here there are no links."""
    vectors, queries = (
        prepared(clustered(6000, 16), Distance.COSINE),
        prepared(clustered(3, 16), Distance.COSINE),
    )
    index = built(tmp_path, vectors, Distance.COSINE)
    opened = quantized.QuantizedIndex(tmp_path / "index", vectors, Distance.COSINE)
    start, count = links_at(index.body)
    without_links = index.body[:start] + b"\xff" * 4 * count + index.body[start + 4 * count :]
    monkeypatch.setattr(opened, "_graph", Graph(without_links, vectors, *vectors.shape, False))
    for found, true in zip(
        opened.search(queries, 10), exact(vectors, Distance.COSINE, queries, 10), strict=True
    ):
        assert found.offsets.tolist() == true.offsets.tolist()


@pytest.mark.parametrize("distance", [Distance.COSINE, Distance.EUCLID])
def test_whatever_a_file_holds_nothing_outside_of_it_is_read(distance: Distance, tmp_path: Path) -> None:
    """Such files fail their checksum and are never opened. Should one be all the same, the process lives on."""
    vectors = prepared(clustered(300, 12), distance)
    body = built(tmp_path, vectors, distance).body
    random = np.random.default_rng(0)
    opened = 0
    for _ in range(1500):
        damaged = bytearray(body)
        where = random.integers(len(body) if random.random() < 0.7 else 400, size=random.integers(1, 40))
        for at in where:
            damaged[at] = random.integers(256)
        try:
            index = Built(bytes(damaged), vectors, distance, None)
            hits = ours(index, vectors[:3], 10, int(random.integers(1, 500)))
        except ValueError:
            continue
        opened += 1
        assert all(0 <= offset < len(vectors) for each in hits for offset in each.offsets)
    assert opened > 300
    for size in (0, 3, 40, 200, len(body) - 1):
        with pytest.raises(ValueError, match=r"header|graph|codes"):
            Graph(body[:size], vectors, *vectors.shape, distance is Distance.EUCLID)
    with pytest.raises(ValueError, match="codes"):
        Graph(body + b"\0", vectors, *vectors.shape, distance is Distance.EUCLID)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    vectors = prepared(clustered(300, 12), Distance.COSINE)
    index = built(tmp_path, vectors, Distance.COSINE)
    graph = index.graph()
    offsets, scores, found = np.empty((1, 5), np.int64), np.empty((1, 5), np.float32), np.empty(1, np.int32)
    query = vectors[:1]
    graph.search(query, 5, 10, 64, None, offsets, scores, found)
    with pytest.raises(ValueError, match="expected"):
        graph.search(query, 6, 12, 64, None, offsets, scores, found)
    with pytest.raises(ValueError, match="rows of 48"):
        graph.search(query[:, :11].copy(), 5, 10, 64, None, offsets, scores, found)
    with pytest.raises(ValueError, match="expected"):
        graph.search(query, 5, 10, 64, np.zeros(3, np.uint8), offsets, scores, found)
    with pytest.raises(ValueError, match="limit"):
        graph.search(query, 5, 4, 64, None, offsets, scores, found)
    with pytest.raises(TypeError, match="8 arguments"):
        graph.search(query)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="buffer"):
        Graph(index.body, vectors[:-1], *vectors.shape, False)
    with pytest.raises(ValueError, match="header"):
        Graph(index.body, vectors, *vectors.shape, True)
    with pytest.raises(ValueError, match="VARIANTS"):
        Graph(index.body, vectors, *vectors.shape, False, VARIANTS)
    with pytest.raises(ValueError, match="so many"):
        Graph(index.body, vectors, -1, 12, False)
