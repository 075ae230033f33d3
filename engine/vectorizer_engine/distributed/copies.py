"""The copies that a member has on its volume: how much they are, and which of them nobody serves any more.

A shard that comes back need not be fetched again as long as its copies are there. Where the volume runs short of room,
or there are more than may be, those of shards that are served no more go, the ones that were served longest ago first.
What is served is the affair of `room`.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vectorizer_engine.storage.files import Files

logger = logging.getLogger(__name__)

FREE_SHARE = 0.25
"""So much of the volume is to be free: what is served grows, and merging writes new files before the old ones go."""

COPIES_SHARE = 1 - FREE_SHARE
"""So much of the volume may be copies, where nothing else was said."""


class Copies:
    """The folders ROOT/COLLECTION.TOKEN/shard-N. Any thread may call, and one at a time `make_room`."""

    def __init__(
        self,
        root: Path,
        *,
        files: Files,
        limit: int | None = None,
        free_share: Callable[[Path], float] | None = None,
    ) -> None:
        """*limit* is how many bytes there may be; where it is not given, three quarters of the volume.

        *free_share* tells how much of a folder's volume is free, 0 to 1.
        """
        self._limit = limit
        self._root = root
        self._files = files
        self._free_share = free_share or _free_share
        self._measuring = threading.Lock()
        # Guards the rest.
        self._lock = threading.Lock()
        self._sizes: dict[Path, int] = {}
        self._expected: dict[Path, int] = {}
        """What folders will have that are being filled."""

    @property
    def limit(self) -> int:
        """How many bytes there may be. A volume may grow meanwhile."""
        if self._limit is not None:
            return self._limit
        return int(COPIES_SHARE * shutil.disk_usage(self._root).total)

    @property
    def nbytes(self) -> int:
        """How much there is, as of when each folder was looked at last."""
        with self._lock:
            return sum(self._sizes.values())

    def measure_all(self) -> None:
        for folder in self._folders():
            self.measure(folder)

    def measure(self, folder: Path) -> None:
        """Look at all files in *folder*, which have changed."""
        with self._measuring:  # or who looked first could have the last word
            size = _size(folder)
            with self._lock:
                if size:
                    self._sizes[folder] = size
                else:
                    self._sizes.pop(folder, None)

    def expect(self, folder: Path, nbytes: int) -> None:
        """*folder* is about to have so much. Until `expect_no_more` it counts for that, if it does not have more."""
        with self._lock:
            self._expected[folder] = nbytes

    def expect_no_more(self, folder: Path) -> None:
        self.measure(folder)
        with self._lock:
            self._expected.pop(folder, None)

    def has(self, folder: Path) -> bool:
        """Whether there is anything in *folder*."""
        with self._lock:
            return folder in self._sizes

    def excess(self, folder: Path | None = None, nbytes: int = 0) -> int:
        """By how much the limit is, or would be with *nbytes* in *folder*, exceeded. Not above 0: there is room."""
        with self._lock:
            counted = self._sizes | {
                each: max(size, self._sizes.get(each, 0)) for each, size in self._expected.items()
            }
        if folder is not None:
            counted[folder] = max(nbytes, counted.get(folder, 0))
        return sum(counted.values()) - self.limit

    def not_served_any_more(self, folder: Path) -> None:
        """Note that the shard in *folder* was served until now."""
        self.measure(folder)
        with suppress(FileNotFoundError):  # where there never were any, or they make room in this moment
            os.utime(folder)

    def make_room(
        self, is_served: Callable[[Path], bool], folder: Path | None = None, nbytes: int = 0
    ) -> None:
        """Remove what is not served and there is no room for, with *nbytes* in *folder*. Raises OSError."""
        left = [each for each in self._folders() if each != folder and not is_served(each)]
        for each in sorted(left, key=_served_until):
            if self._free_share(self._root) >= FREE_SHARE and self.excess(folder, nbytes) <= 0:
                return
            if is_served(each):  # since a moment ago
                continue
            logger.info("removing the copies in %s, to make room: it is not served here", each)
            self.remove(each)

    def _folders(self) -> list[Path]:
        found: list[Path] = []
        for collection in self._root.iterdir():
            if not collection.name.startswith("."):
                with suppress(FileNotFoundError):  # it is deleted in this moment
                    found += collection.glob("shard-*")
        return found

    def remove(self, folder: Path) -> None:
        """Raises OSError."""
        # Out of the way in one step: work in the background may go on for a while, by the names that it knows.
        removed = self._root / f".removed.{secrets.token_hex(8)}"
        try:
            with suppress(FileNotFoundError):
                self._files.rename(folder, removed)
            self._files.remove_tree(removed)
        finally:
            self.measure(folder)


def _size(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):  # passes over folders that vanish
        for name in names:
            with suppress(FileNotFoundError):
                size += (Path(parent) / name).stat().st_size
    return size


def _served_until(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # its collection was deleted in this moment
        return 0.0


def _free_share(folder: Path) -> float:
    usage = shutil.disk_usage(folder)
    return usage.free / usage.total
