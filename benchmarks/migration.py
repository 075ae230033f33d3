"""A migration of real vectors from memory to mmap storage, killed on its way, and undone.

    python benchmarks/migration.py [VECTORS.npy] [--queries 1000] [--kills 20]

VECTORS is a float matrix of shape [n, d]; without it, the real embeddings in examples/data. A standalone engine stores
them all in memory storage, in four collections. `vectorizer --migrate-to-cluster` is timed once, and its rollback; then
both are killed at random moments and run again. An engine in cluster mode has to find the same in each collection, ids
and scores, as the standalone one did, and the last rollback has to give the folder back byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _machine import describe
from index import ROOT
from search import settle

sys.path.insert(0, str(ROOT))

from tests.engine.fixtures import VECTORIZER, EngineProcess

from vectorizer_engine.migration.journal import Phase, Places, read_journal

COLLECTIONS = [f"/collections/{name}" for name in ("north", "east", "south", "west")]
UPSERT_POINTS, BATCH_QUERIES = 500, 100
NOISE = 0.01
"""Standard deviation of what is added to stored vectors to make queries of them."""
ROLL_BACK_SHARE = 0.3
"""Of the migrations that were killed; the others are gone on with."""


class Cost(NamedTuple):
    """Of one run of the command."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


class Peace(NamedTuple):
    """What the command takes when nobody kills it: seconds until it begins to change something, and runs of it."""

    starting: float
    migration: Cost
    rollback: Cost


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", nargs="?", type=Path, default=ROOT / "examples/data/packages.f16.npy")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    vectors = np.load(options.vectors).astype(np.float32)
    noise = np.random.default_rng(1)
    rows = vectors[noise.integers(len(vectors), size=options.queries)]
    queries = rows + noise.normal(0, NOISE, rows.shape).astype(np.float32)
    print(f"machine  {describe()}")
    print(f"data     {options.vectors.name}: {len(vectors)} vectors of dimension {vectors.shape[1]}", end=" ")
    print(f"in {len(COLLECTIONS)} collections")
    with tempfile.TemporaryDirectory() as folder:
        standalone = {"cluster": {"enabled": False}, "storage": {"type": "memory"}}
        engine = EngineProcess(Path(folder) / "engine", standalone)
        try:
            fill(engine.start(), vectors)
            expected = answers(engine, queries)
            engine.stop()
            before = content(engine)
            peace = in_peace(engine)
            assert content(engine) == before, "the rollback gave something else back"
            killed = kill_often(engine, peace, options.kills)
            print(f"killed   {killed.total()} times:")
            for (phase, compared), times in sorted(killed.items()):
                print(f"         {times:2} {phase}, {compared} of {len(COLLECTIONS)} collections compared")
            finish(engine)
            assert answers(engine.start(), queries) == expected, "the cluster finds something else"
            print(f"served   in cluster mode: {len(queries)} queries find the same in each, ids and scores")
            engine.stop()
            command(engine, "--rollback")
            assert content(engine) == before, "the rollback gave something else back"
            print(f"undone   {len(before)} files are the same, byte for byte")
        finally:
            engine.close()


def fill(engine: EngineProcess, vectors: np.ndarray) -> None:
    """Store all *vectors*, in turn in each collection."""
    params = {"vectors": {"size": vectors.shape[1], "distance": "Cosine", "on_disk": False}}
    with engine.http() as http:
        for first, collection in enumerate(COLLECTIONS):
            http.put(collection, json=params).raise_for_status()
            ids = range(first, len(vectors), len(COLLECTIONS))
            for start in range(0, len(ids), UPSERT_POINTS):
                some = list(ids[start : start + UPSERT_POINTS])
                batch = {"ids": some, "vectors": vectors[some].tolist()}
                http.put(f"{collection}/points?wait=true", json={"batch": batch}).raise_for_status()


def wait_until_settled(engine: EngineProcess) -> None:
    with engine.http() as http:

        def look() -> object:
            found = [http.get(each).json()["result"] for each in COLLECTIONS]
            counts = [(each["indexed_vectors_count"], each["segments_count"]) for each in found]
            return all(each["status"] == "green" for each in found) and counts

        settle(look)


