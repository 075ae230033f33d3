"""The calls that the members of a cluster make to each other, and that publish its topology. They need its own key."""

from __future__ import annotations

import msgspec

from vectorizer_engine.api.answers import encode
from vectorizer_engine.api.bodies import WRITE_COPIES
from vectorizer_engine.api.call import Call, Plain
from vectorizer_engine.api.decoding import decode
from vectorizer_engine.api.errors import HttpError
from vectorizer_engine.distributed.messages import decode_request
from vectorizer_engine.distributed.store import DistributedStore
from vectorizer_engine.distributed.topology import topology_decoder

_token = msgspec.msgpack.Decoder(str)

_MSGPACK = b"application/msgpack"
_JSON = b"application/json"


def read(call: Call) -> Plain:
    """What some shards of this member answer to a read: see `distributed.messages.Request`."""
    return Plain(_store(call).router.answer(call.body), content_type=_MSGPACK)


def write(call: Call) -> Plain:
    with call.engine.member_memory.writes.room(WRITE_COPIES * len(call.body)):
        return read(call)


def release(call: Call) -> Plain:
    """Let go of a shard that another member is to serve: see `distributed.succession`."""
    return Plain(_store(call).local_shards.release(call.body), content_type=_MSGPACK)


def refresh_catalog(call: Call) -> Plain:
    """Another member has made or deleted a collection."""
    _store(call).refresh()
    return Plain(b"seen")


def announced(call: Call) -> Plain:
    """Another member has written to the logs of shards: see `distributed.announcer`."""
    _store(call).local_shards.announced(call.body)
    return Plain(b"heard")


def shards_here(call: Call) -> Plain:
    """Which shards of a collection are served here: see `distributed.whereabouts`."""
    token = decode_request(_token, call.body)
    return Plain(msgspec.msgpack.encode(_store(call).whereabouts.here(token)), content_type=_MSGPACK)


def get_topology(call: Call) -> Plain:
    """The newest topology that this member knows, and how far it is with it.

    `waiting` is how many shards it is to serve and does not yet, `leaving` how many it serves until others do.
    """
    store = _store(call)
    known = msgspec.to_builtins(store.topology.current)
    known |= {"waiting": store.waiting, "leaving": store.leaving}
    return Plain(encode(known), content_type=_JSON)


def put_topology(call: Call) -> Plain:
    """Take a topology if it is newer. The answer is the one that counts then, with 409 if it is another one."""
    topology = _store(call).topology
    adopted = topology.adopt(decode(topology_decoder, call.body))
    current = encode(msgspec.to_builtins(topology.current))
    return Plain(current, content_type=_JSON, status=200 if adopted else 409)


def _store(call: Call) -> DistributedStore:
    store = call.engine.store
    if not isinstance(store, DistributedStore):
        raise HttpError(404, "this engine is not a member of a cluster: cluster.pod_name is not set")
    return store
