"""Bringing operations to the shards, wherever they are, and their results back.

Shards that another member has are asked over HTTP, all members at once; those of this member directly. Where a shard
has moved, or its member cannot be reached, a newer topology is waited for and the shard is asked again, until the
patience ends. A write is sent again only if it was certainly not carried out. The result is complete or an error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from vectorizer_engine.distributed.held_shards import HeldShards, NotHeld, ShardId
from vectorizer_engine.distributed.operations import AnyOperation, Operation
from vectorizer_engine.distributed.peers import Answer, Asked, NotAnswered, NotSent, Peers
from vectorizer_engine.distributed.topology import KnownTopology, Member, Topology
from vectorizer_engine.errors import (
    AnsweredElsewhere,
    CollectionGone,
    CollectionNotFound,
    EngineError,
    Fenced,
    InvalidRequest,
    ShardsUnavailable,
    StoreClosed,
    WriteInDoubt,
)

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""So long a request waits for shards that move, in seconds."""

READ_SECONDS = 5.0
"""How long a member may take to answer a read; then it may be gone, and is asked again, or whoever replaces it."""

WRITE_SECONDS = 45.0
"""How long a member may take to answer a write: it waits up to 30 s for the store by itself."""

WRITERS = 32
"""So many shards are written to at a time by requests that write to several."""

PAUSE_SECONDS = 0.1
"""Between two attempts, unless a newer topology comes before."""

OPEN_SECONDS = 3.0
"""How long a shard that is being opened is waited for at a time. Below `READ_SECONDS`, so that this is told in time."""

READ_PATH, WRITE_PATH = "/internal/read", "/internal/write"
TOPOLOGY_PATH = "/internal/topology"
CATALOG_PATH = "/internal/catalog"


class Job(msgspec.Struct, array_like=True):
    """The same operation for some shards."""

    shards: list[int]
    operation: AnyOperation


class Request(msgspec.Struct, array_like=True):
    """What one member asks another. `version` is that of the topology by which it asks."""

    token: str
    version: int
    jobs: list[Job]


class Done(msgspec.Struct, array_like=True):
    """The result of an operation by some shards."""

    shards: list[int]
    result: Any


class Response(msgspec.Struct, array_like=True):
    """What was done, and which shards are not here. `version` is that of the topology of whoever answers."""

    version: int
    done: list[Done]
    moved: list[int]


class _RawDone(msgspec.Struct, array_like=True):
    shards: list[int]
    result: msgspec.Raw


class _RawResponse(msgspec.Struct, array_like=True):
    version: int
    done: list[_RawDone]
    moved: list[int]


_request = msgspec.msgpack.Decoder(Request)
_response = msgspec.msgpack.Decoder(_RawResponse)


