"""The shared log: one order, whoever writes; what was acknowledged stays; who was replaced learns it.

The same contract as a log of files is in test_log_contract.py.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.stores import Fault, FaultyStore, MemoryStore
from vectorizer_engine.errors import Fenced, StoreCorrupt
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.log import InDoubt
from vectorizer_engine.storage.object_frame import Kind, decode_checkpoint, decode_frame, encode_frame
from vectorizer_engine.storage.object_log import ObjectLog
from vectorizer_engine.storage.object_store import ObjectStore, Refused

PREFIX = "collections/c/shard-0"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made() -> MemoryStore:
    store = MemoryStore()
    ObjectLog.create(store, PREFIX)
    return store


def opened(
    store: ObjectStore, *, garbage: Garbage | None = None, patience: float = 0.0, clock: Clock | None = None
) -> ObjectLog:
    return ObjectLog(
        store, PREFIX, garbage=garbage or Garbage(store), patience=patience, clock=clock or Clock()
    )


def contents(log: ObjectLog) -> list[tuple[int, bytes]]:
    return [tuple(record) for record in log.replay(after=log.checkpoint.applied)]


def frame_names(store: MemoryStore) -> list[int]:
    return sorted(int(name.rpartition("/")[2]) for name in store.objects if "/log/" in name)


def name_of(number: int) -> str:
    return f"{PREFIX}/log/{number:020d}"


def test_a_group_costs_one_put_and_nothing_is_asked_while_idle() -> None:
    store = FaultyStore(made())
    log = opened(store)
    store.calls.clear()
    log.append([b"a", b"b", b"c"])
    assert [call.split()[0] for call in store.calls] == ["create"]


def test_the_old_owner_is_fenced_by_its_next_append_and_stays_fenced() -> None:
    store = made()
    old = opened(store)
    old.append([b"a"])
    new = opened(store)
    for _ in range(2):
        with pytest.raises(Fenced, match="another process has taken over"):
            old.append([b"too late"])
    assert contents(new) == [(1, b"a")]
    new.append([b"b"])
    assert contents(opened(store)) == [(1, b"a"), (2, b"b")]


def test_an_owner_that_slept_through_checkpoints_and_deletions_is_still_fenced() -> None:
    """What SlateDB's issues 352 and 1622 are about: its next number had been forgotten meanwhile."""
    store, clock = made(), Clock()
    sleeper = opened(store)
    sleeper.append([b"a"])
    garbage = Garbage(store, clock=clock)
    new = opened(store, garbage=garbage)
    assert contents(new) == [(1, b"a")]
    new.append([b"b"])
    new.write_checkpoint(b"state", applied=2)
    clock.now += 10_000
    garbage.sweep()
    with pytest.raises(Fenced):
        sleeper.append([b"lost"])
    with pytest.raises(Fenced):
        sleeper.confirm(within=0.0)


def test_a_claimant_that_saw_an_old_end_begins_again() -> None:
    """SlateDB's issue 1682: its claim lands at a number that was forgotten meanwhile."""
    store, clock = made(), Clock()
    owner = opened(store, garbage=(garbage := Garbage(store, clock=clock)))
    contents(owner)
    end = frame_names(store)[-1]

    class Late(FaultyStore):
        first = True

        def list(self, prefix: str, *, after: str = ""):  # type: ignore[no-untyped-def]
            seen = list(super().list(prefix, after=after))
            if self.first:
                self.first = False
                owner.append([b"a"])  # takes the number after the end that was seen …
                owner.write_checkpoint(b"state", applied=1)
                clock.now += 10_000
                garbage.sweep()  # … and is forgotten
                assert end + 1 not in frame_names(store)
            return iter(seen)

    late = opened(Late(store), patience=5.0)
    assert late.checkpoint.state == b"state"
    assert late.next_number == 2
    with pytest.raises(Fenced):
        owner.append([b"b"])


def test_a_lost_answer_is_settled_by_reading_back() -> None:
    store = FaultyStore(made())
    log = opened(store, patience=5.0)
    store.faults.append(Fault.LOST_ANSWER)
    assert log.append([b"a"]) == 1
    assert log.append([b"b"]) == 2
    assert contents(opened(store.store)) == [(1, b"a"), (2, b"b")]


def test_a_conflict_without_a_winner_is_tried_again() -> None:
    store = FaultyStore(made())
    log = opened(store, patience=5.0)
    store.faults.append(Fault.CONFLICT)
    assert log.append([b"a"]) == 1


def test_a_write_in_doubt_that_landed_counts_before_what_follows() -> None:
    store = FaultyStore(made())
    log = opened(store)
    store.faults.append(Fault.LOST_ANSWER)
    with pytest.raises(InDoubt) as doubt:
        log.append([b"a", b"b"])
    assert doubt.value.settle(None) is True
    assert doubt.value.first == 1
    assert log.append([b"c"]) == 3
    assert contents(opened(store.store)) == [(1, b"a"), (2, b"b"), (3, b"c")]


