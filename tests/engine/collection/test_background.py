"""Which segments are merged, and the threads that do it."""

from __future__ import annotations

import math
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.collection.model import SMALL, MiB, assert_same, everything, open_store, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType, Charge, MemoryAccount
from vectorizer_engine.collection import compaction
from vectorizer_engine.collection import maintenance as maintenance_module
from vectorizer_engine.collection.compaction import Compaction
from vectorizer_engine.collection.environment import ShardEnvironment, ShardLimits
from vectorizer_engine.collection.maintenance import Job, Maintenance, Reminder
from vectorizer_engine.collection.merge_policy import (
    FANOUT,
    REST_SHARE,
    Size,
    choose_merge,
    choose_merge_at_rest,
)
from vectorizer_engine.collection.sealing import Sealing
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.errors import CacheMemoryLimitExceeded, StorageFailure
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.segment import Segment
from vectorizer_engine.storage.segment_store import Batches, FileSegmentStore

sizes = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 5000)).map(lambda t: Size(max(t), min(t))), max_size=20
)


@given(sizes)
def test_merging_as_chosen_comes_to_an_end_with_few_segments(segments: list[Size]) -> None:
    """A merge of a merge's result ends; what is left is under the fan-out on every tier."""
    steps = 0
    while chosen := choose_merge(segments, unit=10, largest=100_000):
        live = sum(segments[index].live for index in chosen)
        assert live <= 100_000
        segments = [size for index, size in enumerate(segments) if index not in chosen]
        if live:
            segments.append(Size(live, live))
        steps += 1
        assert steps <= 60
    assert len(segments) <= (FANOUT - 1) * 7


def test_nothing_is_merged_beyond_the_largest_size() -> None:
    full = [Size(90, 90)] * 8
    assert choose_merge(full, unit=100, largest=100) == []
    assert choose_merge([Size(25, 25)] * 8, unit=100, largest=100) == [0, 1, 2, 3]


def test_a_segment_that_lost_much_is_rewritten_by_itself() -> None:
    assert choose_merge([Size(100, 71), Size(100, 70)], unit=100, largest=1000) == [1]
    assert choose_merge([Size(100, 0)], unit=100, largest=1000) == [0]


def test_at_rest_small_segments_are_merged_into_larger_ones_that_they_are_worth_it_for() -> None:
    def chosen(*live: int, largest: int = 1_000_000) -> list[int]:
        return choose_merge_at_rest([Size(rows, rows) for rows in live], largest=largest)

    assert chosen() == []
    assert chosen(64_000) == []
    assert chosen(64_000, 4031) == [1, 0]
    assert chosen(64_000, 1999) == []
    assert chosen(64_000, 1999, 1) == [2, 1, 0]
    assert chosen(64_000, 60, 10) == [2, 1]
    assert chosen(64_000, 4031, largest=68_000) == []
    assert chosen(100, 64_000, 4031, largest=68_000) == []
    assert chosen(200, 64_000, 4031, largest=68_000) == [0, 2]


@given(st.lists(st.integers(256, 20_000), max_size=60))
def test_bursts_with_rests_between_them_make_no_point_be_written_again_without_end(bursts: list[int]) -> None:
    """What rests rewrite is at most `REST_SHARE` + 1 times the new points, once for each doubling of a segment."""
    segments: list[Size] = []
    rewritten = 0
    for burst in bursts:
        segments.append(Size(burst, burst))
        while chosen := choose_merge_at_rest(segments, largest=10_000_000):
            total = sum(segments[index].live for index in chosen)
            rewritten += total
            segments = [size for index, size in enumerate(segments) if index not in chosen]
            segments.append(Size(total, total))
        assert len(segments) <= 1 + math.log(max(1, sum(bursts)), REST_SHARE)
    doublings = math.log2(max(2, sum(bursts)) / 256)
    assert rewritten <= sum(bursts) * (REST_SHARE + 1) * doublings


