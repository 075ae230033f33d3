"""How a shard gets from one member to another while it is served: its new owner asks for it when it is ready.

The new owner copies the shard's segments while the former one still serves, then has it let go, and opens the shard.
Where the former owner does not answer, the shard is taken all the same: its log sees to it that this is safe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from vectorizer_engine.distributed.gossip import ASK_SECONDS
from vectorizer_engine.distributed.held_shard import NotHeld, ShardId
from vectorizer_engine.distributed.messages import RELEASE_PATH, TOPOLOGY_PATH, decode_request
from vectorizer_engine.distributed.peers import NotAnswered, NotSent, Peers
from vectorizer_engine.distributed.topology import KnownTopology, Topology
from vectorizer_engine.errors import EngineError

logger = logging.getLogger(__name__)

RELEASE_SECONDS = 5.0
"""How long a former owner may take to finish what it has begun. Then the shard is taken from it."""


class ReleaseRequest(msgspec.Struct, array_like=True):
    """Let go of a shard, which by *topology* is for whoever asks."""

    topology: Topology
    token: str
    shard: int


class ReleaseAnswer(msgspec.Struct, array_like=True):
    """Whether it was let go of, the writer that did, and the topology of whoever answers."""

    topology: Topology
    released: bool
    writer: bytes | None


_request = msgspec.msgpack.Decoder(ReleaseRequest)
_answer = msgspec.msgpack.Decoder(ReleaseAnswer)


class Handover:
    """The side of the new owner. Any thread may call."""

    def __init__(
        self,
        topology: KnownTopology,
        peers: Peers,
        *,
        copy_ahead: Callable[[ShardId, Callable[[], bool]], None],
    ) -> None:
        """*copy_ahead* copies what a shard consists of, as long as the second argument holds. Raises EngineError."""
        self._topology = topology
        self._peers = peers
        self._copy_ahead = copy_ahead

    def is_with_former(self, shard: ShardId) -> bool:
        """See `held_shards.Succession`."""
        former = self._topology.current.former_owner(*shard)
        if former is None:
            return False
        try:
            return self._peers.ask(former, "GET", TOPOLOGY_PATH, seconds=ASK_SECONDS).status == 200
        except (NotSent, NotAnswered) as error:
            logger.info("shard %d of %s is not handed over: %s", shard.number, shard.token, error)
            return False

    def prepare(self, shard: ShardId, still_wanted: Callable[[], bool]) -> None:
        """See `held_shards.Succession`."""
        try:
            self._copy_ahead(shard, still_wanted)
        except EngineError as error:
            # Its owner merged segments meanwhile, or the store is away: what is missing is fetched in opening.
            logger.info("shard %d of %s was not copied ahead: %s", shard.number, shard.token, error)

    def take_from_former(self, shard: ShardId) -> bytes | None:
        """See `held_shards.Succession`."""
        former = self._topology.current.former_owner(*shard)
        if former is None:
            return None
        request = msgspec.msgpack.encode(ReleaseRequest(self._topology.current, *shard))
        try:
            answer = self._peers.ask(former, "POST", RELEASE_PATH, request, seconds=RELEASE_SECONDS)
        except (NotSent, NotAnswered) as error:
            logger.warning("%s does not let go of shard %d: %s; taking it", former.name, shard.number, error)
            return None
        if answer.status != 200:
            logger.warning(
                "%s does not let go of shard %d: it answers %d; taking it",
                former.name,
                shard.number,
                answer.status,
            )
            return None
        let_go = _answer.decode(answer.body)
        self._topology.adopt(let_go.topology)
        if not let_go.released:
            raise NotHeld
        return let_go.writer


def answer_release(
    body: bytes | bytearray,
    topology: KnownTopology,
    release: Callable[[ShardId], bytes | None],
) -> bytes:
    """The side of the former owner. Raises what *release* does, and InvalidRequest."""
    request = decode_request(_request, body)
    topology.adopt(request.topology)
    try:
        writer = release(ShardId(request.token, request.shard))
    except NotHeld:
        return msgspec.msgpack.encode(ReleaseAnswer(topology.current, False, None))
    return msgspec.msgpack.encode(ReleaseAnswer(topology.current, True, writer))