def test_a_write_in_doubt_that_did_not_land_never_does() -> None:
    store = FaultyStore(made())
    log = opened(store)
    store.faults.append(Fault.LATE)
    with pytest.raises(InDoubt) as doubt:
        log.append([b"a"])
    store.faults.append(Fault.UNAVAILABLE)
    with pytest.raises(OSError, match="unavailable"):
        doubt.value.settle(None)
    assert doubt.value.settle(None) is False
    store.deliver()
    assert log.append([b"b"]) == 1
    assert contents(opened(store.store)) == [(1, b"b")]


def test_a_checkpoint_forgets_what_it_covers_and_keeps_the_claims() -> None:
    store, clock = made(), Clock()
    garbage = Garbage(store, clock=clock)
    log = opened(store, garbage=garbage)
    contents(log)
    log.append([b"a", b"b"])
    log.append([b"c"])
    log.write_checkpoint(b"ab", applied=2)
    before = frame_names(store)
    garbage.sweep()
    assert frame_names(store) == before, "readers have time to notice"
    clock.now += 10_000
    garbage.sweep()
    assert frame_names(store) == [1, 2, 4, 5], "two claims, the record that is not covered, the checkpoint"
    again = opened(store)
    assert (again.checkpoint.state, again.checkpoint.applied) == (b"ab", 2)
    assert contents(again) == [(3, b"c")]


def test_what_a_crash_kept_from_being_deleted_goes_after_the_next_opening() -> None:
    store, clock = made(), Clock()
    log = opened(store)
    contents(log)
    log.append([b"a"])
    log.write_checkpoint(b"a", applied=1)
    garbage = Garbage(store, clock=clock)
    opened(store, garbage=garbage)
    clock.now += 10_000
    garbage.sweep()
    assert frame_names(store) == [1, 2, 4, 5]


def test_a_checkpoint_in_doubt_is_settled_by_the_next_write() -> None:
    store = FaultyStore(made())
    log = opened(store)
    contents(log)
    log.append([b"a"])
    for fault in (Fault.LATE, Fault.LOST_ANSWER):
        store.faults.append(fault)
        with pytest.raises(OSError, match="did not confirm"):
            log.write_checkpoint(b"a", applied=1)
        log.append([b"b"])
        store.deliver()
    again = opened(store.store)
    assert again.checkpoint.applied == 1
    assert contents(again) == [(2, b"b"), (3, b"b")]


def test_a_store_that_refuses_takes_nothing_and_is_not_asked_again() -> None:
    class Full(MemoryStore):
        full = False

        def create(self, name: str, data: bytes) -> None:
            if self.full:
                raise Refused("no space")
            super().create(name, data)

    store = Full()
    ObjectLog.create(store, PREFIX)
    log = opened(store, patience=30.0)
    store.full = True
    with pytest.raises(Refused, match="no space"):
        log.append([b"a"])
    store.full = False
    assert log.append([b"b"]) == 1


def test_an_owner_that_wrote_lately_needs_no_look_and_one_that_slept_looks() -> None:
    store, clock = FaultyStore(made()), Clock()
    log = opened(store, clock=clock)
    log.append([b"a"])
    store.calls.clear()
    clock.now += 1.0
    log.confirm(within=2.0)
    assert store.calls == []
    clock.now += 5.0
    log.confirm(within=2.0)
    log.confirm(within=2.0)
    assert store.calls == [f"read {name_of(4)}"]
    opened(store.store)
    clock.now += 5.0
    with pytest.raises(Fenced):
        log.confirm(within=2.0)
    store.calls.clear()
    with pytest.raises(Fenced):
        log.confirm(within=2.0)
    assert store.calls == []


@pytest.mark.parametrize("position", [0, 5, 9, 30, -1])
def test_a_damaged_frame_is_refused_by_name(position: int) -> None:
    store = made()
    log = opened(store)
    log.append([b"first"])
    log.append([b"second"])
    data = bytearray(store.objects[name_of(3)])
    data[position] ^= 1
    store.objects[name_of(3)] = bytes(data)
    with pytest.raises(StoreCorrupt, match=name_of(3)):
        contents(opened(store))


def test_a_missing_frame_is_refused_by_name() -> None:
    store = made()
    log = opened(store)
    log.append([b"a"])
    log.append([b"b"])
    del store.objects[name_of(3)]
    with pytest.raises(StoreCorrupt, match=f"{name_of(3)} is missing"):
        opened(store)


