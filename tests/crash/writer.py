"""A process that writes to a data folder until it is killed, and says what was acknowledged.

    python -m tests.crash.writer FOLDER START_0 START_1 …

One thread for each START: it carries out its own operations from that number on, one after the other, and
prints `thread number` after each. What an operation does follows from the two numbers alone, so whoever reads
the output knows what the folder has to hold. The last thread makes, fills and deletes a collection of its own, over
and over; the others write to one that stays.
"""

from __future__ import annotations

import os
import sys
import threading
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.errors import CollectionNotFound
from vectorizer_engine.storage.payload_index import FieldType

DIMENSION = 8
BATCH = 4
IDS_OF_A_THREAD = 60
NAME = "crash"
PASSING = "passing"

LIMITS = ShardLimits(
    head_points=150,
    head_bytes=2**20,
    log_bytes=2**16,
    segment_points=1000,
    quiet_seconds=0.01,
    quiet_head_points=20,
)
"""So small that the process is killed while sealing, merging and indexing payloads too."""


class Kind(Enum):
    UPSERT = auto()
    """Points with a vector and a payload made of the operation's number."""
    DELETE = auto()
    MARK = auto()
    """Set another key of the payload to the number, where the points are there."""


class Operation(NamedTuple):
    ids: list[int]
    number: int
    kind: Kind


def operation(thread: int, number: int) -> Operation:
    first = number * 7 % IDS_OF_A_THREAD
    ids = [thread * 1000 + (first + step * 11) % IDS_OF_A_THREAD for step in range(BATCH)]
    return Operation(ids, number, {4: Kind.DELETE, 2: Kind.MARK}.get(number % 5, Kind.UPSERT))


class Step(Enum):
    """What is done to the collection that comes and goes: one after the other, by the number of the operation."""

    CREATE = 0
    FILL = 1
    DELETE = 2


def step(number: int) -> Step:
    return Step(number % len(Step))


def vector(number: int) -> np.ndarray:
    return np.full(DIMENSION, number, np.float32)


def open_folder(folder: Path) -> tuple[VectorStore, Collection]:
    """The store, and the collection that stays: made where it is missing, and with a payload index."""
    store = VectorStore.open(folder, memory=CacheMemoryManager(64 * 2**20), limits=LIMITS)
    try:
        collection = store.collection(NAME)
    except CollectionNotFound:
        collection = store.create_collection(NAME, CollectionParams(DIMENSION, Distance.EUCLID))
    collection.create_payload_index("number", FieldType.INTEGER, wait=False)
    return store, collection


def write(collection: Collection, thread: int, start: int) -> None:
    number = start
    while True:
        ids, _, kind = operation(thread, number)
        match kind:
            case Kind.UPSERT:
                rows = np.tile(vector(number), (BATCH, 1))
                collection.upsert(ids, rows, [{"number": number}] * BATCH)
            case Kind.DELETE:
                collection.delete(ids=ids)
            case Kind.MARK:
                there = [record.id for record in collection.retrieve(ids)]
                collection.set_payload({"mark": number}, ids=there)
        acknowledge(thread, number)
        number += 1


def make_fill_and_delete(store: VectorStore, thread: int, start: int) -> None:
    number = start
    while True:
        match step(number):
            case Step.CREATE:
                store.create_collection(PASSING, CollectionParams(DIMENSION, Distance.EUCLID))
            case Step.FILL:
                store.collection(PASSING).upsert([0], vector(number)[None], [{"number": number}])
            case Step.DELETE:
                assert store.delete_collection(PASSING)
        acknowledge(thread, number)
        number += 1


def acknowledge(thread: int, number: int) -> None:
    os.write(1, f"{thread} {number}\n".encode())


def main() -> None:
    store, collection = open_folder(Path(sys.argv[1]))
    *starts, passing = map(int, sys.argv[2:])
    for thread, start in enumerate(starts):
        threading.Thread(target=write, args=(collection, thread, start), daemon=True).start()
    passing_thread = threading.Thread(
        target=make_fill_and_delete, args=(store, len(starts), passing), daemon=True
    )
    passing_thread.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
