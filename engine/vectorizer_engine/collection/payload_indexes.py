"""The payload indexes of one shard's segments: which fields have one, and the files beside each segment.

An index is derived from the payloads, so losing one loses nothing: a file that is damaged, or that a crash left
half-written, is removed and built again. While there is none, or no memory to build it, points are read.

Which fields are indexed is in the manifest. Files that belong to no such field are removed.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

from vectorizer_engine.cache.memory_manager import CacheType, Charge, MemoryAccount
from vectorizer_engine.collection.field_values import FieldIndexer
from vectorizer_engine.collection.payload_path import Step, parse_path
from vectorizer_engine.collection.payloads import decode_payload
from vectorizer_engine.collection.types import Payload
from vectorizer_engine.collection.view import View
from vectorizer_engine.errors import InvalidRequest, StoreCorrupt, StoreVersionError
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.payload_index import SUFFIX, FieldType, open_field_index
from vectorizer_engine.storage.payload_index_writer import FieldWriter
from vectorizer_engine.storage.segment import Segment

logger = logging.getLogger(__name__)

Schema = Mapping[str, FieldType]
"""The indexed fields: path in the payload, and what is indexed of its values."""

MAX_FIELDS = 100
"""Of a collection. Each is an open file beside each segment."""

_UNFINISHED = ".part"
_PAYLOAD_BYTES_AT_ONCE = 32 * 1024
_ROW_BYTES = 64
"""What a row counts for besides its payload."""

_HEADROOM_BYTES = 1024**2
"""Reserved ahead of what `_PAYLOAD_BYTES_AT_ONCE` add: 17 times as much at most, a number of 34 bytes for a digit and
a comma. One payload that is longer adds more than that."""


def with_field(schema: Schema, path: str, type: FieldType) -> dict[str, FieldType]:
    """*schema* with the field at *path*, however it was spelled before.

    Raises InvalidRequest for what is no path, and for one field too many.
    """
    others = without_field(schema, path)
    if len(others) >= MAX_FIELDS:
        raise InvalidRequest(
            f"field_name: {path!r} would be payload index {MAX_FIELDS + 1} of the collection, which may have "
            f"{MAX_FIELDS}: delete one that is not needed"
        )
    return {**others, path: type}


def without_field(schema: Schema, path: str) -> dict[str, FieldType]:
    """*schema* without the field at *path*. Raises InvalidRequest for what is no path."""
    steps = parse_path(path)
    return {name: type for name, type in schema.items() if parse_path(name) != steps}


def index_file(segment: Segment, path: str, type: FieldType) -> Path:
    """Where the index of a field of *segment* is, or would be."""
    name = blake2b(repr((parse_path(path), type.value)).encode(), digest_size=8).hexdigest()
    return segment.folder / (name + SUFFIX)


class _Beside:
    """What goes on beside one segment: `lock` is held while files are written or removed there."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.outdated = False
        self.discarded = False


