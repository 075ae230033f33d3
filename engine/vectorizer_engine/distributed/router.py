"""Bringing operations to the shards, wherever they are, and their results back.

Shards that another member has are asked over HTTP, all members at once; those of this member directly. A shard that is
moving is with its new owner or still with the one before, so both are asked in turn, until the patience ends. A write
is sent again only if it was certainly not carried out. The result is complete or an error, unless a read is told to go
without what does not answer (`partial`).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from enum import StrEnum
from itertools import count
from typing import Any, NamedTuple

import msgspec

from vectorizer_engine.distributed.followed_shards import FollowedShards
from vectorizer_engine.distributed.gossip import Gossip
from vectorizer_engine.distributed.held_shard import ShardId
from vectorizer_engine.distributed.held_shards import HeldShards
from vectorizer_engine.distributed.messages import (
    READ_PATH,
    WRITE_PATH,
    Job,
    Request,
    decode_request,
    request_decoder,
    response_decoder,
)
from vectorizer_engine.distributed.operations import Operation
from vectorizer_engine.distributed.partial import Partial
from vectorizer_engine.distributed.peers import Asked, NotAnswered, NotSent, Peers
from vectorizer_engine.distributed.performing import Performer
from vectorizer_engine.distributed.question import Question
from vectorizer_engine.distributed.silence import Silence, TooManyWait
from vectorizer_engine.distributed.topology import KnownTopology, Member, Topology
from vectorizer_engine.errors import (
    AnsweredElsewhere,
    CollectionGone,
    EngineError,
)

_error = msgspec.json.Decoder()

READ_SECONDS = 5.0
"""How long a member may take to answer a read; then it may be gone, and is asked again, or whoever replaces it."""

WRITE_SECONDS = 45.0
"""How long a member may take to answer a write: it waits up to 30 s for the store by itself."""

REPLACED_SECONDS = 10.0
"""How long a write is still waited for at a member that serves the shard no more by a newer topology."""

PAUSE_SECONDS = 0.1
"""Between two attempts, unless a newer topology comes before."""

OPEN_SECONDS = 2.0
"""How long a shard that is being opened is waited for at a time, for the first time or again. Below `READ_SECONDS`, so
that this is told in time, and below `SILENT_SECONDS`: who opens shards is not taken for frozen."""


class Outcome(StrEnum):
    """What became of a request to another member."""

    DONE = "done"
    MOVED = "moved"
    """Of some of its shards, at least: they are not there, or not yet."""
    REFUSED = "refused"
    """It was answered with an error: the member stops, or the operation is wrong."""
    UNANSWERED = "unanswered"
    UNREACHABLE = "unreachable"


ObserveRequest = Callable[[Outcome, float], None]
"""Is told of each request to another member: what became of it, and in how many seconds."""


class Router:
    """The way from a collection to its shards, for one member. Any thread may call."""

    def __init__(
        self,
        name: str,
        topology: KnownTopology,
        held: HeldShards,
        followed: FollowedShards,
        peers: Peers,
        gossip: Gossip,
        *,
        readers: int,
        knows: Callable[[str], bool],
        observe: ObserveRequest | None,
    ) -> None:
        """*name* is this member's. So many *readers* may work at a time.

        *knows* says whether there is a collection of a token, after a look into the catalog if need be.
        """
        self._name = name
        self._topology = topology
        self._held = held
        self._followed = followed
        self._peers = peers
        self._gossip = gossip
        self._knows = knows
        self._observe = observe
        self._performer = Performer(topology, held, followed, readers=readers)
        self._silence = Silence()

    def close(self) -> None:
        self._performer.close()

    # --- asking ----------------------------------------------------------------------------------------

    def ask(
        self,
        token: str,
        name: str,
        operations: Mapping[int, Operation],
        *,
        copies: int = 1,
        partial: Partial | None = None,
    ) -> Any:
        """The merged result of *operations*, by shard, of the collection *name*.

        Any of so many *copies* of each shard may answer: of 1, its owner. More are for reads that are not `fresh`.
        With *partial*, which is for reads, it is what was there in time, unless that is nothing. Raises
        ShardsUnavailable that names the shards, WriteInDoubt, CollectionGone, AnsweredElsewhere, and what the
        operations raise here.
        """
        question = Question(token, name, operations, copies=copies, partial=partial)
        if not question.pending:
            return question.operation.merge([])
        for attempt in count(random.randrange(copies)):
            topology = self._topology.current
            with ExitStack() as waits:
                self._round(question, topology, self._choose(question, topology, attempt), waits)
            if copies == 1 and question.crowded:
                question.wait_for_none_of_the_crowded()
            if not topology.members and not question.is_answered:
                raise question.unavailable("no member is known that could serve it")
            if question.is_answered or question.is_over:
                return question.answer()
            if not question.to_former and attempt % copies == 0:
                self._gossip.look()
                self._topology.wait_for_newer(topology.version, seconds=PAUSE_SECONDS)
        raise AssertionError("there is always another attempt")

    def _choose(
        self, question: Question, topology: Topology, attempt: int
    ) -> dict[Member | None, dict[int, Operation]]:
        """Whom to ask for which shards; None is this member.

        Of several copies the one that is here is asked first, then one after the other.
        """
        token, copies = question.token, question.copies
        asked: dict[Member | None, dict[int, Operation]] = {}
        for shard, operation in question.pending.items():
            members = topology.copies(token, shard, copies)
            if not members:
                continue
            member = members[attempt % len(members)]
            if shard in question.to_former:
                member = topology.former_owner(token, shard) or member
            is_here = member.name == self._name or self._held.serves(ShardId(token, shard))
            is_here = is_here or (copies > 1 and self._followed.find(ShardId(token, shard)) is not None)
            asked.setdefault(None if is_here else member, {})[shard] = operation
        return asked

    def _round(
        self,
        question: Question,
        topology: Topology,
        asked: Mapping[Member | None, dict[int, Operation]],
        waits: ExitStack,
    ) -> None:
        """Ask each member once, and note in *question* what became of it. In *waits* is who waits for which member."""
        question.to_former, question.crowded = set(), set()
        failure: EngineError | None = None
        under_way: list[_UnderWay] = []
        for member, operations in asked.items():
            if member is None:
                continue
            try:
                waits.enter_context(self._silence.waiting_for(member.name))
            except TooManyWait as error:
                question.put_off(operations, str(error))
                question.crowded.update(operations)
                continue
            began = time.monotonic()
            try:
                sent = self._send(question, member, topology, operations)
                under_way.append(_UnderWay(member, operations, sent, began))
            except NotSent as error:
                self._silence.heard(member.name)
                self._note(Outcome.UNREACHABLE, began)
                question.put_off(operations, f"{member.name} cannot be reached ({error})")
                owned = (
                    shard for shard in operations if _is_with(member, topology.owner(question.token, shard))
                )
                self._ask_former_next(question, topology, owned)
            except NotAnswered as error:
                self._silence.heard(member.name)
                self._note(Outcome.UNANSWERED, began)
                failure = question.in_doubt(operations, str(error))
        if mine := asked.get(None):
            try:
                self._perform(question, topology, mine)
            except EngineError as error:
                failure = failure or error
        for each in under_way:  # all answers are read, also after one that is an error
            try:
                self._take_answer(question, topology, each)
            except EngineError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _perform(self, question: Question, topology: Topology, operations: dict[int, Operation]) -> None:
        """Ask this member."""
        is_partial = question.partial is not None
        opened_by = min(self._turn(question), time.monotonic() + OPEN_SECONDS)
        response = self._performer.perform(question.token, _jobs(operations), opened_by, partial=is_partial)
        if is_partial:
            question.go_without(response.failed)
        self._ask_former_next(question, topology, response.with_former)
        question.put_off(response.moved + response.with_former, "it is being opened")
        for done in response.done:
            question.answered(done.shards, done.result)

    def _send(
        self, question: Question, member: Member, topology: Topology, operations: Mapping[int, Operation]
    ) -> Asked:
        is_partial = question.partial is not None
        request = Request(question.token, topology.version, _jobs(operations), is_partial)
        path, seconds = (WRITE_PATH, WRITE_SECONDS) if question.writes else (READ_PATH, READ_SECONDS)
        if is_partial:
            seconds = min(seconds, max(PAUSE_SECONDS, self._turn(question) - time.monotonic()))
        return self._peers.send(member, "POST", path, msgspec.msgpack.encode(request), seconds=seconds)

    def _take_answer(self, question: Question, topology: Topology, under_way: _UnderWay) -> None:
        member, operations, asked, began = under_way
        try:
            answer = asked.answer(within=self._patience_with(member, question, topology, operations))
        except NotAnswered as error:
            self._note(Outcome.UNANSWERED, began)
            if failure := question.in_doubt(operations, str(error)):
                raise failure from None
            return
        self._silence.heard(member.name)
        if answer.status != 200:
            self._note(Outcome.REFUSED, began)
        if answer.status == 503:
            question.put_off(operations, f"{member.name} is starting or stopping")
            return
        if answer.status == 410:
            raise CollectionGone(question.token)
        if answer.status != 200 and question.partial is not None and answer.status >= 500:
            question.put_off(operations, f"{member.name} answers with status {answer.status}")
            return
        if answer.status != 200:
            raise AnsweredElsewhere(answer.status, _error.decode(answer.body))
        response = response_decoder.decode(answer.body)
        self._note(Outcome.MOVED if response.moved or response.with_former else Outcome.DONE, began)
        self._gossip.heard(member, response.version)
        if question.partial is not None:
            question.go_without(response.failed)
        self._ask_former_next(question, topology, response.with_former)
        question.put_off(response.moved + response.with_former, f"{member.name} does not serve it yet")
        for done in response.done:
            question.answered(done.shards, question.operation.result_decoder.decode(done.result))

    @staticmethod
    def _ask_former_next(question: Question, topology: Topology, shards: Iterable[int]) -> None:
        """Ask next, and at once, who served them before. Where that is nobody else, there is nothing to hurry for."""
        question.to_former.update(
            shard for shard in shards if topology.former_owner(question.token, shard) is not None
        )

    @staticmethod
    def _turn(question: Question) -> float:
        """Until when one of several copies is waited for."""
        return min(question.deadline, time.monotonic() + question.patience / question.copies)

    def _note(self, outcome: Outcome, began: float) -> None:
        if self._observe is not None:
            self._observe(outcome, time.monotonic() - began)

    def _patience_with(
        self, member: Member, question: Question, topology: Topology, operations: Mapping[int, Operation]
    ) -> Callable[[], float]:
        """How many seconds *member* may still take: few, where others are known to serve its shards, or to be about to.

        A frozen member would keep everybody waiting otherwise.
        """
        token, writes = question.token, question.writes
        known_since: float | None = None

        def left() -> float:
            nonlocal known_since
            if not writes and self._silence.is_crowded(member.name):
                return 0.0
            current = self._topology.current
            if all(_is_with(member, current.owner(token, shard)) for shard in operations):
                return math.inf
            if not writes:
                return math.inf if current is topology else 0.0
            now = time.monotonic()
            known_since = known_since or now
            return known_since + REPLACED_SECONDS - now

        return left

    # --- answering -------------------------------------------------------------------------------------

    def answer(self, body: bytes | bytearray) -> bytes:
        """What this member answers to another one's `Request`. Raises what the operations raise."""
        request = decode_request(request_decoder, body)
        if not self._knows(request.token):
            raise CollectionGone(request.token)
        return msgspec.msgpack.encode(
            self._performer.perform(
                request.token, request.jobs, time.monotonic() + OPEN_SECONDS, partial=request.partial
            )
        )


class _UnderWay(NamedTuple):
    member: Member
    operations: dict[int, Operation]
    asked: Asked
    began: float


def _is_with(member: Member, owner: Member | None) -> bool:
    return owner is not None and owner.name == member.name


def _jobs(operations: Mapping[int, Operation]) -> list[Job]:
    """Shards that have the same to do are told together."""
    jobs: dict[int, Job] = {}
    for shard, operation in operations.items():
        jobs.setdefault(id(operation), Job([], operation)).shards.append(shard)  # type: ignore[arg-type]
    return list(jobs.values())
