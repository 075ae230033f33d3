"""A shard: a log, a head, and sealed segments that are merged behind it.

    write -> log (fsync) -> head -> sealed segment -> merged segment

    sealing      who may write now, and the heads that wait to become segments
    write_path   the head, and how a logged write becomes visible
    compaction   segments out of heads and smaller segments, and their indexes

What must stay true:
- A record is in the log before anything of it is visible, and everything up to the manifest's `applied` is in
  the segments that the manifest names. So a crash at any moment loses nothing that was acknowledged.
- A key is live in one part at most, in every view that was ever published.
- Only the leader of the group commit changes what is visible; the background work takes its turn by pausing it.
- What grows on the heap was reserved before the write was submitted. A writer that is refused waits until
  heads have been sealed; it never makes the leader wait.

Here it is put together, opened, recovered and closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vectorizer_engine.collection.compaction import Compaction
from vectorizer_engine.collection.data_folder import token_of
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.index_uploads import IndexUploads
from vectorizer_engine.collection.operations import (
    ChangePayload,
    Delete,
    Upsert,
    decode_operation,
)
from vectorizer_engine.collection.payload_indexes import PayloadIndexes, Schema
from vectorizer_engine.collection.readable_shard import ReadableShard
from vectorizer_engine.collection.sealing import Sealing
from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.collection.view import Accepts, Part, View
from vectorizer_engine.collection.write_path import WritePath
from vectorizer_engine.errors import StoreCorrupt, WriteInDoubt
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.commit import GroupCommit
from vectorizer_engine.storage.files import Files, disk_errors
from vectorizer_engine.storage.log import FileLog, Log
from vectorizer_engine.storage.payload_index import FieldType
from vectorizer_engine.storage.segment_store import FileSegmentStore

_FLUSH_SECONDS = 1.0
"""How long the background work waits until a small head may be sealed. It does so for all collections."""


def create_shard(folder: Path, *, files: Files) -> None:
    """Make an empty shard in the new *folder*. Raises OSError."""
    files.make_folder(folder / "log")
    FileSegmentStore.create(folder, files=files)


Storage = tuple[FileSegmentStore, Log]


def _open_storage(folder: Path, params: CollectionParams, environment: ShardEnvironment) -> Storage:
    """The segments and the log of the shard in *folder*, or of that which *folder* holds copies of."""
    place = environment.segment_place(folder, params)
    if environment.shared is not None:
        return environment.shared.open_shard(place, token_of(folder.parent), later=environment.later)
    segments = FileSegmentStore(place)
    return segments, FileLog(folder / "log", first=segments.manifest.applied + 1, files=environment.files)


class Shard(ReadableShard):
    """One shard, open. Any thread may call; see the module for who may change what."""

    _segments: FileSegmentStore

    def __init__(
        self,
        folder: Path,
        params: CollectionParams,
        environment: ShardEnvironment,
        *,
        storage: Storage | None = None,
        index_kept: Callable[[], None] = lambda: None,
    ) -> None:
        """Open and recover the shard in *folder*.

        *storage* is given for one that members take from each other: its log is claimed already, perhaps by an earlier
        `Shard` of this process, which was closed. *index_kept* is called when an index was put where others find it,
        too. Raises StoreCorrupt, StorageFull, StorageFailure.
        """
        super().__init__(
            folder,
            params,
            environment,
            rebuild=lambda: self._compaction.schedule(),
            built=lambda segment, path: self._uploads.offer(segment, path),
        )
        files, memory, dimension = environment.files, environment.memory, params.dimension
        with disk_errors(f"open {folder}"):
            self._segments, self._log = storage or _open_storage(folder, params, environment)
            manifest = self._segments.manifest
            self._uploads = IndexUploads(
                self._segments, self._maintenance, is_running=self._is_running, kept=index_kept
            )
            self._payload_indexes = PayloadIndexes(
                manifest.payload_schema,
                memory=memory,
                files=files,
                scratch=environment.scratch,
                built=self._uploads.offer,
            )
        if self._log.next_number <= manifest.logged:
            raise StoreCorrupt(
                f"the log in {folder / 'log'} ends with record {self._log.next_number - 1}, but had reached "
                f"{manifest.logged}: acknowledged records are missing; restore the collection from a "
                "snapshot"
            )
        self._commit = GroupCommit(self._log, observe=environment.observe_append)
        self._compaction = Compaction(
            folder,
            dimension=dimension,
            current=self._current,
            segments=self._segments,
            indexes=self._indexes,
            payload_indexes=self._payload_indexes,
            log=self._log,
            commit=self._commit,
            environment=environment,
            is_running=self._is_running,
            flush=partial(self.flush, within=_FLUSH_SECONDS),
        )
        self._sealing = Sealing(self._compaction, environment, is_running=self._is_running)
        self._path = WritePath(
            self._current,
            self._log,
            self._sealing,
            dimension=dimension,
            environment=environment,
            head_points=partial(self._head_points, dimension, environment.limits),
        )
        self._maintenance.register(self)
        try:
            with disk_errors(f"recover {folder}"):
                self._recover()
        except BaseException:
            self.close()
            raise
        self._compaction.schedule()

    # --- writing -------------------------------------------------------------------------------------

    def upsert(
        self, keys: Sequence[bytes], vectors: Vectors, payloads: Sequence[bytes], *, wait: bool
    ) -> int:
        """Insert or replace points; each key once. *vectors* is float32 [n, d] in C order."""
        charge = self._sealing.admit(len(keys))
        return self._submit(Upsert(self._path, keys, vectors, payloads, charge), wait=wait)

    def change_payload(
        self, keys: Sequence[bytes], change: Callable[[bytes], bytes], accepts: Accepts | None, *, wait: bool
    ) -> int:
        """Replace the payload (JSON or empty) of each point by what *change* makes of it."""
        charge = self._sealing.admit(len(keys))
        return self._submit(ChangePayload(self._path, keys, change, charge, accepts), wait=wait)

    def delete(self, keys: Sequence[bytes], accepts: Accepts | None, *, wait: bool) -> int:
        number = self._commit.submit(Delete(self._path, keys, accepts), wait=wait)
        self._compaction.note_write()
        return number

    def _submit(self, operation: Upsert, *, wait: bool) -> int:
        try:
            number = self._commit.submit(operation, wait=wait)
        except WriteInDoubt:
            raise  # it may still be applied
        except BaseException:
            operation.charge.release()
            raise
        self._compaction.note_write()
        return number

    def flush(self, *, within: float) -> None:
        """Have the head sealed now, however small it is: what it holds on the heap is wanted elsewhere.

        Raises StorageFailure where that cannot be begun *within* so many seconds.
        """
        with self._commit.paused(within=within):
            self._path.seal_head(applied=self.last_number)

    def settle(self, *, seal: bool, within: float) -> None:
        """Leave nothing open that only this object knows of: no write in doubt, no head that waits to be sealed.

        With *seal*, what is in the head is in a segment then. Raises StorageFailure where that does not come about
        *within* so many seconds.
        """
        deadline = time.monotonic() + within
        with self._commit.paused(within=within):
            if seal:
                self._path.seal_head(applied=self.last_number)
        self._sealing.wait_for_end(max(0.0, deadline - time.monotonic()))

    @property
    def last_number(self) -> int:
        return self._log.next_number - 1

    @property
    def head_bytes(self) -> int:
        """Heap bytes of the head that takes points at present."""
        return self._path.head_bytes

    # --- what goes on ----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether heads are being sealed, segments merged or indexes built."""
        return self._sealing.busy or self._compaction.busy

    # --- payload indexes -----------------------------------------------------------------------------

    def change_payload_schema(self, change: Callable[[Schema], dict[str, FieldType]]) -> None:
        """Have other fields indexed from now on: durable when this returns, and built in the background."""
        with self._commit.paused(), disk_errors(f"change the payload indexes in {self._folder}"):
            self._check_open()
            schema = change(self._payload_indexes.schema)
            self._segments.publish_payload_schema(schema)
            self._payload_indexes.schema = schema
        for segment, _ in self.view.segments():
            self._payload_indexes.drop_stale(segment)
        self._compaction.schedule()

    def build_payload_indexes(self) -> bool:
        """Build what is missing now, in this thread. False where there is no memory for it: later, then."""
        with disk_errors(f"build payload indexes in {self._folder}"):
            while missing := self._payload_indexes.missing_in(self.view):
                for segment in missing:
                    if not self._payload_indexes.build(segment, still_wanted=self._is_running):
                        self._check_open()
                        return False
        self._files_changed()
        return True

    # --- opening and closing ---------------------------------------------------------------------------

    def _recover(self) -> None:
        """Open the segments, and apply what the log holds beyond them by the same steps as a new write."""
        opened = self._segments.open_all()
        for segment, _ in opened:
            self._indexes.open_existing(segment)
            self._payload_indexes.open_existing(segment)
        self._current.publish(View(tuple(Part(segment, segment.count, live) for segment, live in opened)))
        for record in self._log.replay(after=self._segments.manifest.applied):
            operation = decode_operation(record.data, self._path, self._sealing.admit)
            with self._commit.paused():
                operation.apply_again(record.number)

    def close(self) -> None:
        """Finish what is being written, and have the background work leave the shard alone."""
        self._closed.set()
        self._maintenance.forget(self)
        self._commit.close()
        self._indexes.close()
        self._verdicts.clear()
        self._segments.close()
        self._path.close()
        self._current.publish(View())
        self._sealing.close()
