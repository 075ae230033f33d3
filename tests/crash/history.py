"""What was acknowledged before a kill, and what a folder must therefore hold after it."""

from __future__ import annotations

from typing import NamedTuple

from tests.crash.writer import Kind, Operation, Step, operation, step

THREADS = 4
"""Those that write to the collection that stays. One more makes and deletes another one."""


class Point(NamedTuple):
    """The numbers of the operation that wrote a point, and of the one that last marked it."""

    number: int
    mark: int | None = None


Points = dict[int, Point]


class History:
    """What one writer did: the operations that were acknowledged, and perhaps one more."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.next = 0
        self.points: Points = {}

    def acknowledge(self, number: int) -> None:
        assert number == self.next
        self.points = _carry_out(operation(self.thread, number), self.points)
        self.next += 1

    def settle(self, found: Points) -> None:
        """Hold what was found against what was acknowledged; the operation under way may have been done."""
        if found == self.points:
            return
        done = _carry_out(operation(self.thread, self.next), self.points)
        assert found == done, f"thread {self.thread} after operation {self.next - 1}"
        self.points = done
        self.next += 1


def _carry_out(done: Operation, points: Points) -> Points:
    changed = dict(points)
    for point in done.ids:
        match done.kind:
            case Kind.UPSERT:
                changed[point] = Point(done.number)
            case Kind.DELETE:
                changed.pop(point, None)
            case Kind.MARK if point in changed:
                changed[point] = Point(changed[point].number, mark=done.number)
    return changed


class PassingHistory:
    """The same of the collection that comes and goes: None is none, else the number that its only point holds."""

    def __init__(self) -> None:
        self.next = 0

    def acknowledge(self, number: int) -> None:
        assert number == self.next
        self.next += 1

    def settle(self, found: list[int] | None) -> None:
        if found != _content_after(self.next - 1):
            assert found == _content_after(self.next), f"after operation {self.next - 1}"
            self.next += 1


def _content_after(number: int) -> list[int] | None:
    match step(number):
        case Step.CREATE:
            return []
        case Step.FILL:
            return [number]
        case Step.DELETE:
            return None
