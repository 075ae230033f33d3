"""Writes that fail inside LMDB, which makes them by itself: the kernel refuses them here.

`test_collection` fails every write that the engine makes; a volume that is really full is in `api/test_full_volume`.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.collection.model import MiB, Points, assert_same, everything, open_store, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.errors import StorageFailure

LIMITS = ShardLimits(head_points=50, log_bytes=64 * MiB, sealing_heads=0)
PAYLOAD = "x" * 2500
"""LMDB gives such a payload pages of its own, so its file is larger than any other that holds as many points."""

LARGEST = 170 * 1024
"""Bytes: a head's 50 payloads in the log or the scratch file fit, and in LMDB do not."""


@contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond *nbytes* of any file (Python ignores the signal that comes with it)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Writer:
    """Upserts points one by one, and knows which of them were acknowledged."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.points: Points = {}

    def write(self, ids: range) -> None:
        for number in ids:
            vectors, payload = vectors_of([number]), {"n": number, "text": PAYLOAD}
            self._collection.upsert([number], vectors, [payload])
            self.points[number] = (vectors[0], payload)

    def writes_again(self) -> bool:
        try:
            self.write(range(2000, 2001))
        except StorageFailure:
            return False
        return True


def test_a_write_that_the_kernel_refuses_to_lmdb_stops_sealing_and_goes_on_later(tmp_path: Path) -> None:
    store = open_store(tmp_path, limits=LIMITS)
    collection = store.create_collection("c", params())
    writer = Writer(collection)
    with largest_file(LARGEST):
        with pytest.raises(StorageFailure, match="cannot seal a segment"):
            writer.write(range(1000))
        assert len(writer.points) > LIMITS.head_points
        assert_same(everything(collection), writer.points)
    wait_until(writer.writes_again)
    wait_until(lambda: settled(collection))
    assert_same(everything(collection), writer.points)
    store.close()


def test_a_merge_that_the_kernel_refuses_to_lmdb_leaves_its_segments_and_is_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectorizer_engine.collection.compaction._AFTER_FAILURE_SECONDS", 0.5)
    store = open_store(tmp_path, limits=LIMITS)
    collection = store.create_collection("c", params())
    writer = Writer(collection)
    segments = lambda: len(list(tmp_path.rglob("vectors.f32")))  # noqa: E731
    with largest_file(2 * LARGEST):
        writer.write(range(401))
        wait_until(lambda: settled(collection))
        assert segments() == 8, "each head became a segment, and none were merged"
        assert_same(everything(collection), writer.points)
    wait_until(lambda: settled(collection) and segments() < 8)
    assert_same(everything(collection), writer.points)
    store.close()
