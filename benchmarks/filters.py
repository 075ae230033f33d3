"""Filtered searches and counts with and without payload indexes in the same run: recall beside every speed.

    python benchmarks/filters.py [--data FOLDER] [--queries 200]

FOLDER holds embeddings (*.f16.npy, shape [n, d]) and a payload for each (*.jsonl.gz); without it, examples/data. Each
point also gets a number of its own, by chance, so that a range of them is a filter of any share whose points lie
anywhere. A range lies elsewhere in every query, so nothing of it was asked before; `again` is one range that was. A
section of Debian is a filter whose points lie together. In process, one thread, ten nearest by cosine, whatever is
in the head included. `cpu` is processor time of a search: on a machine that does other work too, compare that. Where
`qdrant-edge-py` is installed, Qdrant's own core answers the same.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from _machine import describe

from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.filters import compile_filter
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, CollectionStatus, Distance
from vectorizer_engine.storage.payload_index import FieldType

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 10
SHARES = (0.5, 0.1, 0.02, 0.001)
SLOW_QUERIES = 10
"""So many are asked where every payload is read."""

Vectors = npt.NDArray[np.float32]
Filter = dict[str, Any]
Search = Callable[[Vectors, Filter], Sequence[int]]
Count = Callable[[Filter], int]


class Data(NamedTuple):
    name: str
    vectors: Vectors
    payloads: list[dict[str, Any]]
    queries: Vectors


class Case(NamedTuple):
    """A filter for each query, and which points each takes."""

    name: str
    filters: list[Filter]
    allowed: list[npt.NDArray[np.bool_]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT / "examples/data")
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    data = load(options.data, options.queries)
    cases = [*ranges(data), *sections(data)]
    print(f"machine  {describe()}")
    print(f"data     {data.name}: {len(data.vectors)} points of dimension {data.vectors.shape[1]}")
    print(f"{'':44}recall@{LIMIT}{'p50':>9}{'p99':>9}{'cpu':>9}{'count p50':>10}  in ms")
    with tempfile.TemporaryDirectory() as folder:
        measure_engine(Path(folder) / "engine", data, cases)
        measure_qdrant(Path(folder) / "qdrant", data, cases)


def load(folder: Path, queries: int) -> Data:
    (vectors_file,) = folder.glob("*.f16.npy")
    (payload_file,) = folder.glob("*.jsonl.gz")
    vectors = np.load(vectors_file).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with gzip.open(payload_file, "rt") as lines:
        payloads = [json.loads(line) for line in lines]
    order = np.random.default_rng(1).permutation(len(vectors))
    kept = np.sort(order[queries:])
    numbers = np.random.default_rng(2).permutation(len(kept)).tolist()
    chosen = [payloads[row] | {"number": number} for row, number in zip(kept, numbers, strict=True)]
    return Data(vectors_file.name, vectors[kept], chosen, vectors[order[:queries]])


def ranges(data: Data) -> Iterator[Case]:
    numbers = np.array([payload["number"] for payload in data.payloads])
    random = np.random.default_rng(3)
    for share in SHARES:
        width = max(1, round(share * len(numbers)))
        starts = random.integers(0, len(numbers) - width, len(data.queries)).tolist()
        filters = [number_range(start, start + width) for start in starts]
        allowed = [(numbers >= start) & (numbers < start + width) for start in starts]
        yield Case(f"{share:.1%} by a range", filters, allowed)
        again = len(data.queries)
        yield Case(f"{share:.1%} by a range, again", filters[:1] * again, allowed[:1] * again)


def number_range(start: int, end: int) -> Filter:
    return {"must": [{"key": "number", "range": {"gte": start, "lt": end}}]}


def sections(data: Data) -> Iterator[Case]:
    """The section whose share is nearest to each of the shares below a half."""
    of_points = np.array([payload["section"] for payload in data.payloads])
    counted = Counter(of_points.tolist())
    for share in SHARES[1:]:
        name, count = min(counted.items(), key=lambda item: abs(item[1] - share * len(of_points)))
        filter_ = {"must": [{"key": "section", "match": {"value": name}}]}
        number = len(data.queries)
        case = f"{count / len(of_points):.1%} by section {name}"
        yield Case(case, [filter_] * number, [of_points == name] * number)


def measure_engine(folder: Path, data: Data, cases: list[Case]) -> None:
    store = VectorStore.open(folder, memory=CacheMemoryManager(1024**3))
    collection = store.create_collection("bench", CollectionParams(data.vectors.shape[1], Distance.COSINE))
    for start in range(0, len(data.vectors), 500):
        rows = data.vectors[start : start + 500]
        collection.upsert(range(start, start + len(rows)), rows, data.payloads[start : start + 500])
    wait_until_settled(collection)
    layouts = [f"{layout.points} {layout.layout}" for layout in collection.info().layouts]
    print(f"engine   segments: {', '.join(layouts)}; the rest is in the head")

    def search(query: Vectors, filter_: Filter) -> Sequence[int]:
        [hits] = collection.search(query, limit=LIMIT, predicate=compile_filter(filter_))
        return [int(hit.id) for hit in hits]

    def count(filter_: Filter) -> int:
        return collection.count(compile_filter(filter_))

    def forget() -> None:
        collection._shard._verdicts.clear()

    print("without payload indexes")
    for case in cases:
        if "again" not in case.name:
            report(case, data, search, count, SLOW_QUERIES, forget=forget)
    began = time.perf_counter()
    collection.create_payload_index("number", FieldType.INTEGER)
    collection.create_payload_index("section", FieldType.KEYWORD)
    nbytes = sum(path.stat().st_size for path in folder.rglob("*.payload-index"))
    seconds = time.perf_counter() - began
    print(
        f"with payload indexes, built in {seconds:.1f} s: {nbytes / len(data.vectors):.1f} bytes a point for two"
    )
    for case in cases:
        again = "again" in case.name
        report(case, data, search, count, len(data.queries), forget=keep if again else forget)
    store.close()


def keep() -> None:
    """What was found of a filter."""


def wait_until_settled(collection: Collection) -> None:
    green_since = time.monotonic()
    while time.monotonic() - green_since < 3:
        if collection.info().status is not CollectionStatus.GREEN:
            green_since = time.monotonic()
        time.sleep(0.1)


def report(
    case: Case, data: Data, search: Search, count: Count, queries: int, *, forget: Callable[[], None]
) -> None:
    searches, counts, recalls, busy = [], [], [], []
    for row in range(-3, queries):  # the first three to warm up
        query, filter_, allowed = data.queries[row : row + 1 or None], case.filters[row], case.allowed[row]
        forget()
        began, worked = time.perf_counter(), time.thread_time()
        found = search(query, filter_)
        searches.append(time.perf_counter() - began)
        busy.append(time.thread_time() - worked)
        forget()
        began = time.perf_counter()
        counted = count(filter_)
        counts.append(time.perf_counter() - began)
        assert counted == np.count_nonzero(allowed), "a count is exact"
        assert all(allowed[list(found)]), "a filter holds"
        scores = np.where(allowed, data.vectors @ query[0], -np.inf)
        true = np.argsort(-scores)[: min(LIMIT, counted)]
        recalls.append(len({*found} & {*true.tolist()}) / max(1, len(true)))
    p50, p99 = np.percentile(np.array(searches[3:]) * 1000, [50, 99])
    cpu, count_p50 = np.mean(busy[3:]) * 1000, np.percentile(np.array(counts[3:]) * 1000, 50)
    recall = np.mean(recalls[3:])
    print(f"  {case.name:42}{recall:9.3f}{p50:10.3f}{p99:9.3f}{cpu:9.3f}{count_p50:10.3f}", flush=True)


def measure_qdrant(folder: Path, data: Data, cases: list[Case]) -> None:
    if importlib.util.find_spec("qdrant_edge") is None:
        print("qdrant   skipped, qdrant-edge-py is not installed here")
        return
    import qdrant_edge as edge

    folder.mkdir()
    hnsw = edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10)
    vectors = edge.EdgeVectorParams(
        size=data.vectors.shape[1], distance=edge.Distance.Cosine, hnsw_config=hnsw
    )
    optimizers = edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=10)
    shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=vectors, optimizers=optimizers))
    for start in range(0, len(data.vectors), 1000):
        rows = zip(data.vectors[start : start + 1000], data.payloads[start : start + 1000], strict=True)
        points = [
            edge.Point(row, vector.tolist(), payload) for row, (vector, payload) in enumerate(rows, start)
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    for field, schema in (
        ("number", edge.PayloadSchemaType.Integer),
        ("section", edge.PayloadSchemaType.Keyword),
    ):
        shard.update(edge.UpdateOperation.create_field_index(field, schema))
    shard.optimize()

    def translated(filter_: Filter) -> Any:
        [condition] = filter_["must"]
        if "range" in condition:
            bounds = edge.RangeFloat(gte=condition["range"]["gte"], lt=condition["range"]["lt"])
            return edge.Filter(must=[edge.FieldCondition(key=condition["key"], range=bounds)])
        value = edge.MatchValue(condition["match"]["value"])
        return edge.Filter(must=[edge.FieldCondition(key=condition["key"], match=value)])

    def search(query: Vectors, filter_: Filter) -> Sequence[int]:
        nearest = edge.Query.Nearest(query[0].tolist())
        parameters = edge.SearchParams(hnsw_ef=64)
        request = edge.SearchRequest(
            query=nearest, limit=LIMIT, filter=translated(filter_), params=parameters
        )
        return [int(hit.id) for hit in shard.search(request)]

    def count(filter_: Filter) -> int:
        return int(shard.count(edge.CountRequest(filter=translated(filter_))))

    print("qdrant's core, float32, ef 64, with payload indexes")
    for case in cases:
        if "again" not in case.name:
            report(case, data, search, count, len(data.queries), forget=keep)
    shard.close()


if __name__ == "__main__":
    main()