class Router:
    """The way from a collection to its shards, for one member. Any thread may call."""

    def __init__(
        self,
        name: str,
        topology: KnownTopology,
        held: HeldShards,
        peers: Peers,
        *,
        readers: int,
        knows: Callable[[str], bool],
    ) -> None:
        """*name* is this member's. So many *readers* may work at a time.

        *knows* says whether there is a collection of a token, after a look into the catalog if need be.
        """
        self._name = name
        self._topology = topology
        self._held = held
        self._peers = peers
        self._knows = knows
        self._reading = threading.BoundedSemaphore(readers)
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="shard-writer")

    def close(self) -> None:
        self._writers.shutdown(cancel_futures=True)
        self._peers.close()

    # --- asking ----------------------------------------------------------------------------------------

    def ask(self, token: str, name: str, operations: Mapping[int, Operation]) -> Any:
        """The merged result of *operations*, by shard, of the collection *name*.

        Raises ShardsUnavailable that names the shards, WriteInDoubt, CollectionNotFound, AnsweredElsewhere, and what
        the operations raise here.
        """
        operation = next(iter(operations.values()))
        pending = dict(operations)
        results: list[Any] = []
        why: dict[int, str] = {}
        deadline = time.monotonic() + PATIENCE
        while True:
            topology = self._topology.current
            for done in self._round(token, name, topology, pending, why, deadline):
                results.append(done.result)
                for shard in done.shards:
                    del pending[shard]
            if not pending:
                return _merged(operation, results)
            if time.monotonic() >= deadline:
                raise _unavailable(name, {shard: why.get(shard, "it is moving") for shard in pending})
            self._topology.wait_for_newer(topology.version, seconds=PAUSE_SECONDS)
            if self._topology.current is topology:
                self._look_for_newer(topology)

    def _round(
        self,
        token: str,
        name: str,
        topology: Topology,
        pending: Mapping[int, Operation],
        why: dict[int, str],
        deadline: float,
    ) -> Iterator[Done]:
        """Ask each owner once. What was not done is left in *pending*, with the reason in *why*."""
        owners: dict[Member, dict[int, Operation]] = {}
        for shard, operation in pending.items():
            owner = topology.owner(token, shard)
            if owner is None:
                why[shard] = "no member is known that could serve it"
            else:
                owners.setdefault(owner, {})[shard] = operation
        mine: dict[int, Operation] = {}
        under_way: list[tuple[Member, dict[int, Operation], Asked]] = []
        for owner, operations in owners.items():
            if owner.name == self._name:
                mine = operations
                continue
            try:
                under_way.append((owner, operations, self._send(owner, token, topology.version, operations)))
            except NotSent as error:
                why.update(dict.fromkeys(operations, f"{owner.name} cannot be reached ({error})"))
            except NotAnswered as error:
                self._not_answered(operations, error, why)
        local: EngineError | None = None
        done: list[Done] = []
        if mine:
            try:
                done, _ = self._perform(token, _jobs(mine), min(deadline, time.monotonic() + OPEN_SECONDS))
            except EngineError as error:
                local = error  # answers that are under way are to be read first
        for owner, operations, asked in under_way:
            try:
                answer = asked.answer()
            except NotAnswered as error:
                self._not_answered(operations, error, why)
                continue
            done += self._accept(owner, name, operations, answer, why)
        if local is not None:
            raise local
        yield from done

    def _send(self, owner: Member, token: str, version: int, operations: Mapping[int, Operation]) -> Asked:
        writes = next(iter(operations.values())).writes
        body = msgspec.msgpack.encode(Request(token, version, _jobs(operations)))
        path, seconds = (WRITE_PATH, WRITE_SECONDS) if writes else (READ_PATH, READ_SECONDS)
        return self._peers.send(owner, "POST", path, body, seconds=seconds)

    def _not_answered(
        self, operations: Mapping[int, Operation], error: NotAnswered, why: dict[int, str]
    ) -> None:
        """Raises WriteInDoubt for what may have been carried out."""
        if next(iter(operations.values())).writes:
            raise WriteInDoubt(
                f"{error}: whether it wrote to shards {_listed(operations)} is not known; send the write again"
            ) from None
        why.update(dict.fromkeys(operations, str(error)))

    def _accept(
        self,
        owner: Member,
        name: str,
        operations: Mapping[int, Operation],
        answer: Answer,
        why: dict[int, str],
    ) -> list[Done]:
        if answer.status == 503:
            why.update(dict.fromkeys(operations, f"{owner.name} is starting or stopping"))
            return []
        if answer.status == 410:
            raise CollectionNotFound(name)
        if answer.status != 200:
            raise AnsweredElsewhere(answer.status, msgspec.json.decode(answer.body))
        response = _response.decode(answer.body)
        self._exchange(owner, response.version)
        result = next(iter(operations.values())).result
        why.update(dict.fromkeys(response.moved, f"{owner.name} does not serve it"))
        return [Done(done.shards, msgspec.msgpack.decode(done.result, type=result)) for done in response.done]

    # --- answering -------------------------------------------------------------------------------------

    def answer(self, body: bytes | bytearray) -> bytes:
        """What this member answers to another one's `Request`. Raises what the operations raise."""
        try:
            request = _request.decode(body)
        except msgspec.MsgspecError as error:
            raise InvalidRequest(f"not a request of a member of this cluster: {error}") from None
        if not self._knows(request.token):
            raise CollectionGone(request.token)
        done, moved = self._perform(request.token, request.jobs, time.monotonic() + OPEN_SECONDS)
        return msgspec.msgpack.encode(Response(self._topology.current.version, done, moved))

    def _perform(self, token: str, jobs: list[Job], deadline: float) -> tuple[list[Done], list[int]]:
        """Carry out what is for shards of this member. Returns the results, and which shards are not here."""
        singles = [(ShardId(token, shard), job.operation) for job in jobs for shard in job.shards]
        if len(singles) > 1 and singles[0][1].writes:
            # Each waits for a put of its own, so they wait together.
            futures = [self._writers.submit(self._attempt, *single, deadline) for single in singles]
            outcomes = iter([future.result() for future in futures])
        else:
            outcomes = (self._attempt(*single, deadline) for single in singles)
        done: list[Done] = []
        moved: list[int] = []
        for job in jobs:
            results: dict[int, Any] = {}
            for shard in job.shards:
                outcome = next(outcomes)
                if isinstance(outcome, NotHeld):
                    moved.append(shard)
                elif isinstance(outcome, EngineError):
                    raise outcome
                else:
                    results[shard] = outcome
            if results:
                done.append(Done(list(results), _merged(job.operation, list(results.values()))))
        return done, moved

    def _attempt(self, shard: ShardId, operation: Operation, deadline: float) -> Any:
        """Its result, or the error, so that what runs beside it ends before that is raised."""
        try:
            return self._one(shard, operation, deadline)
        except (EngineError, NotHeld) as error:
            return error

    def _one(self, shard: ShardId, operation: Operation, deadline: float) -> Any:
        """Raises NotHeld where nothing was done because another member has the shard."""
        held = self._held.get(shard, deadline=deadline)
        try:
            if operation.writes:
                return operation.run(held.collection)
            held.confirm()
            with self._reading:
                return operation.run(held.collection)
        except Fenced:
            self._held.lost(shard, held)
            raise NotHeld from None
        except StoreClosed:  # it was given up in this moment
            raise NotHeld from None

    # --- topology --------------------------------------------------------------------------------------

    def _exchange(self, member: Member, version: int) -> None:
        """Give *member*, which knows the topology of *version*, the newer one, or take it."""
        current = self._topology.current
        try:
            if version > current.version:
                self._take(member)
            elif version < current.version:
                body = msgspec.json.encode(current)
                self._peers.ask(member, "PUT", TOPOLOGY_PATH, body, seconds=READ_SECONDS)
        except (NotSent, NotAnswered, EngineError) as error:
            logger.warning("the topology could not be exchanged with %s: %s", member.name, error)

    def _take(self, member: Member) -> None:
        answer = self._peers.ask(member, "GET", TOPOLOGY_PATH, seconds=READ_SECONDS)
        if answer.status == 200:
            self._topology.adopt(msgspec.json.decode(answer.body, type=Topology))

    def _look_for_newer(self, topology: Topology) -> None:
        """Ask the others whether they know more."""
        for member in topology.members:
            if member.name != self._name:
                try:
                    self._take(member)
                except (NotSent, NotAnswered, EngineError):
                    continue

    def tell(self, path: str) -> None:
        """POST to each other member; those that do not answer will find out by themselves."""
        asked = []
        for member in self._topology.current.members:
            if member.name != self._name:
                try:
                    asked.append(self._peers.send(member, "POST", path, b"", seconds=READ_SECONDS))
                except (NotSent, NotAnswered) as error:
                    logger.warning("%s was not told: %s", member.name, error)
        for each in asked:
            try:
                each.answer()
            except NotAnswered as error:
                logger.warning("a member did not confirm what it was told: %s", error)


def _jobs(operations: Mapping[int, Operation]) -> list[Job]:
    """Shards that have the same to do are told together."""
    jobs: dict[int, Job] = {}
    for shard, operation in operations.items():
        jobs.setdefault(id(operation), Job([], operation)).shards.append(shard)  # type: ignore[arg-type]
    return list(jobs.values())


def _merged(operation: Operation, results: list[Any]) -> Any:
    return results[0] if len(results) == 1 else operation.merge(results)


def _listed(shards: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(shards)))


def _unavailable(name: str, why: Mapping[int, str]) -> ShardsUnavailable:
    reasons = dict.fromkeys(why.values())
    told = "; ".join(
        f"shards {_listed(shard for shard, each in why.items() if each == reason)}: {reason}"
        for reason in reasons
    )
    return ShardsUnavailable(
        f"collection '{name}' cannot be served in full within {PATIENCE:g} s: {told}; send the request again"
    )
