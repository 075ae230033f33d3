"""Every call by which the background writes fails in turn: sealing, merging, and the indexes of both kinds.

Writers' own calls are `test_collection`'s, what LMDB writes by itself is `test_full_disk`'s.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.collection.model import (
    RESTLESS,
    Points,
    assert_same,
    everything,
    open_store,
    params,
    vectors_of,
)
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.disks import FailingDisk
from vectorizer_engine.collection import compaction, indexing, sealing
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.index import planner
from vectorizer_engine.storage.payload_index import FieldType

SEGMENT = {
    *("mkdir", "create vectors.f32", "create CHECKSUMS.tmp", "rename CHECKSUMS"),
    *("create payload-index.part", "rename payload-index", "create MANIFEST.tmp", "rename MANIFEST"),
}
"""The calls that begin or end a file of a segment, its payload index among them, and of what names it."""

INDEX = {"create index.hnsw-sq8.unfinished", "rename index.hnsw-sq8"}


class EachCallFailsOnce(FailingDisk):
    """Fails each call that the thread *thread* makes for the first time: it succeeds when it is tried again.

    Writes and syncs are told from each other by the file that was begun or ended before them, and by how many followed.
    """

    def __init__(self, thread: str, number: int) -> None:
        super().__init__()
        self.errno = number
        self.failed: set[tuple[str, int]] = set()
        self._thread = thread
        self._step = ("", 0)

    def _may_fail(self, call: str) -> None:
        if threading.current_thread().name != self._thread:
            return
        named, following = self._step
        if call.startswith(("create", "rename", "mkdir")):
            self._step = (re.sub(r"[0-9a-f]{8,}\.?", "", call).strip(), 0)
        else:
            self._step = (named, following + 1)
        if self._step not in self.failed:
            self.failed.add(self._step)
            raise OSError(self.errno, os.strerror(self.errno))


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once, and a few points are worth an index."""
    monkeypatch.setattr(sealing, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(compaction, "_AFTER_FAILURE_SECONDS", 0.01)
    for module in (planner, indexing):
        monkeypatch.setattr(module, "WORTH_INDEXING", 8)


def reads_as(collection: Collection, model: Points) -> bool:
    assert_same(everything(collection), model)
    return True


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(("thread", "kinds"), [("seal", SEGMENT), ("merge", SEGMENT | INDEX)])
def test_each_writing_call_of_the_background_fails_in_turn_and_nothing_is_lost(
    tmp_path: Path, thread: str, kinds: set[str], number: int
) -> None:
    disk = EachCallFailsOnce(thread, number)
    store = open_store(tmp_path, files=disk, limits=replace(RESTLESS, quiet_seconds=0.005))
    collection = store.create_collection("c", params())
    collection.create_payload_index("seed", FieldType.INTEGER)
    model: Points = {}
    for turn in itertools.count():
        failed = len(disk.failed)
        ids = [(turn * 5 + step) % 50 for step in range(8)]
        seeds = [turn * 10 + step for step in range(8)]
        collection.upsert(ids, vectors_of(seeds), [{"seed": seed} for seed in seeds])
        for point, seed in zip(ids, seeds, strict=True):
            model[point] = (vectors_of([seed])[0], {"seed": seed})
        wait_until(lambda: reads_as(collection, model) and settled(collection))
        if turn and len(disk.failed) == failed:  # the first turn has nothing to merge
            break
    assert {named for named, _ in disk.failed} - {""} == kinds
    store.close()
    store = open_store(tmp_path)
    assert_same(everything(store.collection("c")), model)
    assert store.collection("c").info().problems == ()
    store.close()