def test_of_several_reminders_the_earliest_counts_and_the_job_is_done_once() -> None:
    jobs: list[tuple[float, Job]] = []
    done: list[int] = []
    reminder = Reminder(lambda seconds, job: jobs.append((seconds, job)), lambda: done.append(1))
    reminder.ask(30)
    reminder.ask(2)
    reminder.ask(10)
    assert [seconds for seconds, _ in jobs] == [30, 2]
    jobs[1][1]()
    assert done == [1]
    jobs[0][1]()
    assert done == [1]
    reminder.ask(10)
    jobs[2][1]()
    assert done == [1, 1]


def test_jobs_run_in_order_and_a_failing_one_stops_none() -> None:
    maintenance = Maintenance()
    done: list[int] = []
    sealed, merged = threading.Event(), threading.Event()

    def fail() -> None:
        raise ValueError("a job that fails")

    maintenance.seal(lambda: done.append(1))
    maintenance.seal(fail)
    maintenance.seal(lambda: done.append(2))
    maintenance.merge_later(0.01, merged.set)
    maintenance.seal(lambda: done.append(3))
    maintenance.seal(sealed.set)
    assert sealed.wait(10)
    assert merged.wait(10)
    maintenance.close()
    maintenance.close()
    maintenance.seal(lambda: done.append(4))
    assert done == [1, 2, 3]


def test_a_segment_that_comes_after_the_last_look_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = threading.Semaphore(0)
    looked: list[Compaction] = []
    choose = Compaction._choose_for_index

    def look(compaction: Compaction, tried: set[Segment]) -> Segment | None:
        chosen = choose(compaction, tried)
        looked.append(compaction)
        if len(looked) == 1:
            compaction.schedule()  # as sealing does, just after this look
        looks.release()
        return chosen

    monkeypatch.setattr(Compaction, "_choose_for_index", look)
    store = open_store(tmp_path)
    collection = store.create_collection("c", params())
    for number in range(SMALL.head_points + 1):
        collection.upsert([number], vectors_of([number]), [None])
    assert looks.acquire(timeout=10)
    assert looks.acquire(timeout=10)
    store.close()


def test_jobs_that_have_not_begun_are_dropped_at_the_end() -> None:
    maintenance = Maintenance()
    begun = threading.Event()
    done: list[int] = []

    def wait_for_the_end() -> None:
        begun.set()
        maintenance.stopping.wait(10)

    maintenance.merge(wait_for_the_end)
    maintenance.merge(lambda: done.append(1))
    assert begun.wait(10)
    maintenance.close()
    assert done == []


class Holder:
    """Stands for a shard with so much in its head."""

    def __init__(self, head_bytes: int, memory: MemoryAccount) -> None:
        self.head_bytes = head_bytes
        self.memory = memory
        self.flushed = 0

    def flush(self, *, within: float) -> None:
        self.flushed += 1


def test_the_head_that_holds_most_is_flushed() -> None:
    memory = CacheMemoryManager(100)
    small, large = Holder(1, memory), Holder(2, memory)
    maintenance = Maintenance()
    maintenance.relieve(memory)
    for holder in (small, large):
        maintenance.register(holder)
    maintenance.relieve(memory)
    maintenance.relieve(memory, at_least=3)
    maintenance.forget(large)
    maintenance.relieve(memory)
    small.head_bytes = 0
    maintenance.relieve(memory)
    assert (small.flushed, large.flushed) == (1, 1)


class Broken(Holder):
    """Stands for a shard whose log does not know its own end."""

    def flush(self, *, within: float) -> None:
        super().flush(within=within)
        raise StorageFailure("cannot learn what became of an earlier write to the log of another tenant")


def test_a_head_that_cannot_be_flushed_is_passed_over_and_is_no_error_of_another_collection() -> None:
    memory = CacheMemoryManager(100)
    maintenance = Maintenance()
    broken, small = Broken(2, memory), Holder(1, memory)
    maintenance.register(broken)
    maintenance.relieve(memory)
    maintenance.register(small)
    maintenance.relieve(memory)
    assert (broken.flushed, small.flushed) == (2, 1)


