"""Who serves what, in the shapes of Qdrant's calls about its clusters, for its clients and its web page.

Members are peers here. There is no consensus among them: what Qdrant tells of it is filled with the topology. The
peers' names and `shards` are this engine's own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from vectorizer_engine.api.call import Call
from vectorizer_engine.distributed.spread import SpreadCollection
from vectorizer_engine.distributed.store import DistributedStore
from vectorizer_engine.distributed.whereabouts import Place, State

ALONE = 0
"""The peer that an engine is which is no member of a cluster."""


def peer_id(member: str) -> int:
    """The number that stands for a member: of 53 bits, or programs in JavaScript would round it."""
    return int.from_bytes(blake2b(member.encode(), digest_size=8).digest()) >> 11


def describe_cluster(call: Call) -> Any:
    store = call.engine.store
    if not isinstance(store, DistributedStore):
        return {"status": "disabled"}
    topology, parking = store.topology.current, store.local_shards.parking
    return {
        "status": "enabled",
        "peer_id": peer_id(store.name),
        "peers": {
            str(peer_id(member.name)): {"uri": f"http://{member.address}/", "name": member.name}
            for member in topology.members
        },
        "raft_info": {
            "term": 0,
            "commit": topology.version,
            "pending_operations": store.waiting,
            "leader": None,
            "role": None,
            "is_voter": False,
        },
        "consensus_thread_status": {
            "consensus_thread_status": "working",
            "last_update": datetime.now(UTC).isoformat(),
        },
        "message_send_failures": {},
        "shards": {
            "served": parking.served,
            "parked": parking.parked,
            "waiting": store.waiting,
            "leaving": store.leaving,
        },
    }


def describe_distribution(call: Call) -> Any:
    collection, store = call.collection, call.engine.store
    if not (isinstance(collection, SpreadCollection) and isinstance(store, DistributedStore)):
        shard = {"shard_id": 0, "points_count": collection.info().points, "state": State.ACTIVE}
        return _distribution(ALONE, 1, local=[shard], remote=[], transfers=[])
    places, moves = store.whereabouts.find(collection.token, collection.shards)
    return _distribution(
        peer_id(store.name),
        collection.shards,
        local=[_shard(each) | {"points_count": each.points} for each in places if each.member == store.name],
        remote=[
            _shard(each) | {"peer_id": peer_id(each.member)} for each in places if each.member != store.name
        ],
        transfers=[
            {
                "shard_id": move.shard,
                "from": peer_id(move.giver),
                "to": peer_id(move.taker),
                "sync": False,
            }
            for move in moves
        ],
    )


def _distribution(
    peer: int, shards: int, *, local: list[Any], remote: list[Any], transfers: list[Any]
) -> dict[str, Any]:
    return {
        "peer_id": peer,
        "shard_count": shards,
        "local_shards": local,
        "remote_shards": remote,
        "shard_transfers": transfers,
    }


def _shard(place: Place) -> dict[str, Any]:
    return {"shard_id": place.shard, "state": place.state}
