"""A process that writes to a data folder until it is killed, and says what was acknowledged.

    python -m tests.crash.writer FOLDER START_0 START_1 …

One thread for each START: it carries out its own operations from that number on, one after the other, and
prints `thread number` after each. What an operation does follows from the two numbers alone, so whoever reads
the output knows what the folder has to hold.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.errors import CollectionExists, CollectionNotFound

DIMENSION = 8
BATCH = 4
IDS_OF_A_THREAD = 60
NAME = "crash"

LIMITS = ShardLimits(head_points=150, head_bytes=2**20, log_bytes=2**16, segment_points=1000)
"""So small that the process is killed while sealing and merging too."""


class Operation(NamedTuple):
    """Delete the ids, or upsert them with a vector and a payload made of the number."""

    ids: list[int]
    number: int
    deletes: bool


def operation(thread: int, number: int) -> Operation:
    first = number * 7 % IDS_OF_A_THREAD
    ids = [thread * 1000 + (first + step * 11) % IDS_OF_A_THREAD for step in range(BATCH)]
    return Operation(ids, number, deletes=number % 5 == 4)


def vector(number: int) -> np.ndarray:
    return np.full(DIMENSION, number, np.float32)


def open_folder(folder: Path) -> tuple[VectorStore, Collection]:
    store = VectorStore.open(folder, memory=CacheMemoryManager(64 * 2**20), limits=LIMITS)
    try:
        return store, store.collection(NAME)
    except CollectionNotFound:
        return store, store.create_collection(NAME, CollectionParams(DIMENSION, Distance.EUCLID))


def write(collection: Collection, thread: int, start: int) -> None:
    number = start
    while True:
        step = operation(thread, number)
        if step.deletes:
            collection.delete(ids=step.ids)
        else:
            rows = np.tile(vector(number), (BATCH, 1))
            collection.upsert(step.ids, rows, [{"number": number}] * BATCH)
        os.write(1, f"{thread} {number}\n".encode())
        number += 1


def make_and_delete(store: VectorStore) -> None:
    """Collections that come and go, so that the process is killed within that too."""
    while True:
        with contextlib.suppress(CollectionExists):
            store.create_collection("passing", CollectionParams(DIMENSION, Distance.DOT))
        store.delete_collection("passing")


def main() -> None:
    store, collection = open_folder(Path(sys.argv[1]))
    threading.Thread(target=make_and_delete, args=(store,), daemon=True).start()
    for thread, start in enumerate(sys.argv[2:]):
        threading.Thread(target=write, args=(collection, thread, int(start)), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