class Hanging(Holder):
    """Stands for a shard whose log is on a store that does not answer."""

    def flush(self, *, within: float) -> None:
        super().flush(within=within)
        time.sleep(within)
        raise StorageFailure("a write has waited for the log for too long")


def test_all_heads_that_cannot_be_flushed_soon_take_no_longer_together_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maintenance_module, "_RELIEF_SECONDS", 0.05)
    memory = CacheMemoryManager(100)
    maintenance = Maintenance()
    hanging, free = [Hanging(2, memory) for _ in range(50)], Holder(1, memory)
    for holder in (*hanging, free):
        maintenance.register(holder)
    began = time.monotonic()
    maintenance.relieve(memory)
    assert time.monotonic() - began < 50 * 0.05
    assert [holder.flushed for holder in (*hanging, free)] == [1] * 51


def test_a_tenant_that_is_short_of_memory_has_its_own_heads_flushed_and_never_those_of_who_holds_less() -> (
    None
):
    memory = CacheMemoryManager(100, quotas={"noisy": None, "quiet": None, "bounded": 20})
    noisy, quiet, bounded = (
        Holder(held, memory.account(tenant))
        for tenant, held in (("noisy", 50), ("quiet", 30), ("bounded", 20))
    )
    maintenance = Maintenance()
    for holder in (noisy, quiet, bounded):
        assert holder.memory.reserve(CacheType.METADATA, holder.head_bytes) is not None
        maintenance.register(holder)
    maintenance.relieve(quiet.memory)
    assert (noisy.flushed, quiet.flushed, bounded.flushed) == (0, 1, 0)
    for holder in (noisy, quiet, bounded):
        holder.head_bytes, empty = 0, holder.head_bytes
        maintenance.relieve(holder.memory)
        holder.head_bytes = empty
    assert (noisy.flushed, quiet.flushed, bounded.flushed) == (1, 1, 0)


class NotedCompaction(Compaction):
    """Writes no segments, but notes for whom it should have."""

    def __init__(self, name: str, sealed: list[str]) -> None:
        self.name, self.sealed = name, sealed
        self.failures: list[Exception] = []

    def seal(self, head: object, charge: Charge, *, applied: int) -> None:
        if self.failures:
            raise self.failures.pop()
        self.sealed.append(self.name)

    def schedule(self) -> None: ...


def sealing_of(
    compaction: Compaction,
    maintenance: Maintenance,
    folder: Path,
    *,
    is_running: Callable[[], bool] = lambda: True,
) -> Sealing:
    environment = ShardEnvironment(CacheMemoryManager(MiB), maintenance, Files(), folder, ShardLimits())
    return Sealing(compaction, environment, is_running=is_running)


def submit(sealing: Sealing) -> None:
    charge = CacheMemoryManager(MiB).reserve(CacheType.METADATA, 1)
    assert charge is not None
    sealing.submit(None, charge, applied=1)


def test_shards_take_turns_at_having_their_heads_sealed(tmp_path: Path) -> None:
    maintenance = Maintenance()
    sealed: list[str] = []
    busy, other = (
        sealing_of(NotedCompaction(name, sealed), maintenance, tmp_path) for name in ("busy", "other")
    )
    begin = threading.Event()
    maintenance.seal(lambda: begin.wait(20) and None)
    for _ in range(3):
        submit(busy)
    submit(other)
    begin.set()
    wait_until(lambda: not busy.busy and not other.busy)
    assert sealed == ["busy", "other", "busy", "busy"]
    submit(busy)
    wait_until(lambda: not busy.busy)
    assert sealed[4:] == ["busy"]
    maintenance.close()


def test_sealing_holds_few_rows_at_a_time_however_long_they_are(tmp_path: Path) -> None:
    store = VectorStore.open(tmp_path, memory=CacheMemoryManager(16 * MiB))
    collection = store.create_collection("c", params(16_384))
    for start in range(0, 500, 50):
        points = list(range(start, start + 50))
        collection.upsert(points, np.full((50, 16_384), 1.0, np.float32), [None] * 50)
    tracemalloc.start()
    collection._shard.flush(within=5.0)
    wait_until(lambda: settled(collection))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * MiB
    assert collection.count() == 500
    store.close()


