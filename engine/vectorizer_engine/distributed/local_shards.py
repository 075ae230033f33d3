"""The shards of which this member has something: those it serves, those it reads along, their copies on its volume.

Which these are follows from the topology. A shard that is read along may be taken over, and the copies of both kinds
share the volume. The data folder has copies of the shards that this member serves or reads, or did; whatever else is in
it is removed at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardEnvironment, ShardLimits
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.distributed.announcer import Announcer, Frames
from vectorizer_engine.distributed.followed_shards import FollowedShards
from vectorizer_engine.distributed.held_shard import HeldShard, ShardId
from vectorizer_engine.distributed.held_shards import HeldShards
from vectorizer_engine.distributed.messages import decode_request
from vectorizer_engine.distributed.parked_collection import ParkedCollection
from vectorizer_engine.distributed.peers import Peers
from vectorizer_engine.distributed.room import Giving
from vectorizer_engine.distributed.spread import SpreadCollection
from vectorizer_engine.distributed.succession import RELEASE_SECONDS, Handover, answer_release
from vectorizer_engine.distributed.topology import KnownTopology
from vectorizer_engine.distributed.volume import Volume
from vectorizer_engine.errors import StoreClosed
from vectorizer_engine.storage.commit import ObserveAppend
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.shared_store import SharedStore

T = TypeVar("T")

_frames = msgspec.msgpack.Decoder(list[Frames])


class Parking(NamedTuple):
    """How many shards a member serves and has parked, how often one was opened again, and the copies on its volume."""

    served: int
    parked: int
    opened_again: int
    copies_bytes: int
    limit_bytes: int


class LocalShards:
    """Any thread may call."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        topology: KnownTopology,
        peers: Peers,
        shared: SharedStore,
        memory: CacheMemoryManager,
        files: Files,
        limits: ShardLimits,
        results: Mapping[str, AdvancedCache],
        observe_append: ObserveAppend | None,
        most_copies: int | None,
    ) -> None:
        """*path* is the data folder, *name* is this member's. For the rest see `DistributedStore.open`."""
        self._name = name
        self._topology = topology
        self._maintenance = Maintenance()
        self._volume = Volume(
            path / "collections",
            shared,
            ShardEnvironment(
                memory, self._maintenance, files, path / "scratch", limits, shared, observe_append
            ),
            memory=memory,
            results=results,
            most_bytes=most_copies,
            is_used=lambda shard: self.held.uses(shard) or self.followed.uses(shard),
            givers=self._givers,
            observe=lambda shard, number, size: self._announcer.wrote(shard, number, size),
            index_kept=lambda shard: self._announcer.has_new_index(shard),
        )
        self._announcer = Announcer(name, topology, peers)
        self.held = HeldShards(
            self._take_over,
            Handover(topology, peers, copy_ahead=self._copy_ahead),
            closed=self._let_go,
        )
        self.followed = FollowedShards(
            self._volume.open_reader, is_held=self.held.uses, closed=self._volume.let_go
        )

    def begin(self) -> None:
        """Look what copies there are, before any shard is wanted. Raises OSError."""
        self._volume.begin()

    def want(self, collections: Iterable[SpreadCollection]) -> None:
        """Of these, which are all that there are, have from now on what the topology gives to this member.

        Returns at once.
        """
        existing = {collection.token: collection for collection in collections}
        topology = self._topology.current
        self.held.want(
            (
                ShardId(token, number)
                for token, collection in existing.items()
                for number in range(collection.shards)
                if (owner := topology.owner(token, number)) is not None and owner.name == self._name
            ),
            existing=lambda shard: shard.token in existing,
        )
        # Also the own ones: what was read along is of use until they are taken over.
        self.followed.want(
            ShardId(token, number)
            for token, collection in existing.items()
            if collection.copies > 1
            for number in range(collection.shards)
            if any(member.name == self._name for member in topology.copies(token, number, collection.copies))
        )

    def describe(self, what: Callable[[Collection | ParkedCollection], T]) -> list[T]:
        """*what* of each shard that this member serves, as a collection of its own. Opens none of those parked."""
        found: list[T] = []
        for held in self.held.served_now().values():
            with suppress(StoreClosed):  # it was given up in this moment
                found.append(held.describe(what))
        return found

    @property
    def parking(self) -> Parking:
        """What is parked at present, and what there is of copies."""
        served = self.held.served_now().values()
        return Parking(
            len(served),
            sum(held.is_parked for held in served),
            self._volume.opened_again,
            self._volume.copies.nbytes,
            self._volume.copies.limit,
        )

    def announced(self, body: bytes | bytearray) -> None:
        """What another member has written to the logs of shards: see `announcer`. Raises InvalidRequest."""
        frames = decode_request(_frames, body)
        self.followed.announced(frames)

    def release(self, body: bytes | bytearray) -> bytes:
        """Let go of a shard that another member asks for; see `succession`."""
        return answer_release(
            body, self._topology, lambda shard: self.held.release(shard, seconds=RELEASE_SECONDS)
        )

    def close(self) -> None:
        """Finish what is being written, stop the background work."""
        self._maintenance.close()
        self.followed.close()
        self.held.close()
        self._volume.close()
        self._announcer.close()

    def _take_over(self, shard: ShardId, predecessor: bytes | None) -> HeldShard:
        self.followed.give_up(shard)
        return self._volume.open(shard, predecessor)

    def _copy_ahead(self, shard: ShardId, still_wanted: Callable[[], bool]) -> None:
        if self.followed.find(shard) is None:  # it has copies otherwise
            self._volume.copy_ahead(shard, still_wanted)

    def _let_go(self, shard: ShardId) -> None:
        self._announcer.forget(shard)
        self._volume.let_go(shard)

    def _givers(self) -> Iterator[tuple[ShardId, Giving, Callable[[float], bool]]]:
        """What may be closed to make room on the volume, what is missed least first."""
        for shard in self.followed.by_last_use():
            yield shard, Giving.READERS, lambda _, shard=shard: self.followed.put_aside(shard)  # type: ignore[misc]
        served = self.held.served_now()
        for shard in sorted(served, key=lambda shard: served[shard].rest):
            yield shard, Giving.OWNERS, lambda within, shard=shard: served[shard].park(within=within)  # type: ignore[misc]
