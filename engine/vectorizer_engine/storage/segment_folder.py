"""The sealed segments of one shard in its folder: their files, those that are open, and what these hold on the heap."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import NamedTuple

from vectorizer_engine.cache.memory_manager import CacheType, Charge, MemoryAccount
from vectorizer_engine.config import StorageType
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.live import mask_bytes
from vectorizer_engine.storage.segment import Segment

logger = logging.getLogger(__name__)


def bytes_of_segment(points: int) -> int:
    """What a segment of so many points holds on the heap, its indexes apart: which of its rows count.

    Twice: a write makes the next mask of them while readers have the last one.
    """
    return 2 * mask_bytes(points)


def segment_path(folder: Path, number: int) -> Path:
    """Where the segment of this number of the shard in *folder* is."""
    return folder / "segments" / f"{number:08d}"


class SegmentPlace(NamedTuple):
    """Where the segments of a shard lie, and how they are opened."""

    folder: Path
    dimension: int
    storage: StorageType
    memory: MemoryAccount
    files: Files


class SegmentFolder:
    """The segments in the folder of a shard. Any thread may call."""

    def __init__(self, place: SegmentPlace) -> None:
        self._folder, self._dimension, self._storage, self._memory, self._files = place
        self._lock = threading.Lock()
        self._charges: dict[Segment, Charge] = {}

    def discard(self, segment: Segment) -> None:
        """Remove a segment that is not needed any more. Those who still read it may go on."""
        self._give_back(segment)
        self._remove(segment.id)

    def close(self) -> None:
        """Give back what was reserved for the segments."""
        with self._lock:
            for charge in self._charges.values():
                charge.release()
            self._charges.clear()

    def _open(self, number: int, reserved: Charge | None = None) -> Segment:
        """Raises StoreCorrupt, CacheMemoryLimitExceeded and OSError."""
        segment = Segment(self._path(number), id=number, dimension=self._dimension, storage=self._storage)
        needed = bytes_of_segment(segment.count)
        if reserved is not None:
            charge: Charge | None = reserved.split(needed)
        else:
            charge = self._memory.reserve(CacheType.METADATA, needed, vital=True)
        if charge is None:
            raise self._memory.limit_exceeded(f"a segment of {segment.count} points", needed)
        with self._lock:
            self._charges[segment] = charge
        return segment

    def _give_back(self, segment: Segment) -> None:
        with self._lock:
            charge = self._charges.pop(segment, None)  # none where the store was closed meanwhile
        if charge is not None:
            charge.release()

    def _remove(self, number: int) -> None:
        """Remove the files of a segment that is not needed any more, or was never finished.

        Those that cannot be removed are left to the next opening: what was published counts all the same.
        """
        path = self._path(number)
        try:
            self._files.remove_tree(path)
        except OSError as error:
            logger.warning("%s is no longer needed, and stays until the next start: %s", path, str(error))

    def _remove_others(self, numbers: set[int]) -> None:
        """Remove the files of segments that are not among *numbers*. Raises OSError."""
        named = {self._path(number) for number in numbers}
        for folder in (self._folder / "segments").iterdir():
            if folder not in named:
                self._files.remove_tree(folder)

    def _path(self, number: int) -> Path:
        return segment_path(self._folder, number)
