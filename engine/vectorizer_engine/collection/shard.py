"""A shard: a log, a head, and sealed segments that are merged behind it.

    write -> log (fsync) -> head -> sealed segment -> merged segment

What must stay true:
- A record is in the log before anything of it is visible, and everything up to the manifest's `applied` is in
  the segments that the manifest names. So a crash at any moment loses nothing that was acknowledged.
- A key is live in one part at most, in every view that was ever published.
- Only the leader of the group commit changes what is visible; the background work takes its turn by pausing it.
- What grows on the heap was reserved before the write was submitted. A writer that is refused waits until
  heads have been sealed; it never makes the leader wait.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType, Charge
from vectorizer_engine.collection.indexing import SegmentIndexes
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.merge_policy import FANOUT, Size, choose_merge
from vectorizer_engine.collection.operations import (
    ChangePayload,
    Delete,
    Upsert,
    UpsertRecord,
    decode_record,
)
from vectorizer_engine.collection.types import CollectionParams, LayoutInfo
from vectorizer_engine.collection.view import Accepts, Part, Place, Source, View
from vectorizer_engine.errors import (
    CacheMemoryLimitExceeded,
    EngineError,
    StorageFailure,
    StorageFull,
    StoreClosed,
    StoreCorrupt,
)
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.storage.commit import GroupCommit
from vectorizer_engine.storage.files import Files, disk_errors
from vectorizer_engine.storage.head import POINT_BYTES, Head
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.log import FileLog
from vectorizer_engine.storage.manifest import QuarantinedSegment
from vectorizer_engine.storage.segment import Segment, StoredPoint
from vectorizer_engine.storage.segment_store import FileSegmentStore

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1024
_QUIET_SECONDS = 2.0
"""Without a write for so long, segments are indexed that are too small to be indexed while more may follow."""
_MEMORY_PATIENCE = 30.0
"""Seconds for which a write waits for heads to be sealed before it gives up."""


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """When a head is sealed and how large segments grow. Sizes in rows and bytes."""

    head_points: int = 16_384
    head_bytes: int = 64 * 1024**2
    log_bytes: int = 128 * 1024**2
    sealing_heads: int = 2
    segment_points: int = 4_000_000


@dataclass(frozen=True, slots=True)
class ShardEnvironment:
    """What all shards of a store share."""

    memory: CacheMemoryManager
    maintenance: Maintenance
    files: Files
    scratch: Path
    limits: ShardLimits


@dataclass(slots=True)
class _SealedHead:
    """A head that takes no more points. Records up to `applied` are in it or in what came before."""

    head: Head | None
    charge: Charge
    applied: int


class _Stopping(Exception):
    """The job is given up; recovery will find what is left to do."""


def create_shard(folder: Path, *, files: Files) -> None:
    """Make an empty shard in the new *folder*. Raises OSError."""
    files.make_folder(folder / "log")
    FileSegmentStore.create(folder, files=files)


class Shard:
    """One shard, open. Any thread may call; see the module for who may change what."""

    def __init__(self, folder: Path, params: CollectionParams, environment: ShardEnvironment) -> None:
        """Open and recover the shard in *folder*. Raises StoreCorrupt, StorageFull, StorageFailure."""
        self._folder = folder
        self._params = params
        self._environment = environment
        self._files = environment.files
        self._memory = environment.memory
        self._closed = threading.Event()
        self._limits = environment.limits
        # Guards the publication of a view together with the heads' keys.
        self._lock = threading.Lock()
        self._view = View()
        self._head: Head | None = None
        self._staging: Head | None = None
        self._head_charge = self._reserve_nothing()
        # Guards what follows, and wakes writers that wait for it.
        self._sealing = threading.Condition()
        self._sealed_heads: list[_SealedHead] = []
        self._sealing_error: tuple[type[EngineError], str] | None = None
        self._sealing_tried = 0.0
        self._tidying = False
        self._waiting_for_quiet = False
        self._last_write = 0.0
        self._indexes = SegmentIndexes(params.distance, memory=self._memory, files=self._files)
        self._log_bytes = 0
        with disk_errors(f"open {folder}"):
            self._segments = FileSegmentStore(
                folder, dimension=params.dimension, memory=self._memory, files=self._files
            )
            manifest = self._segments.manifest
            self._log = FileLog(folder / "log", first=manifest.applied + 1, files=self._files)
        if self._log.next_number <= manifest.logged:
            raise StoreCorrupt(
                f"the log in {folder / 'log'} ends with record {self._log.next_number - 1}, but had reached "
                f"{manifest.logged}: acknowledged records are missing; restore the collection from a "
                "snapshot"
            )
        self._commit = GroupCommit(self._log)
        environment.maintenance.register(self)
        with disk_errors(f"recover {folder}"):
            opened = self._segments.open_all()
            for segment, _ in opened:
                self._indexes.open_existing(segment)
            self._view = View(tuple(Part(segment, segment.count, live) for segment, live in opened))
            self._replay()
        self._schedule_tidying()

    # --- writing -------------------------------------------------------------------------------------

    def upsert(
        self, keys: Sequence[bytes], vectors: Vectors, payloads: Sequence[bytes], *, wait: bool
    ) -> int:
        """Insert or replace points; each key once. *vectors* is float32 [n, d] in C order."""
        charge = self._admit(len(keys))
        return self._submit(Upsert(self, keys, vectors, payloads, charge), wait=wait)

    def change_payload(
        self, keys: Sequence[bytes], change: Callable[[bytes], bytes], accepts: Accepts | None, *, wait: bool
    ) -> int:
        """Replace the payload (JSON or empty) of each point by what *change* makes of it."""
        charge = self._admit(len(keys))
        return self._submit(ChangePayload(self, keys, change, charge, accepts), wait=wait)

    def delete(self, keys: Sequence[bytes], accepts: Accepts | None, *, wait: bool) -> int:
        return self._commit.submit(Delete(self, keys, accepts), wait=wait)

    def _submit(self, operation: Upsert, *, wait: bool) -> int:
        try:
            return self._commit.submit(operation, wait=wait)
        except BaseException:
            operation.charge.release()
            raise

    def _admit(self, points: int) -> Charge:
        """Reserve what the head needs for so many points, waiting for space if need be."""
        needed = points * POINT_BYTES
        what = f"a batch of {points} points"
        self._memory.require_possible(what, needed)
        deadline = time.monotonic() + _MEMORY_PATIENCE
        with self._sealing:
            while len(self._sealed_heads) > self._limits.sealing_heads:
                self._check_sealing()
                self._sealing.wait(1.0)
        while True:
            charge = self._memory.reserve(CacheType.METADATA, needed)
            if charge is not None:
                return charge
            if time.monotonic() > deadline:
                raise CacheMemoryLimitExceeded(what=what, requested=needed, limit=self._memory.limit)
            self._environment.maintenance.relieve()
            with self._sealing:
                self._check_sealing()
                self._sealing.wait(0.05)

    def _check_sealing(self) -> None:
        """Pass on why heads cannot be sealed, and try again: the disk may have space by now."""
        if self._closed.is_set() or self._environment.maintenance.stopping.is_set():
            raise StoreClosed("the store is shutting down: send the write again later")
        if self._sealing_error is not None:
            if time.monotonic() - self._sealing_tried > 1.0:
                self._sealing_tried = time.monotonic()
                self._environment.maintenance.seal(self._seal_heads)
            kind, reason = self._sealing_error
            raise kind(reason)

    # --- the steps of a write, called by the leader of the group commit --------------------------------

    def stage(self, vectors: Vectors, payloads: Sequence[bytes]) -> Head:
        """Write rows to the head, or to the one that will follow it. Raises StorageFull, StorageFailure."""
        with disk_errors("write to the scratch file"):
            head = self._staging
            if head is None or not head.fits(len(vectors)) or head.payload_bytes > self._limits.head_bytes:
                row_bytes = 4 * self._params.dimension
                capacity = min(self._limits.head_points, max(1, self._limits.head_bytes // row_bytes))
                self._staging = head = Head(
                    self._environment.scratch,
                    dimension=self._params.dimension,
                    capacity=max(capacity, len(vectors)),
                    files=self._files,
                )
            head.stage(vectors, payloads)
            return head

    def apply_upsert(self, operation: Upsert, number: int) -> None:
        head = operation.head
        assert head is not None, "it was prepared"
        if head is not self._head:
            if self._head is not None:
                self._seal_head(applied=number - 1)
            self._head = head
        parts = self._without(operation.keys)
        with self._lock:
            offsets = head.publish(operation.keys, operation.payloads, version=number)
            before = parts.pop(head, None) or Part(head, 0, LiveMask.none(head.capacity))
            parts[head] = Part(head, head.count, before.live.with_range(offsets))
            self._view = View(tuple(parts.values()))
        self._head_charge.absorb(operation.charge)
        self._note_logged(operation.size, number)

    def apply_delete(self, keys: Sequence[bytes], number: int) -> None:
        view = View(tuple(self._without(keys).values()))
        with self._lock:
            self._view = view
        self._note_logged(sum(map(len, keys)), number)

    def _without(self, keys: Sequence[bytes]) -> dict[Source, Part]:
        """The parts of the view, by source, in which *keys* are no longer live."""
        gone: dict[Source, list[int]] = {}
        for place in self._view.find(dict.fromkeys(keys)):  # a delete may name a key twice
            if place is not None:
                gone.setdefault(place.part.source, []).append(place.offset)
        return {
            part.source: Part(part.source, part.rows, part.live.without(gone[part.source]))
            if part.source in gone
            else part
            for part in self._view.parts
        }

    def _note_logged(self, size: int, number: int) -> None:
        """Deletes fill the log and never the head, so the log's own size seals it too."""
        self._log_bytes += size
        self._last_write = time.monotonic()
        if self._log_bytes > self._limits.log_bytes:
            self._seal_head(applied=number)

    def _seal_head(self, *, applied: int) -> None:
        """Let the head take no more points, and have it sealed in the background."""
        if self._head is None and self._log_bytes == 0:
            return
        with self._sealing:
            self._sealed_heads.append(_SealedHead(self._head, self._head_charge, applied))
        self._head_charge = self._reserve_nothing()
        if self._staging is self._head:
            self._staging = None
        self._head = None
        self._log_bytes = 0
        self._log.roll()
        self._environment.maintenance.seal(self._seal_heads)

    def flush(self) -> None:
        """Have the head sealed now, however small it is: what it holds on the heap is wanted elsewhere."""
        with self._commit.paused():
            self._seal_head(applied=self._log.next_number - 1)

    @property
    def last_number(self) -> int:
        """The number of the last write."""
        return self._log.next_number - 1

    @property
    def head_bytes(self) -> int:
        """Heap bytes of the head that takes points at present."""
        return self._head_charge.nbytes

    # --- reading -------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """What there is now. It does not change; take a new one to see what was written since."""
        self._check_open()
        return self._view

    def find(self, keys: Iterable[bytes]) -> list[Place | None]:
        """The place of each key, None for those that are not there."""
        self._check_open()
        with self._lock:
            return self._view.find(keys)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise StoreClosed(f"{self._folder} is closed: its collection was deleted or the store shuts down")

    def layouts(self) -> Iterator[LayoutInfo]:
        """How each sealed segment is searched."""
        for segment, part in self.view.segments():
            plan = self._indexes.plan(segment)
            if segment.index is None and plan.layout is not SegmentLayout.EXACT:
                yield LayoutInfo(
                    part.live.count, SegmentLayout.EXACT, f"{plan.layout.value} is not built yet"
                )
            else:
                yield LayoutInfo(part.live.count, plan.layout, plan.reason)

    @property
    def busy(self) -> bool:
        """Whether heads are being sealed, segments merged or indexes built."""
        with self._sealing:
            return bool(self._sealed_heads) or self._tidying

    @property
    def quarantined(self) -> tuple[QuarantinedSegment, ...]:
        return self._segments.manifest.quarantined

    @property
    def disk_bytes(self) -> int:
        """Size of the log and of the segments."""
        size = 0
        for folder, _, names in os.walk(self._folder):  # passes over folders that vanish
            for name in names:
                with suppress(FileNotFoundError):
                    size += (Path(folder) / name).stat().st_size
        return size

    # --- the background ------------------------------------------------------------------------------

    def _seal_heads(self) -> None:
        """Turn the oldest of the waiting heads into a segment, until none waits."""
        while True:
            with self._sealing:
                if not self._sealed_heads:
                    return
                oldest = self._sealed_heads[0]
            try:
                with disk_errors(f"seal a segment in {self._folder}"):
                    self._seal(oldest)
            except _Stopping:
                return
            except EngineError as error:
                # Its words only: the error itself would keep alive all that the failed job had in hand.
                kind, reason = type(error), str(error)
                logger.error("%s; writes wait", reason)
                with self._sealing:
                    self._sealing_error = (StorageFull if kind is StorageFull else StorageFailure, reason)
                    self._sealing_tried = time.monotonic()
                    self._sealing.notify_all()
                return
            oldest.charge.release()
            with self._sealing:
                self._sealed_heads.pop(0)
                self._sealing_error = None
                self._sealing.notify_all()
            self._schedule_tidying()

    def _seal(self, sealed: _SealedHead) -> None:
        snapshot = self._view
        parts = [part for part in snapshot.parts if part.source is sealed.head]
        self._rewrite(parts, applied=sealed.applied)

    def _schedule_tidying(self) -> None:
        with self._sealing:
            nothing_sealed = next(self._view.segments(), None) is None
            if self._tidying or self._closed.is_set() or nothing_sealed:
                return
            self._tidying = True
        self._environment.maintenance.merge(self._tidy)

    def _tidy(self) -> None:
        """Merge what is to be merged; then index, because a segment that is merged soon needs no index."""
        tried: set[Segment] = set()
        try:
            while True:
                self._check_running()
                if parts := self._choose_merge():
                    with disk_errors(f"merge segments in {self._folder}"):
                        self._rewrite(parts, applied=None)
                elif segment := self._choose_for_index(tried):
                    tried.add(segment)
                    with disk_errors(f"index a segment in {self._folder}"):
                        self._indexes.build(segment, still_wanted=self._is_running)
                else:
                    break
        except _Stopping:
            pass
        except EngineError as error:
            logger.error("%s; the segments stay as they are", str(error))
        finally:
            with self._sealing:
                self._tidying = False

    def _choose_merge(self) -> list[Part]:
        parts = [part for _, part in self._view.segments()]
        largest = self._indexes.largest_segment(self._params.dimension) or self._limits.segment_points
        chosen = choose_merge(
            [Size(part.rows, part.live.count) for part in parts],
            unit=self._limits.head_points,
            largest=min(largest, self._limits.segment_points),
        )
        return [parts[index] for index in chosen]

    def _choose_for_index(self, tried: set[Segment]) -> Segment | None:
        """The largest segment that should have an index. Small ones wait for quiet: they may be merged soon."""
        wanting = [
            segment
            for segment, _ in self._view.segments()
            if segment not in tried and self._indexes.wants(segment)
        ]
        if not wanting:
            return None
        largest = max(wanting, key=lambda segment: segment.count)
        quiet = time.monotonic() - self._last_write >= _QUIET_SECONDS
        if quiet or largest.count >= FANOUT * self._limits.head_points:
            return largest
        self._tidy_when_quiet()
        return None

    def _tidy_when_quiet(self) -> None:
        with self._sealing:
            if self._waiting_for_quiet:
                return
            self._waiting_for_quiet = True

        def tidy() -> None:
            with self._sealing:
                self._waiting_for_quiet = False
            self._schedule_tidying()

        self._environment.maintenance.merge_later(_QUIET_SECONDS, tidy)

    def _rewrite(self, parts: Sequence[Part], *, applied: int | None) -> None:
        """Put one segment with what is live in *parts* in their place.

        With *applied*, the records up to that number are then no longer needed in the log.
        """
        view = View(tuple(parts))
        segment = self._segments.write(self._batches(view)) if view.points else None
        try:
            with self._commit.paused():
                self._publish(parts, segment, applied)
        except BaseException:
            if segment is not None:
                self._segments.discard(segment)
            raise
        for old, _ in view.segments():
            self._indexes.discard(old)
            self._segments.discard(old)

    def _batches(self, view: View) -> Iterator[tuple[list[StoredPoint], Vectors]]:
        scan = view.scan()
        while batch := list(islice(scan, _ROWS_AT_ONCE)):
            self._check_running()
            yield (
                [point for point, _ in batch],
                np.stack([place.part.vectors[place.offset] for _, place in batch]),
            )

    def _publish(self, parts: Sequence[Part], segment: Segment | None, applied: int | None) -> None:
        """Replace *parts* by *segment*, in the manifest and then in the view. Nothing else writes meanwhile."""
        self._check_running()
        replaced = {part.source: part for part in parts}
        kept = [part for part in self._view.parts if part.source not in replaced]
        if segment is not None:
            gone = self._deleted_since(replaced)
            offsets = [offset for offset in segment.find(gone) if offset is not None]
            live = LiveMask.from_deleted(b"", segment.count).without(offsets)
            kept.insert(0, Part(segment, segment.count, live))
        view = View(tuple(kept))
        applied = self._segments.manifest.applied if applied is None else applied
        self._segments.publish(
            [(source, part.live) for source, part in view.segments()],
            applied=applied,
            logged=self._log.next_number - 1,
        )
        with self._lock:
            self._view = view
        self._log.forget(through=applied)

    def _check_running(self) -> None:
        if not self._is_running():
            raise _Stopping

    def _is_running(self) -> bool:
        return not (self._closed.is_set() or self._environment.maintenance.stopping.is_set())

    def _deleted_since(self, before: dict[Source, Part]) -> list[bytes]:
        """The keys that were live in *before* and have since been deleted or overwritten."""
        keys: list[bytes] = []
        for part in self._view.parts:
            if part.source in before:
                gone = LiveMask(before[part.source].live.bits & ~part.live.bits, 0).offsets()
                keys.extend(point.key for point in part.source.points(gone.tolist()))
        return keys

    # --- opening and closing ---------------------------------------------------------------------------

    def _reserve_nothing(self) -> Charge:
        charge = self._memory.reserve(CacheType.METADATA, 0)
        assert charge is not None, "nothing always fits"
        return charge

    def _replay(self) -> None:
        """Apply what the log holds beyond the segments, by the same steps as a new write."""
        for record in self._log.replay(after=self._segments.manifest.applied):
            decoded = decode_record(record.data)
            if isinstance(decoded, UpsertRecord):
                vectors = np.frombuffer(decoded.vectors, np.float32).reshape(len(decoded.keys), -1)
                charge = self._admit(len(decoded.keys))
                operation = Upsert(self, decoded.keys, vectors, decoded.payloads, charge)
                with self._commit.paused():
                    operation.head = self.stage(vectors, decoded.payloads)
                    self.apply_upsert(operation, record.number)
            else:
                with self._commit.paused():
                    self.apply_delete(decoded.keys, record.number)

    def close(self) -> None:
        """Finish what is being written, and have the background work leave the shard alone."""
        self._closed.set()
        self._environment.maintenance.forget(self)
        self._commit.close()
        self._indexes.close()
        self._segments.close()
        self._head_charge.release()
        with self._lock:
            self._view = View()
        with self._sealing:
            for sealed in self._sealed_heads:
                sealed.charge.release()
