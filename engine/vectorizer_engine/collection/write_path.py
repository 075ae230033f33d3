"""How a write becomes visible: the steps that the leader of the group commit takes, and the head that they fill.

`prepare` stages rows in a head, where nobody looks yet; when the log has the record, `apply` publishes a view
with them (see `operations`). A head that is full, or whose part of the log is, goes on to be sealed.

Everything here but `find` is for the leader, or for whoever has paused the group commit. When a write may
begin is `sealing`'s affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from vectorizer_engine.cache.memory_manager import CacheType, Charge
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.operations import Upsert
from vectorizer_engine.collection.view import CurrentView, Part, Place, Source, View
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.files import disk_errors
from vectorizer_engine.storage.head import Head
from vectorizer_engine.storage.live import LiveMask


class Grows(Protocol):
    """What holds the records of a head: a log."""

    @property
    def crowded(self) -> bool:
        """See `Log`."""
        ...

    def roll(self) -> None:
        """See `Log`."""
        ...


class TakesHeads(Protocol):
    """What becomes of heads that take no more points."""

    def submit(self, head: Head | None, charge: Charge, *, applied: int) -> None:
        """See `Sealing`."""
        ...


class WritePath:
    """The head of one shard, and every change of what is visible that a write makes."""

    def __init__(
        self,
        current: CurrentView,
        log: Grows,
        sealing: TakesHeads,
        *,
        dimension: int,
        environment: ShardEnvironment,
        head_points: Callable[[], int],
    ) -> None:
        """*head_points* says how many points a new head may take."""
        self._current = current
        self._log = log
        self._sealing = sealing
        self._dimension = dimension
        self._environment = environment
        self._head_points = head_points
        self._head: Head | None = None
        # Where rows are staged: the head, or the one that will take its place when they are applied.
        self._staging: Head | None = None
        self._head_charge = self._reserve_nothing()
        self._log_bytes = 0

    @property
    def head_bytes(self) -> int:
        """Heap bytes of the head that takes points at present."""
        return self._head_charge.nbytes

    def find(self, keys: Iterable[bytes]) -> list[Place | None]:
        """The place of each key, None for those that are not there."""
        return self._current.find(keys)

    def stage(self, vectors: Vectors, payloads: Sequence[bytes]) -> Head:
        """Write rows to the head, or to the one that will follow it. Raises StorageFull, StorageFailure."""
        limits = self._environment.limits
        with disk_errors("write to the scratch file"):
            head = self._staging
            if head is None or not head.fits(len(vectors)) or head.payload_bytes > limits.head_bytes:
                capacity = min(self._head_points(), max(1, limits.head_bytes // (4 * self._dimension)))
                self._staging = head = Head(
                    self._environment.scratch,
                    dimension=self._dimension,
                    capacity=max(capacity, len(vectors)),
                    files=self._environment.files,
                )
            head.stage(vectors, payloads)
            return head

    def apply_upsert(self, operation: Upsert, number: int) -> None:
        head = operation.head
        assert head is not None, "it was prepared"
        if head is not self._head:
            if self._head is not None:
                self.seal_head(applied=number - 1)
            self._head = head
        parts = self._without(operation.keys)
        with self._current.lock:
            offsets = head.publish(operation.keys, operation.payloads, version=number)
            before = parts.pop(head, None) or Part(head, 0, LiveMask.none(head.capacity))
            parts[head] = Part(head, head.count, before.live.with_range(offsets))
            self._current.view = View(tuple(parts.values()))
        self._head_charge.absorb(operation.charge)
        self._note_logged(operation.size, number)

    def apply_delete(self, keys: Sequence[bytes], number: int) -> None:
        self._current.publish(View(tuple(self._without(keys).values())))
        self._note_logged(sum(map(len, keys)), number)

    def seal_head(self, *, applied: int) -> None:
        """Let the head take no more points, and have it sealed: records up to *applied* are in it or before it."""
        if self._head is None and self._log_bytes == 0:
            return
        head, charge = self._head, self._head_charge
        if self._staging is head:
            self._staging = None
        self._head, self._head_charge, self._log_bytes = None, self._reserve_nothing(), 0
        self._log.roll()
        self._sealing.submit(head, charge, applied=applied)

    def close(self) -> None:
        self._head_charge.release()

    def _without(self, keys: Sequence[bytes]) -> dict[Source, Part]:
        """The parts of the view, by source, in which *keys* are no longer live."""
        view = self._current.view
        gone: dict[Source, list[int]] = {}
        for place in view.find(dict.fromkeys(keys)):  # a delete may name a key twice
            if place is not None:
                gone.setdefault(place.part.source, []).append(place.offset)
        return {
            part.source: Part(part.source, part.rows, part.live.without(gone[part.source]))
            if part.source in gone
            else part
            for part in view.parts
        }

    def _note_logged(self, size: int, number: int) -> None:
        """Deletes fill the log and never the head, so the log's own size seals it too, and so does its length.

        But not while rows are staged in it for writes of the same group: those would be left out of the segment.
        """
        self._log_bytes += size
        self._current.note_write()
        is_awaited = self._head is not None and self._head.has_staged
        if not is_awaited and (self._log_bytes > self._environment.limits.log_bytes or self._log.crowded):
            self.seal_head(applied=number)

    def _reserve_nothing(self) -> Charge:
        charge = self._environment.memory.reserve(CacheType.METADATA, 0)
        assert charge is not None, "nothing always fits"
        return charge
