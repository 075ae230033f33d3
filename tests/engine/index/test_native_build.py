"""The graph that we build is one that faiss could have written, as good as its own, for any vectors and threads.

faiss is what it is held against: it reads what is built here, and builds from the same vectors.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.children import output_of
from tests.engine.index.samples import clustered, exact, prepared, real_vectors, recall
from vectorizer_engine._native import VARIANTS, Built, Graph
from vectorizer_engine.index import quantized
from vectorizer_engine.index.base import Distance, Hits, Vectors
from vectorizer_engine.index.native import faiss

INDEXED = (Distance.COSINE, Distance.DOT, Distance.EUCLID)

variants = pytest.mark.parametrize("variant", range(VARIANTS))
distances = pytest.mark.parametrize("distance", INDEXED)


def built(
    vectors: Vectors,
    distance: Distance,
    *,
    threads: int = 2,
    variant: int = 0,
    links: int = quantized.M,
    ef: int = quantized.EF_CONSTRUCTION,
) -> bytes:
    return body_of(Built(vectors, *vectors.shape, distance is Distance.EUCLID, links, ef, threads, variant))


THREADS = (1, 4)
"""One inserts in an order, several in any."""


def body_of(index: Built, piece: int = 10_007) -> bytes:
    body = bytearray()
    out = bytearray(piece)
    while size := index.read(len(body), out):
        body += out[:size]
    return bytes(body)


def built_by_faiss(vectors: Vectors, distance: Distance) -> bytes:
    dimension = vectors.shape[1]
    kinds = faiss.ScalarQuantizer
    euclid = distance is Distance.EUCLID
    index = faiss.IndexHNSWSQ(
        dimension,
        kinds.QT_8bit if euclid else kinds.QT_8bit_direct_signed,
        quantized.M,
        faiss.METRIC_L2 if euclid else faiss.METRIC_INNER_PRODUCT,
    )
    index.hnsw.efConstruction = quantized.EF_CONSTRUCTION
    index.train(vectors)
    scale = np.float32(127) / max(np.abs(vectors).max(), np.float32(1e-36))
    index.add(vectors if euclid else np.rint(vectors * scale))
    return bytes(faiss.serialize_index(index))


class Read:
    """What faiss reads in *body*."""

    def __init__(self, body: bytes) -> None:
        self.index: Any = faiss.deserialize_index(np.frombuffer(body, np.uint8))
        graph, storage = self.index.hnsw, faiss.downcast_index(self.index.storage)
        array: Callable[[Any], np.ndarray] = faiss.vector_to_array
        self.codes = array(storage.codes)
        self.ranges = array(storage.sq.trained)
        self.levels = array(graph.levels) - 1
        self.offsets = array(graph.offsets).astype(np.int64)
        self.neighbours = array(graph.neighbors)
        self.ends = array(graph.cum_nneighbor_per_level)
        self.entry, self.top = graph.entry_point, graph.max_level

    def links(self, node: int, level: int) -> list[int]:
        start, end = self.offsets[node] + self.ends[level : level + 2]
        return list(self.neighbours[start:end])

    def reached(self) -> float:
        """The share of all nodes that the lowest level leads to from the entry."""
        seen = np.zeros(len(self.levels), bool)
        seen[self.entry] = True
        fringe = [self.entry]
        while fringe:
            node = fringe.pop()
            for other in self.links(node, 0):
                if other >= 0 and not seen[other]:
                    seen[other] = True
                    fringe.append(other)
        return float(seen.mean())


def search(body: bytes, vectors: Vectors, distance: Distance, queries: Vectors, ef: int = 64) -> list[Hits]:
    limit = 10
    offsets = np.empty((len(queries), limit), np.int64)
    scores = np.empty((len(queries), limit), np.float32)
    found = np.empty(len(queries), np.int32)
    graph = Graph(body, vectors, *vectors.shape, distance is Distance.EUCLID)
    graph.search(queries, limit, 2 * limit, ef, None, offsets, scores, found)
    return [Hits(offsets[row, :n], scores[row, :n]) for row, n in enumerate(found)]


def check_whole(read: Read, count: int, *, links: int = quantized.M) -> None:
    """Everything that is true of any graph."""
    assert len(read.levels) == count
    assert read.levels[read.entry] == read.levels.max() == read.top
    assert read.offsets[0] == 0
    assert (np.diff(read.offsets) == read.ends[read.levels + 1]).all()
    for node in range(count):
        for level in range(read.levels[node] + 1):
            linked = read.links(node, level)
            assert len(linked) == (2 * links if level == 0 else links)
            there = [other for other in linked if other >= 0]
            assert linked == there + [-1] * (len(linked) - len(there)), (
                "none comes behind the first that is missing"
            )
            assert len(set(there)) == len(there), "no link is there twice"
            assert node not in there
            assert all(read.levels[other] >= level for other in there)


@distances
def test_a_graph_is_whole_and_leads_to_as_many_nodes_as_that_of_faiss(distance: Distance) -> None:
    vectors = prepared(clustered(6000, 40), distance)
    theirs = Read(built_by_faiss(vectors, distance))
    for threads in THREADS:
        read = Read(built(vectors, distance, threads=threads))
        check_whole(read, 6000)
        assert read.reached() >= theirs.reached() - 0.001


@distances
def test_as_much_is_found_as_in_a_graph_that_faiss_built(distance: Distance) -> None:
    everything = prepared(clustered(6500, 48), distance)
    vectors, queries = np.ascontiguousarray(everything[:6000]), everything[6000:]
    true = exact(vectors, distance, queries, 10)
    theirs = recall(search(built_by_faiss(vectors, distance), vectors, distance, queries), true)
    for threads in THREADS:
        body = built(vectors, distance, threads=threads)
        assert recall(search(body, vectors, distance, queries), true) >= theirs - 0.005


@variants
def test_real_embeddings_are_found_on_every_kind_of_processor(variant: int) -> None:
    everything = real_vectors()
    vectors, queries = np.ascontiguousarray(everything[300:]), everything[:300]
    true = exact(vectors, Distance.COSINE, queries, 10)
    found = search(built(vectors, Distance.COSINE, variant=variant), vectors, Distance.COSINE, queries)
    assert recall(found, true) >= 0.97


@distances
def test_codes_are_those_of_faiss(distance: Distance) -> None:
    vectors = prepared(clustered(3000, 37), distance)
    ours, theirs = Read(built(vectors, distance)), Read(built_by_faiss(vectors, distance))
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(ours.ranges, theirs.ranges)


def test_one_thread_builds_the_same_again_on_every_kind_of_processor() -> None:
    """With integers, which are the same in whatever order they are added up."""
    vectors = prepared(clustered(2000, 24), Distance.COSINE)
    bodies = {
        built(vectors, Distance.COSINE, threads=1, variant=variant)
        for variant in [*range(VARIANTS), *range(VARIANTS)]
    }
    assert len(bodies) == 1


def test_nodes_are_on_as_many_levels_as_they_should_be() -> None:
    read = Read(built(clustered(40_000, 4), Distance.DOT, ef=8))
    for level in range(1, 4):
        expected = 40_000 / quantized.M**level
        assert abs((read.levels >= level).sum() - expected) <= 5 * math.sqrt(expected)
    assert len(read.ends) == 9, "as many levels as faiss would have"


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_vectors_make_a_graph_that_is_whole(data: st.DataObject) -> None:
    distance = data.draw(st.sampled_from(INDEXED))
    count = data.draw(st.integers(1, 250))
    dimension = data.draw(st.integers(1, 130))
    threads = data.draw(st.integers(1, 4))
    links = data.draw(st.integers(2, 20))
    ef = data.draw(st.integers(1, 60))
    variant = data.draw(st.integers(0, VARIANTS - 1))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kind = data.draw(st.sampled_from(["many", "few", "zeros", "huge", "tiny"]))
    vectors = random.standard_normal((count, dimension), np.float32)
    if kind == "few":  # of each many
        vectors = np.ascontiguousarray(vectors[random.integers(min(count, 3), size=count)])
    vectors *= np.float32({"zeros": 0, "huge": 1e30, "tiny": 1e-40}.get(kind, 1))
    body = built(vectors, distance, threads=threads, variant=variant, links=links, ef=ef)
    check_whole(Read(body), count, links=links)
    hits = search(body, vectors, distance, vectors[:3])
    assert all(1 <= len(each.offsets) <= count for each in hits)


@distances
@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_of_a_few_vectors_are_found(distance: Distance, count: int) -> None:
    vectors = prepared(clustered(count, 33), distance)
    body = built(vectors, distance)
    check_whole(Read(body), count)
    (hits,) = search(body, vectors, distance, vectors[-1:])
    assert sorted(hits.offsets) == list(range(count))
    if distance is not Distance.DOT:
        assert hits.offsets[0] == count - 1


def some_kinds(distance: Distance) -> tuple[Vectors, Vectors]:
    """About fifty of each of 120 vectors, which are also the queries."""
    kinds = prepared(clustered(120, 32), distance)
    return np.ascontiguousarray(kinds[np.random.default_rng(4).integers(120, size=6000)]), kinds


def one_very_often(distance: Distance) -> tuple[Vectors, Vectors]:
    """A third are the same vector, as where many texts are empty."""
    everything = prepared(clustered(6200, 32), distance)
    vectors = np.ascontiguousarray(everything[:6000])
    vectors[np.random.default_rng(4).random(6000) < 1 / 3] = vectors[17]
    return vectors, everything[6000:]


@distances
@pytest.mark.parametrize("equal", [some_kinds, one_very_often])
def test_among_equal_vectors_as_much_is_found_as_in_a_graph_of_faiss(
    equal: Callable[[Distance], tuple[Vectors, Vectors]], distance: Distance
) -> None:
    """There are more of them than a node has links, so that these may lead to nothing else."""
    vectors, queries = equal(distance)
    true = exact(vectors, distance, queries, 10)

    def as_near(body: bytes) -> float:
        """The share of what is found that is as near as the tenth, whichever of the equal ones it is."""
        found = search(body, vectors, distance, queries)
        farthest = np.array([each.scores[-1:] for each in true])
        scores = np.array([each.scores for each in found])
        tolerance = 1e-4 * np.abs(farthest)
        near = scores >= farthest - tolerance if distance.larger_is_closer else scores <= farthest + tolerance
        return float(near.mean())

    theirs = built_by_faiss(vectors, distance)
    for threads in THREADS:
        ours = built(vectors, distance, threads=threads)
        assert as_near(ours) >= as_near(theirs) - 0.03
        assert Read(ours).reached() >= max(0.9, Read(theirs).reached())


def test_as_many_dimensions_as_a_collection_may_have_are_compared_exactly() -> None:
    """The largest products of all: nothing overflows."""
    random = np.random.default_rng(0)
    vectors = np.ascontiguousarray(np.where(random.random((60, 65_536)) < 0.5, 1, -1), np.float32)
    vectors[0] = 1
    for variant in range(VARIANTS):
        body = built(vectors, Distance.DOT, variant=variant)
        found = search(body, vectors, Distance.DOT, vectors)
        assert [each.offsets[0] for each in found] == list(range(60))


def test_bytes_are_the_same_wherever_they_are_read() -> None:
    index = Built(clustered(300, 9), 300, 9, False, 16, 64, 1)
    body = body_of(index)
    for piece in (1, 7, 64, len(body), len(body) + 5):
        assert body_of(index, piece) == body
    out = bytearray(3)
    assert index.read(len(body), out) == index.read(10 * len(body), out) == 0
    assert index.read(len(body) - 2, out) == 2
    assert out[:2] == body[-2:]
    assert index.read(0, bytearray()) == 0


def test_other_threads_run_meanwhile() -> None:
    """Python's lock is free while a graph is built."""
    vectors = clustered(6000, 64)
    thread = threading.Thread(target=built, args=(vectors, Distance.DOT), kwargs={"threads": 1})
    turns = 0
    thread.start()
    while thread.is_alive():
        turns += 1
    assert turns > 100


