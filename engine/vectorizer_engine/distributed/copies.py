"""The copies that a member keeps of shards which it serves no more: a shard that comes back need not be fetched again.

They are in nobody's way as long as there is room. Where the volume runs short of it, those that were served longest ago
go first. Copies of shards that are served are not touched.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vectorizer_engine.storage.files import Files

logger = logging.getLogger(__name__)

FREE_SHARE = 0.25
"""So much of the volume is to be free: what is served grows, and merging writes new files before the old ones go."""


class Copies:
    """The folders ROOT/COLLECTION.TOKEN/shard-N. Any thread may call."""

    def __init__(
        self, root: Path, *, files: Files, free_share: Callable[[Path], float] | None = None
    ) -> None:
        """*free_share* tells how much of the volume of a folder is free, from 0 to 1."""
        self._root = root
        self._files = files
        self._free_share = free_share or _free_share
        self._lock = threading.Lock()

    def not_served_any_more(self, folder: Path) -> None:
        """Note that the shard in *folder* was served until now."""
        with suppress(FileNotFoundError):  # where there never were any, or they make room in this moment
            os.utime(folder)

    def make_room(self, is_served: Callable[[Path], bool]) -> None:
        """Remove what there is no room for. Raises OSError."""
        with self._lock:
            left = [folder for folder in self._root.glob("*/shard-*") if not is_served(folder)]
            for folder in sorted(left, key=_served_until):
                if self._free_share(self._root) >= FREE_SHARE:
                    return
                if is_served(folder):  # since a moment ago
                    continue
                logger.info("removing the copies in %s, to make room: it is served elsewhere", folder)
                self._files.remove_tree(folder)


def _served_until(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # its collection was deleted in this moment
        return 0.0


def _free_share(folder: Path) -> float:
    usage = shutil.disk_usage(folder)
    return usage.free / usage.total
