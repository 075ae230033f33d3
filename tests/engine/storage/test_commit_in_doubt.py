"""Group commit over a log that cannot always say what it has: nothing overtakes a write whose outcome is open."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.engine.collection.test_collection import wait_until
from tests.engine.storage.test_object_log import PREFIX, made, opened
from tests.engine.stores import Fault, FaultyStore
from vectorizer_engine.errors import Fenced, StorageFailure, WriteInDoubt
from vectorizer_engine.storage.commit import GroupCommit


class Note:
    """An operation that writes what it is told to wherever it becomes visible."""

    reads = False
    size = 1

    def __init__(self, text: bytes, visible: list[tuple[int, bytes]]) -> None:
        self.text = text
        self.abandoned = False
        self._visible = visible

    def prepare(self) -> bytes:
        return self.text

    def apply(self, number: int) -> None:
        self._visible.append((number, self.text))

    def abandon(self) -> None:
        self.abandoned = True


def start() -> tuple[FaultyStore, GroupCommit, list[tuple[int, bytes]]]:
    store = FaultyStore(made())
    return store, GroupCommit(opened(store)), []


def test_a_write_that_landed_after_all_becomes_visible_before_the_next_one() -> None:
    store, commit, visible = start()
    store.faults.append(Fault.LOST_ANSWER)
    with pytest.raises(WriteInDoubt, match=r"cannot write to the log.*send it again"):
        commit.submit(Note(b"a", visible), wait=True)
    assert visible == []
    commit.submit(Note(b"b", visible), wait=True)
    assert visible == [(1, b"a"), (2, b"b")]


def test_a_write_that_did_not_land_is_abandoned_before_the_next_one() -> None:
    store, commit, visible = start()
    store.faults.append(Fault.LATE)
    lost = Note(b"a", visible)
    with pytest.raises(WriteInDoubt):
        commit.submit(lost, wait=True)
    assert not lost.abandoned
    commit.submit(Note(b"b", visible), wait=True)
    assert lost.abandoned
    store.deliver()
    assert visible == [(1, b"b")]


def test_while_the_outcome_is_open_nothing_is_written_and_nobody_is_told_that_it_was() -> None:
    store, commit, visible = start()
    store.faults.extend([Fault.LATE, Fault.UNAVAILABLE, Fault.UNAVAILABLE])
    with pytest.raises(WriteInDoubt):
        commit.submit(Note(b"a", visible), wait=True)
    refused = Note(b"b", visible)
    with pytest.raises(StorageFailure, match="learn what became of an earlier write") as error:
        commit.submit(refused, wait=True)
    assert not isinstance(error.value, WriteInDoubt)
    with pytest.raises(StorageFailure), commit.paused():
        raise AssertionError("whoever pauses would seal a head with rows that are in doubt")
    commit.submit(Note(b"c", visible), wait=True)
    assert visible == [(1, b"c")]


def test_whoever_is_fenced_abandons_what_was_in_doubt() -> None:
    store, commit, visible = start()
    store.faults.append(Fault.LATE)
    lost = Note(b"a", visible)
    with pytest.raises(WriteInDoubt):
        commit.submit(lost, wait=True)
    opened(store.store)
    for _ in range(2):
        with pytest.raises(Fenced):
            commit.submit(Note(b"b", visible), wait=True)
    assert lost.abandoned
    assert visible == []


def test_closing_abandons_what_is_in_doubt() -> None:
    store, commit, visible = start()
    store.faults.append(Fault.LATE)
    lost = Note(b"a", visible)
    with pytest.raises(WriteInDoubt):
        commit.submit(lost, wait=True)
    commit.close()
    assert lost.abandoned


def test_the_log_of_a_prefix_is_where_the_specification_says() -> None:
    store = made()
    assert list(store.objects) == [f"{PREFIX}/log/00000000000000000001"]


class Bug(Note):
    """Cannot be made visible."""

    def apply(self, number: int) -> None:
        raise KeyError("a bug")


def test_whoever_waited_when_writing_broke_is_refused_like_those_who_come_later() -> None:
    _, commit, visible = start()
    waiting: list[Future[int]] = []
    with ThreadPoolExecutor(2) as pool:
        with commit.paused():
            for operation in (Bug(b"a", visible), Note(b"b", visible)):
                operation.reads = True  # so each is a group of its own
                waiting.append(pool.submit(commit.submit, operation, wait=True))
                wait_until(lambda: len(commit._waiting) == len(waiting))
        with pytest.raises(KeyError):
            waiting[0].result(20)
        with pytest.raises(StorageFailure, match="restart the engine"):
            waiting[1].result(20)
    with pytest.raises(StorageFailure, match="restart the engine"), commit.paused():
        raise AssertionError("whoever pauses would have the log forget what is not visible")
    assert visible == []


def test_whoever_has_no_time_to_pause_is_told_so_while_a_write_hangs_or_its_outcome_is_open() -> None:
    store, commit, visible = start()
    hangs, goes_on = threading.Event(), threading.Event()
    create = store.create

    def hang(name: str, data: bytes) -> None:
        hangs.set()
        assert goes_on.wait(30)
        create(name, data)

    with ThreadPoolExecutor() as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "create", hang)
        store.faults.append(Fault.LATE)
        writing = threads.submit(commit.submit, Note(b"a", visible), wait=True)
        assert hangs.wait(30)
        with pytest.raises(StorageFailure, match="has waited for the log"), commit.paused(within=0.01):
            raise AssertionError("the write is under way")
        goes_on.set()
        with pytest.raises(WriteInDoubt):
            writing.result()
    calls = len(store.calls)
    with pytest.raises(StorageFailure, match="no time to learn"), commit.paused(within=0.0):
        raise AssertionError("whoever pauses would seal a head with rows that are in doubt")
    assert len(store.calls) == calls
    store.faults.extend([Fault.UNAVAILABLE] * 3)
    with pytest.raises(StorageFailure, match="learn what became"), commit.paused(within=0.01):
        raise AssertionError("the store is away")
    assert len(store.calls) == calls + 1
    store.faults.clear()
    with commit.paused(within=0.01):
        assert visible == []