def test_the_thread_that_has_a_graph_built_keeps_its_priority() -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    built(clustered(500, 8), Distance.DOT)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"count": 0}, "0 vectors"),
        ({"count": -1}, "-1 vectors"),
        ({"count": 2**31}, "2147483648 vectors"),
        ({"dimension": 0}, "of dimension 0"),
        ({"count": 99}, "a buffer has 3200 bytes, expected 3168"),
        ({"dimension": 9}, "a buffer has 3200 bytes, expected 3600"),
        ({"links": 1}, "1 links"),
        ({"links": 1025}, "1025 links"),
        ({"ef": 0}, "ef 0"),
        ({"ef": 65_537}, "ef 65537"),
        ({"threads": 0}, "0 threads"),
        ({"threads": 1025}, "1025 threads"),
        ({"variant": VARIANTS}, "VARIANTS"),
        ({"variant": -1}, "VARIANTS"),
    ],
)
def test_what_cannot_be_built_is_refused(changed: dict[str, int], reason: str) -> None:
    given = {"count": 100, "dimension": 8, "euclid": 0, "links": 16, "ef": 64, "threads": 1, "variant": 0}
    vectors = clustered(100, 8)
    with pytest.raises(ValueError, match=reason):
        Built(vectors, *(given | changed).values())  # type: ignore[arg-type]
    index = Built(vectors, *given.values())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="position -1"):
        index.read(-1, bytearray(1))
    with pytest.raises(TypeError, match="2 arguments"):
        index.read(0)  # type: ignore[call-arg]


NO_MEMORY = """
import resource, sys
import numpy as np
from vectorizer_engine._native import Built

vectors = np.ones((200_000, 64), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for more in map(int, sys.argv[1:]):
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))
    try:
        Built(vectors, *vectors.shape, False, 16, 64, 2)
    except (MemoryError, OSError) as problem:
        print(type(problem).__name__)
"""


def test_what_there_is_no_memory_for_ends_no_process() -> None:
    """Memory for nothing, for all but codes, for all but what threads need."""
    problems = output_of(NO_MEMORY, "1000000", "35000000", "42000000", seconds=60).split()
    assert problems[:2] == ["MemoryError", "MemoryError"]
    assert problems[2] in ("MemoryError", "BlockingIOError")
