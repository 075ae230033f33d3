"""The objects of a shared log, one a frame: their names, and how they are found and read."""

from __future__ import annotations

from collections.abc import Mapping

from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.storage.object_frame import (
    NO_CHECKPOINT,
    Checkpoint,
    Frame,
    decode_checkpoint,
    decode_frame,
)
from vectorizer_engine.storage.object_store import ObjectStore


def frame_name(prefix: str, number: int) -> str:
    """The object of the frame of this number, of the log whose objects are below *prefix*."""
    return f"{prefix}/{number:020d}"


def list_frames(store: ObjectStore, prefix: str, *, after: int = 0) -> dict[int, int]:
    """The sizes of the frames with a number above *after*. Raises OSError."""
    start = frame_name(prefix, after) if after else ""
    return {int(name.rpartition("/")[2]): size for name, size in store.list(prefix, after=start)}


def read_frame(store: ObjectStore, prefix: str, number: int) -> Frame:
    """Raises ObjectMissing, StoreCorrupt and OSError."""
    name = frame_name(prefix, number)
    return decode_frame(store.read(name), name=name, number=number)


def no_frames(prefix: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"there is no object below {prefix}, where at least one claim must be: the collection's objects were "
        "deleted; restore it from a snapshot"
    )


def read_newest_checkpoint(
    store: ObjectStore, prefix: str, sizes: Mapping[int, int]
) -> tuple[int, Checkpoint]:
    """The number of the last checkpoint of a log with frames of *sizes*, 0 where there is none yet, and what it says.

    Raises StoreCorrupt where there is no frame, ObjectMissing and OSError.
    """
    if not sizes:
        raise no_frames(prefix)
    number = read_frame(store, prefix, max(sizes)).newest_checkpoint
    if number == 0:
        return 0, NO_CHECKPOINT
    return number, decode_checkpoint(read_frame(store, prefix, number))
