"""One flipped bit in any file of a data folder: noticed, and never served as if it were data.

Every file that a folder holds is tried, also those of a kind that is newer than this test.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.engine.collection.model import open_store, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.storage.test_log import PROOF_BYTES
from vectorizer_engine.collection.check_data import check_data
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.types import CollectionStatus, PointId
from vectorizer_engine.errors import StoreVersionError
from vectorizer_engine.storage.payload_index import FieldType

LIMITS = ShardLimits(head_points=1100)
COUNT = 4950

Contents = dict[PointId, tuple[bytes, object]]
"""Vector and payload of each point."""

DERIVED = {"index.hnsw-sq8", "payload-index"}
"""Kinds of files that can be made again from the others: damaged, they cost nothing but that."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every kind: one collection has indexed segments and deleted points, one has a log."""
    folder = tmp_path_factory.mktemp("whole")
    store = open_store(folder, limits=LIMITS)
    store.create_collection("logged", params()).upsert([1], vectors_of([1]), [None])
    collection = store.create_collection("c", params())
    for start in range(0, COUNT, 550):
        seeds = list(range(start, start + 550))
        collection.upsert(seeds, vectors_of(seeds), [{"n": seed} for seed in seeds])
    collection.delete(ids=[5, 6])
    collection.create_payload_index("n", FieldType.INTEGER)
    wait_until(lambda: settled(collection) and collection.info().indexed_vectors > 0)
    store.close()
    return folder


def kinds(folder: Path) -> dict[str, Path]:
    """One file of each kind that has content, by its name without numbers, or what ends it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return {re.sub(r"\d{4,}|.*\.(?=payload-index)", "", path.name): path for path in files}


def test_a_folder_with_every_kind_of_file_is_what_is_tried(whole: Path) -> None:
    assert DERIVED | {"FORMAT", "MANIFEST", ".log", "collection.json", "vectors.f32", "points.lmdb"} <= set(
        kinds(whole)
    )


def positions(path: Path) -> list[int]:
    """At the beginning, in the middle, and at the end."""
    size = path.stat().st_size
    if path.suffix == ".log":
        size -= PROOF_BYTES  # the last proof: see below
    return sorted({0, size // 2, size - 2})


def test_a_flipped_bit_is_noticed_wherever_it_is_and_never_served(whole: Path, tmp_path: Path) -> None:
    store = open_store(copy(whole, tmp_path / "whole"), limits=LIMITS)
    expected = contents(store.collection("c"))
    store.close()
    assert len(expected) == COUNT - 2
    for kind, path in kinds(whole).items():
        for position in positions(path):
            folder = copy(whole, tmp_path / "flipped")
            flip(folder / path.relative_to(whole), position)
            assert problems(folder), f"{kind} at byte {position} is not noticed by check-data"
            assert said_or_mended(folder, expected, derived=kind in DERIVED), f"{kind} at byte {position}"
            assert not (kind in DERIVED and problems(folder)), f"{kind} at byte {position} is not made again"
            shutil.rmtree(folder)


def test_a_flipped_bit_in_the_last_proof_of_a_log_costs_nothing(whole: Path, tmp_path: Path) -> None:
    """What it proves is proved once more before it, where a log was closed; nobody needs to hear of it."""
    folder = copy(whole, tmp_path / "flipped")
    log = folder / kinds(whole)[".log"].relative_to(whole)
    flip(log, log.stat().st_size - 1)
    assert problems(folder) == []
    store = open_store(folder, limits=LIMITS)
    assert store.collection("logged").count() == 1
    store.close()


def contents(collection: Collection) -> Contents:
    records, following = collection.scroll(limit=COUNT)
    assert following is None
    return {record.id: (np.asarray(record.vector).tobytes(), record.payload) for record in records}


def copy(folder: Path, target: Path) -> Path:
    """The same files under other names: the engine replaces a file, and never writes into one that is there."""
    return Path(shutil.copytree(folder, target, copy_function=os.link))


def flip(path: Path, position: int) -> None:
    """Change the lowest bit of one byte, in a file of its own."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.unlink()
    path.write_bytes(data)


def problems(folder: Path) -> list[str]:
    try:
        return [problem.message for problem in check_data(folder)]
    except StoreVersionError as error:
        return [str(error)]


def said_or_mended(folder: Path, expected: Contents, *, derived: bool) -> bool:
    """Whether an engine that opens the folder says what is wrong, or has made again what can be made again.

    What it serves in spite of it has to be as it was.
    """
    try:
        store = open_store(folder, limits=LIMITS)
    except StoreVersionError:
        return not derived
    try:
        if derived:
            collection = store.collection("c")
            assert contents(collection) == expected
            assert collection.info().problems == ()
            wait_until(lambda: settled(collection) and collection.info().indexed_vectors > 0)
            return True
        if store.damaged:
            return True
        info = store.collection("c").info()
        served = contents(store.collection("c"))
        assert served == {point: expected[point] for point in served}
        return info.status is CollectionStatus.RED and bool(info.problems)
    finally:
        store.close()
