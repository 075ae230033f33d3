"""What a member does itself of what it is asked: operations on the shards that are at hand here."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vectorizer_engine.distributed.followed_shards import FollowedShards
from vectorizer_engine.distributed.held_shard import NotHeld, ShardId
from vectorizer_engine.distributed.held_shards import HeldShards
from vectorizer_engine.distributed.messages import Done, Job, Response
from vectorizer_engine.distributed.operations import Describe, Operation, Read
from vectorizer_engine.distributed.topology import KnownTopology
from vectorizer_engine.errors import EngineError, Fenced, StorageFailure, StoreClosed, StoreError

WRITERS = 32
"""So many shards are written to at a time by requests that write to several."""


class Performer:
    """Any thread may call."""

    def __init__(
        self, topology: KnownTopology, held: HeldShards, followed: FollowedShards, *, readers: int
    ) -> None:
        """So many *readers* may work at a time."""
        self._topology = topology
        self._held = held
        self._followed = followed
        self._reading = threading.BoundedSemaphore(readers)
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="shard-writer")

    def close(self) -> None:
        self._writers.shutdown()

    def perform(self, token: str, jobs: list[Job], deadline: float, *, partial: bool) -> Response:
        """Carry out what is for shards of this member. Raises what one of them does, unless it may be *partial*."""
        singles = [(ShardId(token, shard), job.operation) for job in jobs for shard in job.shards]
        for single, operation in singles[1:]:  # they are opened beside each other
            if not isinstance(operation, Describe):
                self._held.wake(single)
        if len(singles) > 1 and singles[0][1].writes:
            # Each waits for a put of its own, so they wait together.
            futures = [self._writers.submit(self._attempt, *single, deadline) for single in singles]
            outcomes = iter([future.result() for future in futures])
        else:
            outcomes = (self._attempt(*single, deadline) for single in singles)
        response = Response(self._topology.current.version, [], [], [], {})
        for job in jobs:
            results: dict[int, Any] = {}
            for shard in job.shards:
                outcome = next(outcomes)
                if isinstance(outcome, NotHeld):
                    (response.with_former if outcome.with_former else response.moved).append(shard)
                elif partial and isinstance(outcome, StorageFailure | StoreError):
                    response.failed[shard] = str(outcome)
                elif isinstance(outcome, EngineError):
                    raise outcome
                else:
                    results[shard] = outcome
            if results:
                result = merged_result(job.operation, list(results.values()))
                response.done.append(Done(list(results), result))
        return response

    def _attempt(self, shard: ShardId, operation: Operation, deadline: float) -> Any:
        """Its result, or the error, so that what runs beside it ends before that is raised."""
        try:
            return self._one(shard, operation, deadline)
        except (EngineError, NotHeld) as error:
            return error

    def _one(self, shard: ShardId, operation: Operation, deadline: float) -> Any:
        """Raises NotHeld where nothing was done because another member has the shard."""
        if isinstance(operation, Read) and not operation.fresh and not self._held.serves(shard):
            reader = self._followed.find(shard)
            if reader is not None:
                try:
                    with self._reading:
                        return operation.run(reader)
                except StoreClosed:  # its memory was wanted in this moment
                    raise NotHeld from None
        held = self._held.get(shard, deadline=deadline)
        try:
            if isinstance(operation, Describe):
                with held.described(deadline=deadline) as described:
                    if operation.fresh:
                        held.confirm()
                    return operation.run(described)
            with held.used(deadline=deadline) as collection:
                if not isinstance(operation, Read):
                    return operation.run(collection)
                if operation.fresh:
                    held.confirm()
                with self._reading:
                    return operation.run(collection)
        except Fenced:
            self._held.lost(shard, held)
            raise NotHeld from None
        except StoreClosed:  # it was given up in this moment
            raise NotHeld from None


def merged_result(operation: Operation, results: Sequence[Any]) -> Any:
    """What several shards, or members, have made of an operation."""
    return results[0] if len(results) == 1 else operation.merge(results)
