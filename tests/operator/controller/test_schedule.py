"""The schedule's promises, first one by one, then under any order of calls."""

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from vectorizer_operator.controller.schedule import FIRST_BACKOFF, LONGEST_BACKOFF, REST, Schedule


def test_a_key_is_taken_once_however_often_it_was_added() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.add("a", 1.0)
    assert schedule.take(1.0) == "a"
    assert schedule.take(1.0) is None


def test_what_happens_to_a_key_while_it_is_worked_leads_to_one_more_round_after_it() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    assert schedule.take(0.0) == "a"
    schedule.add("a", 1.0)
    schedule.add("a", 2.0)
    assert schedule.take(2.0) is None
    schedule.done("a", 3.0)
    assert schedule.take(3.0 + REST) == "a"
    schedule.done("a", 4.0)
    assert schedule.take(1e9) is None


def test_the_key_that_is_due_the_longest_comes_first() -> None:
    schedule: Schedule[str] = Schedule()
    for key, after in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
        schedule.add(key, 0.0, after=after)
    assert [schedule.take(5.0) for _ in range(3)] == ["early", "middle", "late"]


def test_each_failure_doubles_the_wait_up_to_a_minute_and_a_success_forgets_them() -> None:
    schedule: Schedule[str] = Schedule()
    now = 0.0
    waits = []
    schedule.add("a", now)
    for _ in range(12):
        assert schedule.take(now) == "a"
        waits.append(schedule.failed("a", now))
        now += waits[-1]
    assert waits[:4] == [FIRST_BACKOFF * 2**n for n in range(4)]
    assert waits[-1] == LONGEST_BACKOFF
    assert schedule.take(now) == "a"
    schedule.done("a", now, again_after=1.0)
    assert schedule.take(now + 1.0) == "a"
    assert schedule.failed("a", now + 1.0) == FIRST_BACKOFF


def test_what_a_round_brings_about_is_gathered_for_a_moment() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.take(0.0)
    schedule.done("a", 1.0, again_after=600.0)
    schedule.add("a", 1.0)
    schedule.add("a", 1.0 + REST / 2)
    assert schedule.take(1.0 + REST / 2) is None
    assert schedule.next_due() == 1.0 + REST
    assert schedule.take(1.0 + REST) == "a"


def test_a_key_that_is_rested_is_worked_at_once() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.take(0.0)
    schedule.done("a", 1.0, again_after=600.0)
    schedule.add("a", 5.0)
    assert schedule.take(5.0) == "a"


def test_an_edit_of_a_key_that_failed_is_worked_at_once() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.take(0.0)
    schedule.failed("a", 0.0, retry_after=30.0)
    assert schedule.take(1.0) is None
    schedule.add("a", 1.0)
    assert schedule.take(1.0) == "a"


def test_a_server_that_asks_to_wait_is_given_that_time() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.take(0.0)
    assert schedule.failed("a", 0.0, retry_after=7.0) == 7.0
    assert schedule.next_due() == 7.0


def test_a_round_that_was_stopped_is_due_again_at_once() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.take(0.0)
    schedule.interrupted("a", 5.0)
    assert (schedule.depth(5.0), schedule.working) == (1, 0)


def test_the_oldest_round_at_work_is_timed() -> None:
    schedule: Schedule[str] = Schedule()
    assert schedule.longest_round(9.0) == 0.0
    for key, now in (("a", 1.0), ("b", 4.0)):
        schedule.add(key, now)
        schedule.take(now)
    assert schedule.longest_round(9.0) == 8.0


class ScheduleMachine(RuleBasedStateMachine):
    """Against a model that keeps, for each key, when it is due and whether it is worked."""

    working = Bundle("working")

    def __init__(self) -> None:
        super().__init__()
        self.schedule: Schedule[int] = Schedule()
        self.now = 0.0
        self.due: dict[int, float] = {}
        self.rested: dict[int, float] = {}
        self.at_work: set[int] = set()

    def expect(self, key: int, due: float) -> None:
        due = max(due, self.rested.get(key, 0.0))
        self.due[key] = min(due, self.due.get(key, due))

    def rest(self, key: int) -> None:
        """After a round, nothing about *key* is due before a moment has passed, for as long as it is remembered."""
        self.at_work.discard(key)
        self.rested[key] = self.now + REST
        if key in self.due:
            self.due[key] = max(self.due[key], self.rested[key])

    @rule(seconds=st.floats(0.01, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.integers(0, 4), after=st.sampled_from([0.0, 0.0, 1.0, 50.0]))
    def something_happens(self, key: int, after: float) -> None:
        self.schedule.add(key, self.now, after=after)
        self.expect(key, self.now + after)

    @rule(target=working)
    def take(self) -> object:
        ready = {key: due for key, due in self.due.items() if due <= self.now and key not in self.at_work}
        key = self.schedule.take(self.now)
        if key is None:
            assert not ready
            return multiple()
        assert ready[key] == min(ready.values())
        del self.due[key]
        self.rested.pop(key, None)
        self.at_work.add(key)
        return key

    @rule(key=consumes(working), again_after=st.sampled_from([None, 0.0, 10.0]))
    def done(self, key: int, again_after: float | None) -> None:
        self.schedule.done(key, self.now, again_after=again_after)
        self.rest(key)
        if again_after is not None:
            self.expect(key, self.now + again_after)
        if key not in self.due:
            del self.rested[key]  # forgotten: it is new when it is heard of again

    @rule(key=consumes(working))
    def failed(self, key: int) -> None:
        delay = self.schedule.failed(key, self.now)
        assert FIRST_BACKOFF <= delay <= LONGEST_BACKOFF
        self.rest(key)
        self.expect(key, self.now + delay)

    @rule(key=consumes(working))
    def interrupted(self, key: int) -> None:
        self.schedule.interrupted(key, self.now)
        self.at_work.discard(key)
        self.expect(key, self.now)

    @invariant()
    def it_knows_what_is_due(self) -> None:
        waiting = {key: due for key, due in self.due.items() if key not in self.at_work}
        assert self.schedule.next_due() == min(waiting.values(), default=None)
        assert self.schedule.depth(self.now) == sum(due <= self.now for due in waiting.values())
        assert self.schedule.working == len(self.at_work)


TestSchedule = ScheduleMachine.TestCase
