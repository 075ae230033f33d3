"""Writes that share an append to the log, where something else happens in the middle of their group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.engine.collection.model import MiB, everything, open_store, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.sealing import Sealing
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.errors import StorageFailure
from vectorizer_engine.storage import commit
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.head import Head


class WatchedDisk(Files):
    """Tells when a segment begins to be written."""

    def __init__(self) -> None:
        self.writing = threading.Event()

    def make_folder(self, folder: Path, *, parents: bool = True) -> None:
        super().make_folder(folder, parents=parents)
        if folder.parent.name == "segments":
            self.writing.set()


def upsert_together(collection: Collection, ids: list[int]) -> None:
    """One write for each of *ids*, all in one group."""
    write_together(
        collection, [partial(collection.upsert, [number], vectors_of([number]), [None]) for number in ids]
    )


def write_together(collection: Collection, writes: Sequence[Callable[[], object]]) -> None:
    """Have *writes* wait in this order, and then be committed."""
    waiting = collection._shard._commit._waiting
    threads = [threading.Thread(target=write) for write in writes]
    with collection._shard._commit.paused():
        for number, thread in enumerate(threads, start=1):
            thread.start()
            wait_until(lambda number=number: len(waiting) == number)
    for thread in threads:
        thread.join(20)


def test_what_a_change_of_payloads_adds_to_the_log_counts_for_the_size_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "GROUP_BYTES", 1000)
    appends: list[int] = []
    store = VectorStore.open(
        tmp_path,
        memory=CacheMemoryManager(16 * MiB),
        observe_append=lambda writes, seconds: appends.append(writes),
    )
    collection = store.create_collection("c", params())
    collection.upsert([1], vectors_of([1]), [None])
    for text, groups in ((900 * "x", [1, 1]), ("x", [2])):
        appends.clear()
        write_together(
            collection,
            [
                partial(collection.set_payload, {"text": text}, ids=[1]),
                partial(collection.upsert, [2], vectors_of([2]), [{"text": 100 * "y"}]),
            ],
        )
        assert appends == groups
    store.close()


def test_a_head_is_not_sealed_between_two_writes_of_a_group_that_are_both_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealing takes what was published by then, so whatever followed would be in no part of the shard."""
    disk = WatchedDisk()
    submit = Sealing.submit

    def submit_and_let_it_begin(sealing: Sealing, *arguments: Any, **named: Any) -> None:
        submit(sealing, *arguments, **named)
        assert disk.writing.wait(20)

    monkeypatch.setattr(Sealing, "submit", submit_and_let_it_begin)
    limits = ShardLimits(head_points=100, log_bytes=1)  # so each write ends its part of the log
    store = open_store(tmp_path, limits=limits, files=disk)
    collection = store.create_collection("c", params())
    upsert_together(collection, [1, 2, 3])
    wait_until(lambda: settled(collection))
    assert everything(collection).keys() == {1, 2, 3}
    upsert_together(collection, [4, 5])
    wait_until(lambda: settled(collection))
    store.close()
    store = open_store(tmp_path, limits=limits)
    assert everything(store.collection("c")).keys() == {1, 2, 3, 4, 5}
    store.close()


def test_what_an_internal_error_kept_from_being_visible_is_not_forgotten_by_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    collection = store.create_collection("c", params())
    collection.upsert([1], vectors_of([1]), [None])
    with monkeypatch.context() as patch:
        patch.setattr(Head, "publish", Mock(side_effect=MemoryError("none left")))
        with pytest.raises(MemoryError):
            collection.upsert([2], vectors_of([2]), [None])
    with pytest.raises(StorageFailure, match="restart the engine, which recovers"):
        collection._shard.flush(within=5.0)  # as whoever is short of memory has it done
    store.close()
    store = open_store(tmp_path)
    assert everything(store.collection("c")).keys() == {1, 2}
    store.close()
