"""Group commit: many threads write at once, and share the fsyncs.

Whoever finds nobody committing becomes the leader and commits everything that waits, itself included, as one
append to the log; those who come meanwhile are the next group. There is no thread of its own, so an idle
collection costs none.

An operation goes through three steps, always in the leader, one group at a time:
`prepare` does everything that can fail and returns the log's record; the log makes the group durable;
`apply` makes it visible and must not fail. So what is visible is durable, and what failed left nothing.

Where the log cannot say whether it has a group (see `InDoubt`), its writers are told so, and what was prepared
stays so until the log knows. That is asked before anything else is written.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from vectorizer_engine.errors import StorageFailure, StoreClosed, WriteInDoubt
from vectorizer_engine.storage.files import disk_errors
from vectorizer_engine.storage.log import InDoubt, Log

GROUP_BYTES = 16 * 1024**2
"""A group is closed at this size, so that one fsync, and one frame at recovery, stay bounded."""


ObserveAppend = Callable[[int, float], None]
"""Is told of each append to a log: how many writes shared it, and the seconds until it was durable."""


class Operation(Protocol):
    """Something to be written.

    `size` is about how many bytes its record has. An operation that `reads` sees, in `prepare`, everything
    that was submitted before it applied; it is the first of its group, and its size is asked for after that.
    """

    reads: bool

    @property
    def size(self) -> int: ...

    def prepare(self) -> bytes | None:
        """The log's record, or None where there is nothing to write. An EngineError fails this one only."""
        ...

    def apply(self, number: int) -> None:
        """Make it visible. *number* is that of its record."""
        ...

    def abandon(self) -> None:
        """It was prepared, but the log did not take it. What it holds can go."""
        ...


class _Ticket:
    __slots__ = ("applied", "durable", "error", "number", "operation")

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.number = 0
        self.durable = False
        self.applied = False
        self.error: Exception | None = None


