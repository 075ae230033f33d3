"""The indexes of sealed segments, against exact search in the same run: recall beside every speed.

    python benchmarks/index.py [VECTORS.npy] [--queries 500] [--threads 2] [--only hnsw-sq8]

VECTORS is a float matrix of shape [n, d] (.npy); without it, the real embeddings in examples/data. Vectors are scaled
to length 1 and compared by cosine; some of them, taken out of the index, are the queries. One thread searches, one
query at a time, and nothing is cached but what the kernel keeps of the files. Where `qdrant-edge-py` is installed,
Qdrant's own core runs on the same data (`pip install qdrant-edge-py`).

`cpu` is processor time: on a machine that does other work too, compare that rather than `p50`.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from _machine import describe

from vectorizer_engine.index import quantized, rabitq
from vectorizer_engine.index.base import Distance, Mask, Offsets, Vectors
from vectorizer_engine.index.flat import FlatIndex, search_in_this_thread
from vectorizer_engine.storage.files import Files

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 10
COSINE = Distance.COSINE
QDRANT_MISSING = "qdrant-edge-py is not installed here: .venv/bin/pip install qdrant-edge-py"

Search = Callable[[Vectors], Offsets]
"""From one query (float32 [1, d]) to offsets, nearest first."""


class Timed(NamedTuple):
    answers: list[Offsets]
    p50: float
    p99: float
    cpu: float


class Measured(NamedTuple):
    """A way to search: how much of the true answer it finds, and its median time in milliseconds."""

    name: str
    recall: float
    p50: float


def main() -> None:
    arguments = parse_arguments()
    vectors, queries = load(arguments.vectors, arguments.queries)
    print_setting(arguments.vectors, vectors, queries)
    search_in_this_thread()
    flat = FlatIndex(vectors, COSINE)
    exact = clock(lambda query: flat.search(query, LIMIT)[0].offsets, queries)
    report("exact", exact, exact)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only in (None, "hnsw-sq8"):
            measure_hnsw(Path(folder), vectors, queries, exact, arguments.threads)
        if arguments.only in (None, "ivf-rabitq"):
            measure_rabitq(Path(folder), vectors, queries, exact, arguments.threads)
        if arguments.only in (None, "qdrant"):
            measure_qdrant(Path(folder), vectors, queries, exact)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", nargs="?", type=Path, default=ROOT / "examples/data/packages.f16.npy")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2, help="that build")
    parser.add_argument("--only", choices=("hnsw-sq8", "ivf-rabitq", "qdrant"))
    return parser.parse_args()


def load(path: Path, count: int) -> tuple[Vectors, Vectors]:
    vectors = np.load(path).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.random.default_rng(1).permutation(len(vectors))
    return np.ascontiguousarray(vectors[np.sort(order[count:])]), np.ascontiguousarray(vectors[order[:count]])


def print_setting(path: Path, vectors: Vectors, queries: Vectors) -> None:
    print(f"machine  {describe()}")
    print(f"         faiss {faiss.__version__}, numpy {np.__version__}")
    print(
        f"data     {path.name}: {len(vectors)} vectors of dimension {vectors.shape[1]}, {len(queries)} other queries"
    )
    print(f"{'':28}recall@{LIMIT}  p50 ms  p99 ms  cpu ms  against exact")


def clock(search: Search, queries: Vectors) -> Timed:
    for row in range(min(50, len(queries))):
        search(queries[row : row + 1])
    answers, times = [], []
    cpu = time.process_time()
    for row in range(len(queries)):
        start = time.perf_counter()
        answers.append(search(queries[row : row + 1]))
        times.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(queries)
    return Timed(answers, float(np.median(times)) * 1e3, float(np.quantile(times, 0.99)) * 1e3, cpu * 1e3)


def report(name: str, timed: Timed, exact: Timed) -> Measured:
    pairs = zip(timed.answers, exact.answers, strict=True)
    recall = np.mean([np.isin(true, found).mean() if len(true) else 1 for found, true in pairs])
    ratio = exact.cpu / timed.cpu if timed.cpu else float("nan")
    print(
        f"{name:28}{recall:9.4f}{timed.p50:8.3f}{timed.p99:8.3f}{timed.cpu:8.3f}{ratio:10.1f} ×", flush=True
    )
    return Measured(name.strip(), float(recall), timed.p50)


def report_build(name: str, seconds: float, cpu: float, file: int, count: int, held: int, kept: int) -> None:
    print(
        f"{name}: built in {seconds:.1f} s ({cpu:.1f} s of processor), holding {held / 1e6:.1f} MB of heap; "
        f"file {file / count:.0f} bytes a vector; heap while open {kept / count:.1f} bytes a vector",
        flush=True,
    )


def measure_hnsw(folder: Path, vectors: Vectors, queries: Vectors, exact: Timed, threads: int) -> None:
    path = folder / quantized.FILE_NAME
    seconds, cpu = time.perf_counter(), time.process_time()
    quantized.build(path, vectors, COSINE, threads=threads, files=Files())
    seconds, cpu = time.perf_counter() - seconds, time.process_time() - cpu
    count = len(vectors)
    held = quantized.build_bytes(*vectors.shape, threads=threads)
    report_build("hnsw-sq8", seconds, cpu, path.stat().st_size, count, held, quantized.open_bytes(count))
    index = quantized.QuantizedIndex(path, vectors, COSINE)
    for ef in (32, 48, 64, 96, 128):
        timed = clock(lambda query, ef=ef: index.search(query, LIMIT, ef=ef)[0].offsets, queries)
        report(f"  ef {ef}", timed, exact)
    measure_masks(lambda query, mask: index.search(query, LIMIT, mask=mask)[0].offsets, vectors, queries)


def measure_rabitq(folder: Path, vectors: Vectors, queries: Vectors, exact: Timed, threads: int) -> None:
    path = folder / rabitq.FILE_NAME
    seconds, cpu = time.perf_counter(), time.process_time()
    rabitq.build(path, vectors, COSINE, threads=threads, files=Files())
    seconds, cpu = time.perf_counter() - seconds, time.process_time() - cpu
    count = len(vectors)
    held = rabitq.build_bytes(*vectors.shape)
    report_build("ivf-rabitq", seconds, cpu, path.stat().st_size, count, held, rabitq.open_bytes(count))
    index = rabitq.RabitqIndex(path, vectors, COSINE)
    report("  as it is", clock(lambda query: index.search(query, LIMIT)[0].offsets, queries), exact)
    measure_masks(lambda query, mask: index.search(query, LIMIT, mask=mask)[0].offsets, vectors, queries)


def measure_masks(search: Callable[[Vectors, Mask], Offsets], vectors: Vectors, queries: Vectors) -> None:
    """Filters whose vectors lie anywhere, and filters whose vectors lie together, which a graph finds harder."""
    flat = FlatIndex(vectors, COSINE)
    random = np.random.default_rng(0)
    some = queries[:200]
    for name, closeness in (("spread", random.random(len(vectors))), ("together", vectors @ vectors[0])):
        for share in (0.5, 0.2, 0.1, 0.02):
            mask = np.packbits(closeness >= np.quantile(closeness, 1 - share), bitorder="little")
            true = clock(lambda query, mask=mask: flat.search(query, LIMIT, mask=mask)[0].offsets, some)
            timed = clock(lambda query, mask=mask: search(query, mask), some)
            report(f"  {share:.0%} allowed, {name}", timed, true)


def measure_qdrant(folder: Path, vectors: Vectors, queries: Vectors, exact: Timed) -> list[Measured]:
    """Qdrant's core with float32 and with int8 vectors, by ef; nothing where it is not installed.

    With int8 also scored again by the float32 vectors, with twice as many candidates as hits, as ours is.
    """
    if importlib.util.find_spec("qdrant_edge") is None:
        print(f"qdrant: skipped, {QDRANT_MISSING}")
        return []
    import qdrant_edge as edge

    measured: list[Measured] = []
    hnsw = edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10)
    for name, quantization in (
        ("float32", None),
        ("int8", edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=0.99, always_ram=True)),
    ):
        place = folder / f"qdrant-{name}"
        place.mkdir()
        dimension = vectors.shape[1]
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine, hnsw_config=hnsw),
            quantization_config=quantization,
            optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=10),
        )
        start = time.perf_counter()
        shard = edge.EdgeShard.create(str(place), config)
        for first in range(0, len(vectors), 1000):
            points = [
                edge.Point(offset, row.tolist())
                for offset, row in enumerate(vectors[first : first + 1000], start=first)
            ]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        print(f"qdrant {name}: upserted and indexed in {time.perf_counter() - start:.1f} s")
        again = edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
        searches = [(f"{name} ef {ef}", edge.SearchParams(hnsw_ef=ef)) for ef in (64, 96, 128)]
        if quantization is not None:
            searches += [
                (f"{name} ef {ef}, scored again", edge.SearchParams(hnsw_ef=ef, quantization=again))
                for ef in (48, 64, 80, 96)
            ]
        for title, parameters in searches:
            requests = [
                edge.SearchRequest(query=edge.Query.Nearest(query.tolist()), limit=LIMIT, params=parameters)
                for query in queries
            ]
            waiting = iter(requests[:50] + requests)  # `clock` warms up with the first 50

            def search(_: Vectors, shard: Any = shard, waiting: Any = waiting) -> Offsets:
                return np.array([hit.id for hit in shard.search(next(waiting))])

            measured.append(report(f"  {title}", clock(search, queries), exact))
        shard.close()
    return measured


if __name__ == "__main__":
    main()