def test_segments_for_whose_merge_there_is_no_memory_stay_as_they_are_and_are_merged_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_AFTER_FAILURE_SECONDS", 0.1)
    memory = CacheMemoryManager(16 * MiB)
    write = FileSegmentStore.write
    refusals: list[str] = []

    def write_without_memory(self: FileSegmentStore, batches: Batches, **reserved: Any) -> Segment:
        if reserved.get("reserved") is not None or refusals:
            return write(self, batches, **reserved)
        taken = memory.reserve(CacheType.METADATA, memory.available())
        assert taken is not None
        before = {segment.name for segment in tmp_path.glob("collections/*/shard-0/segments/*")}
        try:
            return write(self, batches, **reserved)
        except CacheMemoryLimitExceeded as error:
            refusals.append(str(error))
            after = {segment.name for segment in tmp_path.glob("collections/*/shard-0/segments/*")}
            assert after == before
            raise
        finally:
            taken.release()

    monkeypatch.setattr(FileSegmentStore, "write", write_without_memory)
    store = VectorStore.open(tmp_path, memory=memory, limits=SMALL)
    collection = store.create_collection("c", params())
    for number in range(80):
        collection.upsert([number], vectors_of([number]), [{"n": number}])
    expected = everything(collection)
    wait_until(lambda: bool(refusals) and settled(collection) and collection.info().segments <= 5)
    assert "a segment of" in refusals[0]
    assert_same(everything(collection), expected)
    store.close()
    assert memory.snapshot().used == 0


@pytest.mark.parametrize("error", [StorageFailure("the disk is gone"), KeyError("a bug")])
def test_a_head_that_could_not_be_sealed_is_tried_again(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectorizer_engine.collection.sealing._RETRY_SECONDS", 0.01)
    maintenance = Maintenance()
    compaction = NotedCompaction("a", [])
    compaction.failures = [error]
    sealing = sealing_of(compaction, maintenance, tmp_path)
    submit(sealing)
    submit(sealing)
    wait_until(lambda: not sealing.busy)
    assert compaction.sealed == ["a", "a"]
    maintenance.close()


def test_what_fails_because_its_shard_was_closed_is_no_error_and_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maintenance, done = Maintenance(), threading.Event()
    compaction = NotedCompaction("a", [])
    compaction.failures = [AssertionError("a charge gives away at most what it holds")]
    sealing = sealing_of(compaction, maintenance, tmp_path, is_running=lambda: False)
    submit(sealing)
    maintenance.seal(done.set)
    assert done.wait(20)
    maintenance.close()
    assert (compaction.failures, compaction.sealed, caplog.text) == ([], [], "")


class SlowSegments(Files):
    """Begins to write a segment only when its collection's folder is on its way out."""

    def __init__(self) -> None:
        self.asked, self.renamed, self.done = threading.Event(), threading.Event(), threading.Event()

    def make_folder(self, folder: Path, *, parents: bool = True) -> None:
        if folder.parent.name != "segments":
            super().make_folder(folder, parents=parents)
            return
        self.asked.set()
        assert self.renamed.wait(20)
        try:
            super().make_folder(folder, parents=parents)
        finally:
            self.done.set()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        if target.name.startswith(".old-"):
            self.renamed.set()
            assert self.done.wait(20)


def test_a_collection_that_is_deleted_while_a_head_is_sealed_stays_deleted(tmp_path: Path) -> None:
    disk = SlowSegments()
    store = open_store(tmp_path, files=disk)
    collection = store.create_collection("c", params())
    for number in range(SMALL.head_points + 1):
        collection.upsert([number], vectors_of([number]), [None])
    assert disk.asked.wait(20)
    store.delete_collection("c")
    wait_until(lambda: list((tmp_path / "collections").iterdir()) == [])
    store.close()
    store = open_store(tmp_path)
    assert store.damaged == {}
    store.create_collection("c", params())
    store.close()
