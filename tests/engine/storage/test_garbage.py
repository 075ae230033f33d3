"""Objects that are not needed any more: deleted when they are due, and nothing is asked of the store otherwise."""

from __future__ import annotations

from collections.abc import Callable

from tests.engine.storage.test_object_log import Clock
from tests.engine.stores import Fault, FaultyStore, MemoryStore
from vectorizer_engine.storage.garbage import AGAIN_SECONDS, Garbage

GRACE = 600.0


class Timer:
    """What was asked to be done later; `pass_` lets time go by."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.jobs: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, job: Callable[[], None]) -> None:
        self.jobs.append((self.clock.now + seconds, job))

    def pass_(self, seconds: float) -> None:
        self.clock.now += seconds
        due = [job for when, job in self.jobs if when <= self.clock.now]
        self.jobs = [each for each in self.jobs if each[0] > self.clock.now]
        for job in due:
            job()


class Bin:
    """Garbage with a timer, in a store that has ten objects."""

    def __init__(self) -> None:
        clock = Clock()
        self.timer = Timer(clock)
        self.objects = MemoryStore()
        for number in range(10):
            self.objects.create(f"o/{number}", b"")
        self.store = FaultyStore(self.objects)
        self.garbage = Garbage(self.store, grace=GRACE, clock=clock, later=self.timer.later)

    def left(self) -> int:
        return len(self.objects.objects)


def test_what_is_not_needed_goes_by_itself_when_its_time_has_come() -> None:
    bin_ = Bin()
    bin_.garbage.add(["o/0", "o/1"])
    bin_.timer.pass_(GRACE / 2)
    bin_.garbage.add(["o/2"])
    bin_.timer.pass_(GRACE / 2)
    assert bin_.left() == 8
    bin_.timer.pass_(GRACE / 2)
    assert bin_.left() == 7


def test_however_much_there_is_one_reminder_is_enough() -> None:
    bin_ = Bin()
    for number in range(10):
        bin_.garbage.add([f"o/{number}"])
    assert len(bin_.timer.jobs) == 1
    bin_.timer.pass_(GRACE)
    assert bin_.left() == 0
    assert not bin_.timer.jobs


def test_nothing_is_asked_of_the_store_where_there_is_nothing_to_delete() -> None:
    bin_ = Bin()
    bin_.garbage.add([])
    bin_.timer.pass_(GRACE)
    bin_.garbage.sweep()
    assert not bin_.store.calls
    assert not bin_.timer.jobs


def test_what_the_store_refuses_to_delete_is_tried_again() -> None:
    bin_ = Bin()
    bin_.garbage.add(f"o/{number}" for number in range(10))
    bin_.store.faults.append(Fault.UNAVAILABLE)
    bin_.timer.pass_(GRACE)
    assert bin_.left() == 10
    bin_.timer.pass_(max(GRACE, AGAIN_SECONDS))
    assert bin_.left() == 0
