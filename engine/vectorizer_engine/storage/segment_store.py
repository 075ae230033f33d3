"""The sealed segments of one shard, and the manifest that says which of them count.

Nothing here knows what is live at present: that is handed in when a manifest is published.

    MANIFEST
    segments/00000001/      one folder a segment, never written again
    quarantine/00000002/    a segment that was found damaged, for whoever wants to look
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from vectorizer_engine.cache.memory_manager import Charge
from vectorizer_engine.errors import Fenced, StoreCorrupt
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.manifest import (
    Manifest,
    QuarantinedSegment,
    SegmentEntry,
    read_manifest,
    write_manifest,
)
from vectorizer_engine.storage.payload_index import FieldType
from vectorizer_engine.storage.segment import Segment, StoredPoint, verify_segment, write_segment
from vectorizer_engine.storage.segment_folder import SegmentFolder, SegmentPlace

logger = logging.getLogger(__name__)

Batches = Iterable[tuple[Sequence[StoredPoint], Vectors]]


class FileSegmentStore(SegmentFolder):
    """Segments in the folders of a place. What publishes is for one thread at a time, the rest for any."""

    def __init__(self, place: SegmentPlace) -> None:
        """Raises StoreCorrupt where the manifest cannot be read, and OSError."""
        super().__init__(place)
        self._in_doubt: set[int] = set()
        self.manifest = self._load_manifest()
        self._next = self.manifest.next_segment

    @staticmethod
    def create(folder: Path, *, files: Files) -> None:
        """Make an empty store in *folder*, which exists. Raises OSError."""
        for name in ("segments", "quarantine"):
            files.make_folder(folder / name)
        write_manifest(folder, Manifest(), files=files)

    def open_all(self) -> list[tuple[Segment, LiveMask]]:
        """Verify and open what the manifest names, set aside what is damaged, remove what no manifest knows."""
        self._remove_others({entry.id for entry in self.manifest.segments})
        opened: list[tuple[Segment, LiveMask]] = []
        damaged: list[QuarantinedSegment] = []
        for entry in self.manifest.segments:
            try:
                self._verify(entry.id)
                segment = self._open(entry.id)
            except StoreCorrupt as error:
                reason = str(error)  # the error itself would keep the other segments open
                logger.error("%s: segment %d with %d points is set aside", reason, entry.id, entry.points)
                damaged.append(QuarantinedSegment(entry.id, entry.points, reason))
            else:
                opened.append((segment, LiveMask.from_deleted(entry.deleted, segment.count)))
        if damaged:
            self._set_aside(damaged)
        return opened

    def write(self, batches: Batches, *, reserved: Charge | None = None) -> Segment:
        """Write *batches* of points, in key order and each key once, as a new segment that no manifest names.

        What the segment needs on the heap (`bytes_of_segment`) is taken from *reserved* where that is given. Raises
        OSError, CacheMemoryLimitExceeded, and what *batches* raises; then nothing of it is left.
        """
        with self._lock:
            number = self._next
            self._next += 1
        try:
            self._make(number, batches)
            return self._open(number, reserved)
        except BaseException:
            self._remove(number)
            raise

    def publish(self, segments: Iterable[tuple[Segment, LiveMask]], *, applied: int, logged: int) -> None:
        """Make *segments* the durable content of the shard.

        Raises OSError. Then the old content counts; after a crash it may be the new one, which means the same.
        """
        manifest = msgspec.structs.replace(
            self.manifest,
            applied=applied,
            logged=logged,
            next_segment=self._next,
            segments=tuple(
                SegmentEntry(segment.id, segment.count, live.deleted(segment.count))
                for segment, live in segments
            ),
        )
        self._replace_manifest(manifest)

    def publish_payload_schema(self, schema: dict[str, FieldType]) -> None:
        """Make *schema* the durable one of the shard. Raises OSError; then the old one counts."""
        self._replace_manifest(msgspec.structs.replace(self.manifest, payload_schema=schema))

    def discard(self, segment: Segment) -> None:
        """Remove a segment that the manifest does not name. Those who still read it may go on.

        Where a manifest that names it may be the durable one, its files stay until another one is for certain.
        """
        self._give_back(segment)
        if segment.id not in self._in_doubt:
            self._remove(segment.id)

    @property
    def has_leftovers(self) -> bool:
        """Whether there is what no manifest names and the next that is published has removed."""
        return False

    def lacks_index(self, number: int, path: Path) -> bool:
        """Whether the index file *path* of a segment should be kept elsewhere, too, and is not."""
        return False

    def keep_index(self, number: int, path: Path) -> None:
        """Keep a copy of what is lacked. Raises OSError, Fenced, and StoreCorrupt where the file is not whole."""

    def _replace_manifest(self, manifest: Manifest) -> None:
        """Raises OSError. The disk may have failed when the new manifest was already in its place.

        Raises Fenced where it certainly is not, and never will be.
        """
        named = {entry.id for entry in manifest.segments}
        unnamed = named - {entry.id for entry in self.manifest.segments} - self._in_doubt
        self._in_doubt |= unnamed
        try:
            self._save_manifest(manifest)
        except Fenced:
            self._in_doubt -= unnamed
            raise
        self.manifest = manifest
        for number in self._in_doubt - named:
            self._remove(number)
        self._in_doubt.clear()

    def _load_manifest(self) -> Manifest:
        return read_manifest(self._folder)

    def _save_manifest(self, manifest: Manifest) -> None:
        write_manifest(self._folder, manifest, files=self._files)

    def _verify(self, number: int) -> None:
        """Raises StoreCorrupt where a segment is not as it was written, and OSError."""
        verify_segment(self._path(number))

    def _make(self, number: int, batches: Batches) -> None:
        """Write the files of a segment. What it leaves when it fails is for `_remove`."""
        write_segment(self._path(number), batches, dimension=self._dimension, files=self._files)

    def _set_aside(self, damaged: list[QuarantinedSegment]) -> None:
        """Move segments to the quarantine and out of the manifest.

        Files first: after a crash between the two, the segment is missing, and is set aside again.
        """
        ids = {segment.id for segment in damaged}
        for number in ids:
            source = self._path(number)
            if source.exists():
                self._files.rename(source, self._folder / "quarantine" / source.name)
        self.manifest = msgspec.structs.replace(
            self.manifest,
            segments=tuple(entry for entry in self.manifest.segments if entry.id not in ids),
            quarantined=(*self.manifest.quarantined, *damaged),
        )
        self._save_manifest(self.manifest)
