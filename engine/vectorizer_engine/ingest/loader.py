"""Loading one file into its collection: from where it was loaded up to, in batches, bad points left out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.errors import CollectionNotFound, InvalidRequest
from vectorizer_engine.ingest.batch import BadRow, Batch, Progress, checksums
from vectorizer_engine.ingest.formats import FORMATS
from vectorizer_engine.ingest.loaded_files import Loaded, LoadedFiles, Stat
from vectorizer_engine.metrics import Metrics

logger = logging.getLogger(__name__)

REST_NS = 1_000_000_000
"""A format that is not read while it grows is read once the file has not changed for a second."""

_RACY_NS = 2_000_000_000
"""A file that changed this recently may change again without a new time of change: its stat says nothing yet."""

_LOGGED_ROWS = 10
"""Of the bad rows of a file so many are logged one by one, the rest as a number."""


class FileUnsettled(Exception):
    """The file may still be being written: try it again in a moment."""


class FileLoader:
    """Loads files, each into the collection that its folder is named after."""

    def __init__(
        self,
        store: VectorStore,
        loaded: LoadedFiles,
        metrics: Metrics,
        *,
        between_batches: Callable[[], None],
    ) -> None:
        """*between_batches* is called often; what it raises ends a `load`, which goes on from there later."""
        self._store = store
        self._loaded = loaded
        self._metrics = metrics
        self._between_batches = between_batches

    def looks_new(self, file: Path, found: Stat) -> bool:
        """Whether *file* has to be opened to learn what is new in it."""
        loaded = self._loaded.get(file)
        try:
            identity = self._store.identity(file.parent.name)
        except CollectionNotFound:
            return True
        return loaded is None or (loaded.stat, loaded.collection) != (found, identity)

    def load(self, file: Path) -> None:
        """Upsert what is new in *file*.

        Raises FileUnsettled, FileIncomplete, FileRefused, OSError where it cannot be read, and what
        `Collection.upsert` raises, but for points that are wrong: those are named in the log and left out.
        """
        collection = self._store.collection(file.parent.name)
        identity = self._store.identity(collection.name)
        form = FORMATS[file.suffix]
        report = _Report(file, form.place)
        with file.open("rb") as content:
            status = os.fstat(content.fileno())
            age = time.time_ns() - status.st_mtime_ns
            if not form.grows and 0 <= age < REST_NS:
                raise FileUnsettled
            progress = self._progress(file, content, identity)
            try:
                for batch in form.read(content, progress, collection.params):
                    self._between_batches()
                    self._upsert(collection, batch, report)
                    report.skipped_rows(batch.bad_rows)
                    progress = batch.progress
                    self._loaded.put(file, Loaded(collection=identity, progress=progress))
                stat = None if 0 <= age < _RACY_NS else Stat.of(status)
                self._loaded.put(file, Loaded(collection=identity, progress=progress, stat=stat))
                if report.found:
                    self._metrics.watched_files.inc()
            finally:
                self._metrics.watcher_failures.labels("bad_row").inc(report.skipped)
                report.log(collection.name)

    def _progress(self, file: Path, content: BinaryIO, identity: str) -> Progress:
        """How far this very content was loaded into this very collection: not at all if it was rewritten."""
        loaded = self._loaded.get(file)
        if loaded is None or loaded.collection != identity:
            return Progress()
        crc = 0
        for crc in checksums(content, loaded.progress.position):  # noqa: B007 - the last one is the whole one
            self._between_batches()
        unchanged = (content.tell(), crc) == (loaded.progress.position, loaded.progress.crc)
        return loaded.progress if unchanged else Progress()

    def _upsert(self, collection: Collection, batch: Batch, report: _Report) -> None:
        """Upsert the points that the collection takes, in their order: it takes all or none, so halve."""
        if not batch.ids:
            return
        try:
            collection.upsert(batch.ids, batch.vectors, batch.payloads)
        except InvalidRequest as error:
            if len(batch.ids) == 1:
                reason = str(error).replace("vector 0 of the request", "its vector")
                report.skipped_rows([BadRow(batch.numbers[0], reason)])
                return
            for half in batch.halves():
                self._upsert(collection, half, report)
        else:
            report.points += len(batch.ids)
            self._metrics.watched_points.inc(len(batch.ids))


class _Report:
    """What one `load` found, for the log."""

    def __init__(self, file: Path, place: str) -> None:
        self._file = file
        self._place = place
        self.points = 0
        self.skipped = 0

    @property
    def found(self) -> bool:
        return bool(self.points or self.skipped)

    def skipped_rows(self, rows: Iterable[BadRow]) -> None:
        for row in rows:
            self.skipped += 1
            if self.skipped <= _LOGGED_ROWS:
                logger.warning("%s%s is skipped: %s", self._file, self._place.format(row.number), row.reason)

    def log(self, collection: str) -> None:
        if self.skipped > _LOGGED_ROWS:
            logger.warning("%s: %d more are skipped", self._file, self.skipped - _LOGGED_ROWS)
        if self.found:
            logger.info(
                "loaded %d points from %s into collection '%s', skipped %d",
                self.points,
                self._file,
                collection,
                self.skipped,
            )