class PayloadIndexes:
    """Any thread may call. What is open is `segment.fields`."""

    def __init__(
        self,
        schema: Schema,
        *,
        memory: MemoryAccount,
        files: Files,
        scratch: Path,
        built: Callable[[Segment, Path], None] | None = None,
    ) -> None:
        """*built* is called with each file that there is, new or not."""
        self.schema = schema
        """Replaced as a whole, after the manifest has it. `drop_stale` and `build` then follow it."""
        self._memory = memory
        self._files = files
        self._scratch = scratch
        self._built = built
        self._lock = threading.Lock()
        self._segments: weakref.WeakKeyDictionary[Segment, _Beside] = weakref.WeakKeyDictionary()

    def missing(self, segment: Segment) -> dict[str, FieldType]:
        """The fields that *segment* has no index of, and should have."""
        return {
            path: type
            for path, type in self.schema.items()
            if (index := segment.fields.get(parse_path(path))) is None or index.type is not type
        }

    def missing_in(self, view: View) -> list[Segment]:
        """The segments that lack an index."""
        return [segment for segment, _ in view.segments() if self.missing(segment)]

    def open_existing(self, segment: Segment) -> None:
        """Open the indexes that *segment* has files of. Removes files that are of no use."""
        with self._beside(segment).lock:
            for path, type in self.missing(segment).items():
                file = index_file(segment, path, type)
                if not file.exists():
                    continue
                try:
                    self._open(segment, path, type)
                except (StoreCorrupt, StoreVersionError) as error:
                    logger.warning("%s", str(error))
                    self._files.remove(file)
            self._remove_stale(segment)

    def drop_stale(self, segment: Segment) -> None:
        """Remove the indexes of fields that are not in the schema any more. Those who still read one may go on.

        Where indexes of *segment* are being built, that is left to who builds them. Files that cannot be removed stay
        until the next opening: the schema counts all the same.
        """
        beside = self._beside(segment)
        beside.outdated = True
        self._drop_outdated(segment, beside)

    def build(self, segment: Segment, *, still_wanted: Callable[[], bool]) -> bool:
        """Build what `missing` names. False where the memory is refused, or it is not *still_wanted* any more.

        An index of vectors that serves is not evicted for it. Raises OSError. A segment that was discarded needs none.
        """
        beside = self._beside(segment)
        try:
            with beside.lock:
                wanted = self.missing(segment)
                if not wanted or beside.discarded:
                    return True
                return self._build(segment, wanted, lambda: still_wanted() and not beside.discarded)
        finally:
            self._drop_outdated(segment, beside)

    def discard(self, segment: Segment) -> None:
        """Write nothing more beside *segment*, whose folder is about to be removed."""
        beside = self._beside(segment)
        beside.discarded = True
        with beside.lock:
            """Wait for who is at it."""

    def _beside(self, segment: Segment) -> _Beside:
        with self._lock:
            return self._segments.setdefault(segment, _Beside())

    def _drop_outdated(self, segment: Segment, beside: _Beside) -> None:
        """Unless somebody is at it, who calls this afterwards."""
        while beside.outdated and beside.lock.acquire(blocking=False):
            try:
                beside.outdated = False
                if not beside.discarded:
                    self._remove_stale(segment)
            except OSError as error:
                logger.warning(
                    "payload indexes beside %s stay until the next start: %s", segment.folder, str(error)
                )
            finally:
                beside.lock.release()

    def _build(self, segment: Segment, wanted: Schema, still_wanted: Callable[[], bool]) -> bool:
        charge = self._memory.reserve(CacheType.METADATA, _HEADROOM_BYTES, keep=CacheType.HNSW)
        if charge is None:
            return False
        try:
            built = self._write(segment, wanted, charge, still_wanted)
        finally:
            charge.release()
            for unfinished in segment.folder.glob(f"*{_UNFINISHED}"):
                self._files.remove(unfinished)
        if built:
            for path, type in wanted.items():
                self._open(segment, path, type)
        return built

    def _write(
        self,
        segment: Segment,
        wanted: Schema,
        charge: Charge,
        still_wanted: Callable[[], bool],
    ) -> bool:
        """Write the files of the *wanted* fields, all in one pass over the payloads."""
        indexers = {
            path: FieldIndexer(
                type, parse_path(path), FieldWriter(type, scratch=self._scratch, files=self._files)
            )
            for path, type in wanted.items()
        }
        writers = [indexer.writer for indexer in indexers.values()]

        def may_go_on() -> bool:
            """Whether it is wanted still, and what the writers hold by now can be had."""
            held = sum(writer.heap_bytes(segment.count) for writer in writers)
            needed = max(0, held + _HEADROOM_BYTES - charge.nbytes)
            if not still_wanted():
                return False
            return charge.grow(needed, keep=CacheType.HNSW)

        try:
            unaccounted = _PAYLOAD_BYTES_AT_ONCE
            for row, size, payload in _payloads(segment):
                if unaccounted >= _PAYLOAD_BYTES_AT_ONCE:
                    if not may_go_on():
                        return False
                    unaccounted = 0
                unaccounted += _ROW_BYTES + size
                for indexer in indexers.values():
                    indexer.add(row, payload)
            if not may_go_on():
                return False
            for path, indexer in indexers.items():
                file = index_file(segment, path, wanted[path])
                unfinished = file.with_name(file.name + _UNFINISHED)
                indexer.writer.write(unfinished, rows=segment.count)
                self._files.rename(unfinished, file)
            self._files.sync_folder(segment.folder)
        finally:
            for writer in writers:
                writer.close()
        return True

    def _open(self, segment: Segment, path: str, type: FieldType) -> None:
        file = index_file(segment, path, type)
        index = open_field_index(file, type, segment.count)
        segment.fields = {**segment.fields, parse_path(path): index}
        if self._built is not None:
            self._built(segment, file)

    def _remove_stale(self, segment: Segment) -> None:
        schema: dict[tuple[Step, ...], FieldType] = {parse_path(path): t for path, t in self.schema.items()}
        segment.fields = {
            steps: index for steps, index in segment.fields.items() if schema.get(steps) is index.type
        }
        wanted = {index_file(segment, path, type) for path, type in self.schema.items()}
        for pattern in (f"*{SUFFIX}", f"*{_UNFINISHED}"):
            for file in segment.folder.glob(pattern):
                if file not in wanted:
                    self._files.remove(file)


def _payloads(segment: Segment) -> Iterator[tuple[int, int, Payload]]:
    """Each row, how long its payload is, and the payload."""
    for row, point in segment.scan(LiveMask.from_deleted(b"", segment.count)):
        yield row, len(point.payload), decode_payload(point.payload)
