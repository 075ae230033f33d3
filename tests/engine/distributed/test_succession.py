"""Asking the former owner of a shard for it, whatever that answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vectorizer_engine.distributed.held_shard import NotHeld, ShardId
from vectorizer_engine.distributed.peers import Answer, NotAnswered, NotSent
from vectorizer_engine.distributed.succession import Handover, ReleaseAnswer, answer_release
from vectorizer_engine.distributed.topology import KnownTopology, Member, Topology
from vectorizer_engine.errors import InvalidRequest, StorageFailure
from vectorizer_engine.storage.files import Files

SHARD = ShardId("c", 1)
OLD, NEW = Member("old", "host:1"), Member("new", "host:2")


class OnePeer:
    """In the place of `Peers`: the former owner, which answers or raises this."""

    def __init__(self) -> None:
        self.answer: Answer | Exception = Answer(200, b"")

    def ask(self, member: Member, method: str, path: str, body: bytes = b"", *, seconds: float) -> Answer:
        assert member == OLD
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def peer() -> OnePeer:
    return OnePeer()


@pytest.fixture
def topology(tmp_path: Path) -> KnownTopology:
    known = KnownTopology(tmp_path, files=Files())
    known.adopt(Topology(2, (NEW,), previous=(OLD,)))
    return known


def handover(
    topology: KnownTopology, peer: OnePeer, copy: Callable[[ShardId, Callable[[], bool]], None] | None = None
) -> Handover:
    return Handover(topology, peer, copy_ahead=copy or (lambda shard, wanted: None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer", [NotSent("refused"), NotAnswered("frozen"), Answer(503, b"{}"), Answer(500, b"{}")]
)
def test_a_former_owner_that_does_not_let_go_is_passed_over(
    topology: KnownTopology, peer: OnePeer, answer: Answer | Exception
) -> None:
    peer.answer = answer
    asking = handover(topology, peer)
    assert not asking.is_with_former(SHARD)
    assert asking.take_from_former(SHARD) is None


def test_where_nobody_had_a_shard_nobody_is_asked(tmp_path: Path, peer: OnePeer) -> None:
    known = KnownTopology(tmp_path, files=Files())
    known.adopt(Topology(1, (NEW,)))
    peer.answer = AssertionError("asked")
    assert not handover(known, peer).is_with_former(SHARD)
    assert handover(known, peer).take_from_former(SHARD) is None


def test_what_cannot_be_copied_ahead_is_fetched_later(topology: KnownTopology, peer: OnePeer) -> None:
    def fail(shard: ShardId, wanted: Callable[[], bool]) -> None:
        raise StorageFailure("its owner merged the segments meanwhile")

    handover(topology, peer, fail).prepare(SHARD, lambda: True)


def test_an_owner_by_a_newer_topology_keeps_the_shard_and_tells_the_topology(
    topology: KnownTopology, peer: OnePeer
) -> None:
    newer = Topology(3, (OLD,), previous=(NEW,))
    peer.answer = Answer(200, msgspec.msgpack.encode(ReleaseAnswer(newer, False, None)))
    with pytest.raises(NotHeld):
        handover(topology, peer).take_from_former(SHARD)
    assert topology.current == newer


def test_who_lets_go_takes_the_topology_of_the_new_owner_first(tmp_path: Path) -> None:
    former = KnownTopology(tmp_path, files=Files())
    former.adopt(Topology(1, (OLD,)))
    newer = Topology(2, (NEW,), previous=(OLD,))

    def release(shard: ShardId) -> bytes:
        assert (shard, former.current) == (SHARD, newer)
        return b"writer"

    answer = answer_release(msgspec.msgpack.encode([newer, "c", 1]), former, release)
    assert msgspec.msgpack.decode(answer, type=ReleaseAnswer) == ReleaseAnswer(newer, True, b"writer")

    def keep(shard: ShardId) -> bytes:
        raise NotHeld

    answer = answer_release(msgspec.msgpack.encode([newer, "c", 1]), former, keep)
    assert msgspec.msgpack.decode(answer, type=ReleaseAnswer) == ReleaseAnswer(newer, False, None)
    with pytest.raises(InvalidRequest, match="not a request of a member"):
        answer_release(b"nonsense", former, keep)