def answers(engine: EngineProcess, queries: np.ndarray) -> list[list[tuple[int, float]]]:
    """The nearest ten of each query in each collection, as ids and scores, from a running engine."""
    wait_until_settled(engine)
    found = []
    with engine.http() as http:
        for collection, start in product(COLLECTIONS, range(0, len(queries), BATCH_QUERIES)):
            asked = [
                {"query": query, "limit": 10} for query in queries[start : start + BATCH_QUERIES].tolist()
            ]
            answer = http.post(
                f"{collection}/points/query/batch", json={"searches": asked}
            ).raise_for_status()
            found += [
                [(hit["id"], hit["score"]) for hit in each["points"]] for each in answer.json()["result"]
            ]
    return found


def content(engine: EngineProcess) -> dict[str, str]:
    """A checksum of every file of the data folder, and of the configuration."""
    files = [engine.config_file, *sorted(path for path in engine.data.rglob("*") if path.is_file())]
    return {str(file): hashlib.blake2b(file.read_bytes()).hexdigest() for file in files}


def in_peace(engine: EngineProcess) -> Peace:
    """Migrate and roll back once, and print what that costs."""
    began = time.perf_counter()
    plan = dry_run(engine)
    starting = time.perf_counter() - began
    backup = plan["backup"]
    data = sum(file.stat().st_size for file in engine.data.rglob("*") if file.is_file())
    print(f"folder   {data / 1e6:.0f} MB, backup: {backup['copied_bytes'] / 1e6:.0f} MB copied", end=", ")
    print(f"{backup['shared_bytes'] / 1e6:.0f} MB shared; {plan['expected_seconds']:.0f} s are expected")
    migration, rollback = command(engine), command(engine, "--rollback")
    for name, cost in (("migrate", migration), ("rollback", rollback)):
        print(f"{name:8} {cost.seconds:.1f} s, {cost.processor_seconds:.1f} s of processor", end=", ")
        print(f"at most {cost.peak_bytes / 1e6:.0f} MB of memory")
    return Peace(starting, migration, rollback)


def dry_run(engine: EngineProcess) -> dict[str, Any]:
    done = subprocess.run([*arguments(engine), "--dry-run", "-o", "json"], stdout=subprocess.PIPE, check=True)
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def arguments(engine: EngineProcess, *options: str) -> list[str]:
    return [str(VECTORIZER), "--migrate-to-cluster", "--config", str(engine.config_file), *options]


def command(engine: EngineProcess, *options: str) -> Cost:
    """Run it to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(arguments(engine, *options), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"it ended with {process.returncode}"
    return Cost(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def kill_often(engine: EngineProcess, peace: Peace, kills: int) -> Counter[tuple[Phase, int]]:
    """Kill migrations and rollbacks at moments after they have begun to work; how often at which point."""
    chosen = random.Random(1)
    killed: Counter[tuple[Phase, int]] = Counter()
    rolling_back = False
    while killed.total() < kills:
        lasts, *options = (
            (peace.rollback.seconds, "--rollback") if rolling_back else (peace.migration.seconds,)
        )
        process = subprocess.Popen(arguments(engine, *options), stdout=subprocess.DEVNULL)
        try:
            process.wait(chosen.uniform(min(peace.starting, lasts), lasts))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            assert process.returncode == 0, f"it ended with {process.returncode}"
        journal = read_journal(Places(engine.data))
        if process.returncode and journal and journal.phase is not Phase.DONE:
            killed[journal.phase, len(journal.verified)] += 1
        if journal and journal.phase in (Phase.BACKING_UP, Phase.CONVERTING):
            rolling_back = chosen.random() < ROLL_BACK_SHARE
        else:  # what is done is undone, what is being undone is not gone on with
            rolling_back = journal is not None
    return killed


def finish(engine: EngineProcess) -> None:
    """Go on to the end of the migration; a rollback that was begun comes to its end first."""
    journal = read_journal(Places(engine.data))
    if journal and journal.phase is Phase.ROLLING_BACK:
        command(engine, "--rollback")
    command(engine)


if __name__ == "__main__":
    main()
