"""Which member serves which shard of a collection, as the members themselves say.

This is for people who look. Requests go where the topology says, and find out on the way (`router`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from vectorizer_engine.distributed.followed_shards import FollowedShards
from vectorizer_engine.distributed.held_shards import HeldShards
from vectorizer_engine.distributed.messages import SHARDS_PATH
from vectorizer_engine.distributed.peers import Peers
from vectorizer_engine.distributed.topology import KnownTopology

ASK_SECONDS = 2.0
"""How long a member may take to answer."""


class State(StrEnum):
    """Qdrant's words for the state of a shard at a member, as far as they mean something here."""

    ACTIVE = "Active"
    """It serves the shard, open or parked, or reads it along."""
    PARTIAL = "Partial"
    """It is to serve the shard and opens it."""
    DEAD = "Dead"
    """It is to serve the shard, and does not answer or cannot open it."""


class Place(NamedTuple):
    """A shard at a member. `points` is 0 unless it is served there."""

    shard: int
    member: str
    state: State
    points: int


class Move(NamedTuple):
    """A shard that one member serves until the other does."""

    shard: int
    giver: str
    taker: str


class ShardsHere(msgspec.Struct, array_like=True):
    """Of one collection: how many points each shard has that is served here, and each that is read along.

    `damaged` are those that cannot be opened.
    """

    points: dict[int, int]
    damaged: list[int]
    read: dict[int, int]


_here = msgspec.msgpack.Decoder(ShardsHere)


class Whereabouts:
    """Any thread may call."""

    def __init__(
        self,
        name: str,
        topology: KnownTopology,
        held: HeldShards,
        followed: FollowedShards,
        peers: Peers,
    ) -> None:
        """*name* is this member's."""
        self._name = name
        self._topology = topology
        self._held = held
        self._followed = followed
        self._peers = peers

    def here(self, token: str) -> ShardsHere:
        return ShardsHere(
            {
                shard.number: held.describe(lambda collection: collection.info().points)
                for shard, held in self._held.served_now().items()
                if shard.token == token
            },
            [shard.number for shard in self._held.damaged() if shard.token == token],
            {
                shard.number: reader.count()
                for shard, reader in self._followed.open_now().items()
                if shard.token == token
            },
        )

    def find(self, token: str, shards: int) -> tuple[list[Place], list[Move]]:
        """Where the shards of a collection of so many *shards* are, and which of them move."""
        topology = self._topology.current
        others = topology.others(self._name)
        body = msgspec.msgpack.encode(token)
        answers = self._peers.ask_each(others, "POST", SHARDS_PATH, body, seconds=ASK_SECONDS)
        said = {
            member.name: _here.decode(answer.body) if answer is not None and answer.status == 200 else None
            for member, answer in zip(others, answers, strict=True)
        }
        said[self._name] = self.here(token)
        places: list[Place] = []
        moves: list[Move] = []
        for shard in range(shards):
            serving = {
                name: here.points[shard] for name, here in said.items() if here and shard in here.points
            }
            places += (Place(shard, name, State.ACTIVE, points) for name, points in serving.items())
            places += (
                Place(shard, name, State.ACTIVE, here.read[shard])
                for name, here in said.items()
                if here and shard in here.read and name not in serving
            )
            owner = topology.owner(token, shard)
            if owner is None or owner.name in serving:
                continue
            answer = said[owner.name]
            opens = answer is not None and shard not in answer.damaged
            places.append(Place(shard, owner.name, State.PARTIAL if opens else State.DEAD, 0))
            moves += (Move(shard, giver, owner.name) for giver in serving)
        return places, moves
