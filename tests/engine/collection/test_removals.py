"""A disk that writes what it is told to and cannot remove what is no longer needed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.engine.collection.model import SMALL, MiB, assert_same, everything, open_store, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.storage.files import Files


class HoardingDisk(Files):
    """Counts what it should have removed."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def remove(self, path: Path) -> None:
        self._refuse(path)

    def remove_tree(self, folder: Path) -> None:
        self._refuse(folder)

    def _refuse(self, path: Path) -> None:
        if path.exists():
            self.kept.append(path.suffix or path.parent.name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_cannot_be_removed_costs_no_point_and_holds_no_memory(tmp_path: Path) -> None:
    disk, memory = HoardingDisk(), CacheMemoryManager(16 * MiB)
    store = VectorStore.open(tmp_path, memory=memory, files=disk, limits=SMALL)
    collection = store.create_collection("c", params())
    for number in range(100):
        collection.upsert([number], vectors_of([number]), [{"n": number}])
    wait_until(lambda: settled(collection))
    assert {".log", "segments"} <= set(disk.kept), "heads were sealed, and segments merged"
    served = {segment.id for segment, _ in collection._shard.view.segments()}
    charged = {segment.id for segment in collection._shard._segments._charges}
    assert charged == served, "nothing is held for those that were merged"
    expected = {number: (vectors_of([number])[0], {"n": number}) for number in range(100)}
    assert_same(everything(collection), expected)
    store.close()
    assert memory.snapshot().used == 0
    store = open_store(tmp_path)
    assert_same(everything(store.collection("c")), expected)
    store.close()
