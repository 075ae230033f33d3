"""What was loaded from which file, remembered over restarts in one file of the data folder.

It is written after the points are on disk, so a crash in between has some rows loaded again and none forgotten.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from vectorizer_engine.ingest.batch import Progress
from vectorizer_engine.storage.files import Files, disk_errors

logger = logging.getLogger(__name__)

FILE_NAME = "file-watcher.json"


class Stat(msgspec.Struct, frozen=True, array_like=True):
    """By what a changed file is told from an unchanged one without reading it."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stat:
        return cls(status.st_size, status.st_mtime_ns)


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """How far a file was loaded, and into which collection (`VectorStore.identity`).

    *stat* is that of a file which was read to its end and had rested for a while, and None of any other.
    """

    collection: str
    progress: Progress
    stat: Stat | None = None


_entries = msgspec.json.Decoder(dict[str, Loaded])


class LoadedFiles:
    """Every watched file by its path. Used by one thread."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        """Read what *folder*, the data folder, remembers."""
        self._path = folder / FILE_NAME
        self._files = files or Files()
        self._entries: dict[str, Loaded] = {}
        self._saved = True
        try:
            self._entries = _entries.decode(self._path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("%s cannot be read, so every watched file is loaded again: %s", self._path, error)

    def get(self, file: Path) -> Loaded | None:
        return self._entries.get(_key(file))

    def put(self, file: Path, loaded: Loaded) -> None:
        key = _key(file)
        if self._entries.get(key) != loaded:
            self._entries[key] = loaded
            self._saved = False

    def keep_only(self, files: Iterable[Path]) -> None:
        """Forget every other file."""
        kept = {_key(file) for file in files}
        gone = self._entries.keys() - kept
        for key in gone:
            del self._entries[key]
        self._saved = self._saved and not gone

    def save(self) -> None:
        """Make it durable, if anything has changed. Raises StorageFull, StorageFailure."""
        if self._saved:
            return
        with disk_errors(f"write {self._path}"):
            self._files.replace_file(self._path, msgspec.json.encode(self._entries))
        self._saved = True


def _key(file: Path) -> str:
    """The path as text that JSON can hold, whatever bytes the file's name has."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")