class GroupCommit:
    """Commits operations to *log* in the order in which they were submitted."""

    def __init__(self, log: Log, *, observe: ObserveAppend | None = None) -> None:
        self._log = log
        self._observe = observe
        self._condition = threading.Condition()
        self._waiting: deque[_Ticket] = deque()
        self._busy = False
        self._closed = False
        self._broken: Exception | None = None
        # What was prepared, and the log cannot say whether it has it.
        self._in_doubt: tuple[InDoubt, list[Operation]] | None = None

    def submit(self, operation: Operation, *, wait: bool) -> int:
        """Commit *operation*; returns its number once it is durable and, with *wait*, visible.

        Raises what `prepare` raised, StorageFull or StorageFailure where the log could not take it, WriteInDoubt
        where it may still do so (*operation* is then kept, and applied or abandoned later), and StoreClosed.
        """
        ticket = _Ticket(operation)
        with self._condition:
            self._check_usable()
            self._waiting.append(ticket)
        while True:
            with self._condition:
                while self._busy and not self._answered(ticket, wait):
                    self._condition.wait()
                if self._answered(ticket, wait):
                    break
                self._busy = True
            group: list[_Ticket] = []
            self._fill(group)
            try:
                self._commit(group)
            finally:
                self._leave()
        if ticket.error is not None:
            raise ticket.error
        return ticket.number

    @contextmanager
    def paused(self, *, within: float | None = None) -> Iterator[None]:
        """While inside, nothing is committed. Do not stay long: writers wait.

        Raises StorageFailure where the log does not know its own end, or has writes that could not be made visible;
        and where it does not come about *within* so many seconds and a request to a store that is away.
        """
        with self._condition:
            if not self._condition.wait_for(lambda: not self._busy, within):
                raise StorageFailure(f"a write has waited for the log for more than {within:.1f} s")
            self._busy = True
        try:
            self._check_unbroken()  # or what is only in the log would be taken for applied, and forgotten
            if within == 0.0 and self._in_doubt is not None:
                raise StorageFailure("there is no time to learn what became of an earlier write")
            self._settle(patience=within)
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Refuse what comes from now on, finish what is being written, close the log."""
        with self._condition:
            self._closed = True
            while self._busy or self._waiting:
                self._condition.wait()
        if self._in_doubt is not None:
            self._abandon(self._in_doubt[1])
        self._log.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreClosed("the store is shutting down: send the write to another pod, or again later")
        self._check_unbroken()

    def _check_unbroken(self) -> None:
        if self._broken is not None:
            raise StorageFailure(
                f"writes stopped after an internal error ({self._broken}): restart the engine, which recovers "
                "from the log"
            ) from self._broken

    @staticmethod
    def _answered(ticket: _Ticket, wait: bool) -> bool:
        return ticket.error is not None or (ticket.applied if wait else ticket.durable)

    def _leave(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()

    def _fill(self, group: list[_Ticket]) -> None:
        """Move what waits to *group*, as far as it fits."""
        size = sum(ticket.operation.size for ticket in group)
        with self._condition:
            while self._waiting:
                operation = self._waiting[0].operation
                if group and (operation.reads or size + operation.size > GROUP_BYTES):
                    return
                group.append(self._waiting.popleft())
                size += operation.size
                if operation.reads:
                    return

    def _commit(self, group: list[_Ticket]) -> None:
        try:
            self._write(group)
        except Exception as error:  # noqa: BLE001 - nobody else learns of it: every writer gets it
            for ticket in group:
                if not ticket.applied:
                    ticket.error = ticket.error or error

    def _settle(self, *, patience: float | None = None) -> None:
        """Learn what became of the group that the log was not sure of. Raises StorageFailure, Fenced.

        *patience* is how many seconds the log may repeat what fails; None: as long as it thinks best.
        """
        if self._in_doubt is None:
            return
        doubt, operations = self._in_doubt
        landed = False
        with disk_errors("learn what became of an earlier write"):
            try:
                landed = doubt.settle(patience)
            except OSError:
                raise  # it still is not known
            except BaseException:
                self._abandon(operations)
                raise
        if landed:
            self._in_doubt = None
            for number, operation in enumerate(operations, start=doubt.first):
                self._apply(operation, number)
        else:
            self._abandon(operations)

    def _abandon(self, operations: list[Operation]) -> None:
        self._in_doubt = None
        for operation in operations:
            operation.abandon()

    def _write(self, group: list[_Ticket]) -> None:
        self._check_unbroken()  # those that were waiting when it broke
        self._settle()
        prepared: list[tuple[_Ticket, bytes]] = []
        for ticket in group:  # which an operation that reads lets grow
            try:
                record = ticket.operation.prepare()
            except Exception as error:  # noqa: BLE001 - the writer gets it
                ticket.error = error
                continue
            finally:
                if ticket.operation.reads:
                    self._fill(group)
            if record is None:
                ticket.number = self._log.next_number - 1
                ticket.durable = ticket.applied = True
            else:
                prepared.append((ticket, record))
        if not prepared:
            return
        operations = [ticket.operation for ticket, _ in prepared]
        began = time.perf_counter()
        try:
            with disk_errors("write to the log"):
                first = self._log.append([record for _, record in prepared])
        except StorageFailure as error:
            if isinstance(error.__cause__, InDoubt):
                self._in_doubt = (error.__cause__, operations)
                raise WriteInDoubt(
                    f"{error}; the write counts wholly or not at all, and it is not known which: send it again"
                ) from error
            self._abandon(operations)
            raise
        except BaseException:
            self._abandon(operations)
            raise
        with self._condition:
            for number, (ticket, _) in enumerate(prepared, start=first):
                ticket.number = number
                ticket.durable = True
            self._condition.notify_all()
        if self._observe is not None:
            self._observe(len(prepared), time.perf_counter() - began)
        for number, (ticket, _) in enumerate(prepared, start=first):
            self._apply(ticket.operation, number)
            ticket.applied = True

    def _apply(self, operation: Operation, number: int) -> None:
        try:
            operation.apply(number)
        except Exception as error:
            self._broken = error
            raise
