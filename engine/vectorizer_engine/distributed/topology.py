"""The members of a cluster, and which of them serves which shard.

A topology comes from outside, from the operator, with a version that only grows. It is kept on the disk and passed on
among the members, so that nothing changes while the operator is away. Two members may know different ones for a
while: then requests take a detour, and the logs of the shards see to it that nothing worse happens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from hashlib import blake2b
from heapq import nlargest
from pathlib import Path
from typing import Annotated

import msgspec

from vectorizer_engine.errors import InvalidRequest, StoreCorrupt
from vectorizer_engine.storage.checked_text import decode_checked, encode_checked
from vectorizer_engine.storage.files import Files, disk_errors

FILE_NAME = "TOPOLOGY"


class Member(msgspec.Struct, frozen=True):
    """An engine: the name that it goes by for ever, and HOST:PORT, which may change."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
    address: Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:/\s]+):\d{1,5}$")]


class Topology(msgspec.Struct, frozen=True):
    """Who serves. Of two topologies the one with the higher version counts.

    `previous` are the members before, who serve their shards until those that get them are ready. Whoever does not say
    it leaves that to the members, which remember whom they knew.
    """

    version: Annotated[int, msgspec.Meta(ge=0)]
    members: tuple[Member, ...]
    previous: tuple[Member, ...] = ()

    def member(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    def others(self, name: str) -> list[Member]:
        """All members but *name*, those before included."""
        known = {member.name: member for member in (*self.previous, *self.members)}
        return [member for member in known.values() if member.name != name]

    def owner(self, token: str, shard: int) -> Member | None:
        """The member that serves a shard; None where there are no members.

        Rendezvous hashing (Thaler and Ravishankar, 1998): each member has a number for each shard, and the largest
        wins. So a member that leaves gives away its own shards only, and one that joins takes only what it will keep.
        """
        return _heaviest(self.members, token, shard)

    def copies(self, token: str, shard: int, count: int) -> list[Member]:
        """The owner of a shard and its readers, so many of them together as there are members for.

        They are in the order in which they would own it: where a member leaves, the next one has been a reader.
        """
        if count == 1:
            owner = self.owner(token, shard)
            return [] if owner is None else [owner]
        return nlargest(count, self.members, key=lambda member: weight(member.name, token, shard))

    def former_owner(self, token: str, shard: int) -> Member | None:
        """Who served a shard before, if that was another member than it is now."""
        owner, former = self.owner(token, shard), _heaviest(self.previous, token, shard)
        if owner is None or former is None or former.name == owner.name:
            return None
        return self.member(former.name) or former  # where it can be found now


topology_decoder = msgspec.json.Decoder(Topology)


def _heaviest(members: Iterable[Member], token: str, shard: int) -> Member | None:
    return max(members, key=lambda member: weight(member.name, token, shard), default=None)


def weight(member: str, token: str, shard: int) -> bytes:
    """The number that the member of this name has for a shard."""
    return blake2b(f"{member}\0{token}\0{shard}".encode(), digest_size=8).digest()


NOBODY = Topology(0, ())


class KnownTopology:
    """The newest topology that this member has heard of. Any thread may call."""

    def __init__(self, folder: Path, *, files: Files) -> None:
        """What *folder* remembers. Raises StoreCorrupt, OSError."""
        self._file = folder / FILE_NAME
        self._files = files
        self._changed = threading.Condition()
        self._listeners: list[Callable[[Topology], None]] = []
        self.current = _read(self._file)

    def listen(self, listener: Callable[[Topology], None]) -> None:
        """Have *listener* called with each newer topology."""
        self._listeners.append(listener)

    def adopt(self, topology: Topology) -> bool:
        """Take *topology* if it is newer. Returns whether it is the current one now.

        Raises InvalidRequest where one of the same version has other members, or two members have one name, and
        StorageFull or StorageFailure where it cannot be kept.
        """
        names = [member.name for member in topology.members]
        if len(set(names)) < len(names):
            raise InvalidRequest(f"members: {_twice(names)!r} is the name of two members: give each its own")
        with self._changed:
            if topology.version == self.current.version and topology.members != self.current.members:
                raise InvalidRequest(
                    f"version {topology.version} is known with other members: publish a higher version"
                )
            if topology.version > self.current.version:
                if not topology.previous:
                    topology = msgspec.structs.replace(topology, previous=self.current.members)
                with disk_errors(f"keep topology {topology.version}"):
                    self._files.replace_file(self._file, encode_checked(msgspec.json.encode(topology)))
                self.current = topology
                self._changed.notify_all()
            else:
                return topology.version == self.current.version
        for listener in self._listeners:
            listener(topology)
        return True

    def wait_for_newer(self, version: int, *, seconds: float) -> None:
        """Return when a topology above *version* is known, or after so many seconds."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self.current.version <= version and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)


def _read(file: Path) -> Topology:
    if not file.exists():
        return NOBODY
    try:
        return topology_decoder.decode(decode_checked(file.read_bytes()))
    except ValueError as error:
        raise StoreCorrupt(
            f"{file} cannot be read: {error}; delete it: the topology is published again"
        ) from None


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