def test_a_renamed_frame_is_refused() -> None:
    store = made()
    log = opened(store)
    log.append([b"a"])
    log.append([b"b"])
    store.objects[name_of(3)] = store.objects[name_of(4)]
    with pytest.raises(StoreCorrupt, match="holds frame 4, expected 3"):
        contents(opened(store))


def test_a_log_without_any_object_is_refused() -> None:
    with pytest.raises(StoreCorrupt, match="there is no object below"):
        opened(MemoryStore())


def test_a_log_that_vanishes_while_it_is_replayed_names_the_frame_or_the_new_owner() -> None:
    store = made()
    log = opened(store)
    log.append([b"a"])
    gone = store.objects.pop(name_of(3))
    with pytest.raises(StoreCorrupt, match="is missing"):
        contents(log)
    store.objects[name_of(3)] = gone
    opened(store)
    del store.objects[name_of(3)]
    with pytest.raises(Fenced):
        contents(log)


def test_making_a_log_survives_a_lost_answer() -> None:
    store = FaultyStore(MemoryStore())
    store.faults.append(Fault.LOST_ANSWER)
    ObjectLog.create(store, PREFIX)
    assert opened(store).next_number == 1


def test_a_refusal_after_an_attempt_without_an_answer_leaves_the_write_in_doubt() -> None:
    class LosesAnswersThenRefuses(FaultyStore):
        attempts = -1

        def create(self, name: str, data: bytes) -> None:
            if self.attempts >= 0:
                self.attempts += 1
            if self.attempts > 1:
                raise Refused("the key was withdrawn")
            super().create(name, data)
            if self.attempts == 1:
                raise OSError("connection reset")

    store = LosesAnswersThenRefuses(made())
    log = opened(store, patience=0.5)
    store.attempts = 0
    with pytest.raises(InDoubt, match="the key was withdrawn") as doubt:
        log.append([b"a"])
    store.attempts = -1
    assert doubt.value.settle(None) is True


def test_a_claimant_whose_end_is_forgotten_before_it_is_read_begins_again() -> None:
    store, clock = made(), Clock()
    owner = opened(store, garbage=(garbage := Garbage(store, clock=clock)))
    contents(owner)
    owner.append([b"a"])

    class Slow(FaultyStore):
        first = True

        def read(self, name: str) -> bytes:
            if self.first:
                self.first = False
                owner.write_checkpoint(b"state", applied=1)
                clock.now += 10_000
                garbage.sweep()
            return super().read(name)

    late = opened(Slow(store), patience=5.0)
    assert late.checkpoint.state == b"state"
    assert contents(late) == []


def test_a_gap_between_records_is_refused() -> None:
    store = made()
    log = opened(store)
    log.append([b"a"])
    log.append([b"b"])
    frame = decode_frame(store.objects[name_of(3)], name="", number=3)
    store.objects[name_of(3)] = encode_frame(replace(frame, count=2))
    with pytest.raises(StoreCorrupt, match="goes on with record 2, expected 3"):
        contents(opened(store))


class Writer:
    """One process: its log, and the database that it holds in memory."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.store = FaultyStore(store)
        self.garbage = Garbage(self.store, clock=clock)
        self.log: ObjectLog | None = None
        self.records: list[bytes] = []
        self.doubt: tuple[InDoubt, list[bytes]] | None = None


FAULTS = st.lists(st.sampled_from(Fault), max_size=4)
SLOTS = st.integers(0, 2)


class SharedLogMachine(RuleBasedStateMachine):
    """Three processes that write to one log whenever they like, on a store that fails as it likes."""

    @initialize()
    def start(self) -> None:
        self.store = made()
        self.clock = Clock()
        self.writers: list[Writer | None] = [None] * 3
        self.acknowledged: dict[int, bytes] = {}
        self.refused: set[bytes] = set()
        self.written = 0
        self.last: list[bytes] = []

    @rule(slot=SLOTS, faults=FAULTS)
    def open(self, slot: int, faults: list[Fault]) -> None:
        """Start a process in the place of another, which is gone as by kill -9."""
        writer = Writer(self.store, self.clock)
        writer.store.faults.extend(faults)
        self.writers[slot] = writer
        try:
            writer.log = opened(writer.store, garbage=writer.garbage, clock=self.clock)
            state = writer.log.checkpoint.state
            writer.records = msgspec.msgpack.decode(state, type=list[bytes]) if state else []
            writer.records += [data for _, data in contents(writer.log)]
        except OSError:
            self.writers[slot] = None
        else:
            assert writer.records == self.truth()

    @rule(slot=SLOTS, size=st.integers(1, 3), faults=FAULTS)
    def append(self, slot: int, size: int, faults: list[Fault]) -> None:
        writer = self.writers[slot]
        if writer is None or writer.log is None or writer.doubt is not None:
            return
        writer.store.faults.extend(faults)
        records = [b"%d" % (self.written + each) for each in range(size)]
        self.written += size
        try:
            first = writer.log.append(records)
        except InDoubt as doubt:
            writer.doubt = (doubt, records)
        except Fenced:
            self.refused.update(records)
        except OSError:
            self.refused.update(records)
        else:
            self.acknowledge(writer, first, records)

    @rule(slot=SLOTS, faults=FAULTS)
    def settle(self, slot: int, faults: list[Fault]) -> None:
        writer = self.writers[slot]
        if writer is None or writer.doubt is None:
            return
        doubt, records = writer.doubt
        writer.store.faults.extend(faults)
        try:
            landed = doubt.settle(None)
        except Fenced:
            writer.doubt = None
        except OSError:
            pass
        else:
            writer.doubt = None
            if landed:
                self.acknowledge(writer, doubt.first, records)
            else:
                self.refused.update(records)

    @rule(slot=SLOTS, keep=st.integers(0, 3), faults=FAULTS)
    def checkpoint(self, slot: int, keep: int, faults: list[Fault]) -> None:
        writer = self.writers[slot]
        if writer is None or writer.log is None or writer.doubt is not None:
            return
        applied = max(writer.log.checkpoint.applied, len(writer.records) - keep)
        writer.store.faults.extend(faults)
        with contextlib.suppress(OSError, Fenced):
            writer.log.write_checkpoint(msgspec.msgpack.encode(writer.records[:applied]), applied=applied)

    @rule(slot=SLOTS, wait=st.booleans())
    def sweep(self, slot: int, wait: bool) -> None:
        """Even one that was replaced long ago may do this."""
        writer = self.writers[slot]
        if writer is not None:
            self.clock.now += 10_000 if wait else 0
            writer.garbage.sweep()

    @rule(slot=SLOTS)
    def deliver(self, slot: int) -> None:
        writer = self.writers[slot]
        if writer is not None:
            writer.store.deliver()

    @rule(slot=SLOTS)
    def owner_confirms(self, slot: int) -> None:
        """Who passes holds everything that was ever acknowledged."""
        writer = self.writers[slot]
        if writer is None or writer.log is None or writer.doubt is not None:
            return
        writer.store.faults.clear()
        self.clock.now += 100
        try:
            writer.log.confirm(within=1.0)
        except Fenced:
            return
        assert writer.records == self.truth()

    def acknowledge(self, writer: Writer, first: int, records: list[bytes]) -> None:
        assert first == len(writer.records) + 1
        writer.records += records
        for number, data in enumerate(records, start=first):
            assert self.acknowledged.setdefault(number, data) == data
        assert writer.records == self.truth()[: len(writer.records)]

    def truth(self) -> list[bytes]:
        """What the store says now, read without any of the code that is tested but the decoding."""
        frames = {
            number: decode_frame(self.store.objects[name_of(number)], name="", number=number)
            for number in frame_names(self.store)
        }
        last = frames[max(frames)]
        number = last.number if last.kind is Kind.CHECKPOINT else last.checkpoint
        records: list[bytes] = []
        applied, start = 0, 1
        if number:
            checkpoint = decode_checkpoint(frames[number])
            records = msgspec.msgpack.decode(checkpoint.state, type=list[bytes])
            applied, start = checkpoint.applied, checkpoint.start
        for each in range(start, last.number + 1):
            for position, data in enumerate(frames[each].records(), start=frames[each].first):
                if position > applied:
                    records.append(data)
        return records

    @invariant()
    def one_order_that_only_grows(self) -> None:
        truth = self.truth()
        assert truth[: len(self.last)] == self.last
        assert len(set(truth)) == len(truth)
        self.last = truth

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        for number, data in self.acknowledged.items():
            assert self.last[number - 1] == data

    @invariant()
    def what_was_refused_is_not_there(self) -> None:
        assert not self.refused & set(self.last)

    @precondition(lambda self: sum(writer is not None for writer in self.writers) == 3)
    @rule()
    def nothing_is_left_over_at_the_end(self) -> None:
        """A new owner with a working store leaves what is needed, and the claims."""
        writer = Writer(self.store, self.clock)
        writer.log = opened(self.store, garbage=writer.garbage, clock=self.clock)
        records = self.truth()
        list(writer.log.replay(after=0))
        writer.log.write_checkpoint(msgspec.msgpack.encode(records), applied=len(records))
        self.clock.now += 10_000
        writer.garbage.sweep()
        claims = {
            number
            for number in frame_names(self.store)
            if self.store.objects[name_of(number)][8] == Kind.CLAIM
        }
        assert set(frame_names(self.store)) - claims == {frame_names(self.store)[-1]}


TestSharedLogMachine = SharedLogMachine.TestCase
TestSharedLogMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
