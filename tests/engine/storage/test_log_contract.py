"""What every `Log` promises, held by a log of files and by shared logs over a folder, memory and a real S3 server."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.disks import FailingDisk
from tests.engine.s3 import S3Server
from tests.engine.stores import MemoryStore
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.folder_store import FolderStore
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.log import FileLog, Log
from vectorizer_engine.storage.object_log import ObjectLog
from vectorizer_engine.storage.object_store import ObjectStore

OpenLog = Callable[[], Log]
"""Opens the same log each time, as the next process would."""


@pytest.fixture(params=["files", "memory", "folder", "s3"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLog:
    if request.param == "files":
        return lambda: FileLog(tmp_path, first=1, files=Files())
    store: ObjectStore = MemoryStore()
    if request.param == "folder":
        store = FolderStore(tmp_path, files=Files())
    if request.param == "s3":
        s3: S3Server = request.getfixturevalue("s3")
        store = s3.store(secrets.token_hex(8))
    ObjectLog.create(store, "shard")
    return lambda: ObjectLog(store, "shard", garbage=Garbage(store))


def contents(log: Log, *, after: int = 0) -> list[tuple[int, bytes]]:
    return [tuple(record) for record in log.replay(after=after)]


def test_records_come_back_with_their_numbers(open_log: OpenLog) -> None:
    log = open_log()
    assert log.next_number == 1
    assert log.append([b"a", b"b"]) == 1
    assert log.append([b"", b"c"]) == 3
    assert log.next_number == 5
    assert contents(log) == [(1, b"a"), (2, b"b"), (3, b""), (4, b"c")]
    assert contents(log, after=2) == [(3, b""), (4, b"c")]
    assert contents(log, after=4) == []


def test_numbers_go_on_after_opening_again(open_log: OpenLog) -> None:
    for life in range(4):
        log = open_log()
        assert log.next_number == 2 * life + 1
        log.append([b"%d" % life, b"x"])
        log.close()
    assert [number for number, _ in contents(open_log())] == list(range(1, 9))


def test_what_was_not_closed_is_there_as_well(open_log: OpenLog) -> None:
    open_log().append([b"a"])
    open_log().append([b"b"])
    assert contents(open_log()) == [(1, b"a"), (2, b"b")]


def test_rolling_and_forgetting_keep_what_is_still_needed(open_log: OpenLog) -> None:
    log = open_log()
    for record in (b"a", b"b", b"c"):
        log.append([record])
        log.roll()
    log.forget(through=2)
    assert contents(log, after=2) == [(3, b"c")]
    assert log.append([b"d"]) == 4
    assert contents(log, after=2) == [(3, b"c"), (4, b"d")]


def test_large_records_come_back_whole(open_log: OpenLog) -> None:
    records = [secrets.token_bytes(300_000) for _ in range(4)]
    open_log().append(records)
    assert [data for _, data in contents(open_log())] == records


def test_replaying_may_be_broken_off(open_log: OpenLog) -> None:
    log = open_log()
    for number in range(40):
        log.append([b"%d" % number])
    replay = iter(log.replay(after=0))
    assert next(replay).data == b"0"
    del replay
    assert log.append([b"last"]) == 41
    assert len(contents(log)) == 41


@pytest.mark.parametrize("kind", ["files", "folder"])
def test_an_append_that_finds_the_disk_full_leaves_nothing_and_the_next_one_works(
    tmp_path: Path, kind: str
) -> None:
    disk = FailingDisk()
    log: Log
    if kind == "files":
        log = FileLog(tmp_path, first=1, files=disk)
    else:
        store = FolderStore(tmp_path, files=disk)
        ObjectLog.create(store, "shard")
        log = ObjectLog(store, "shard", garbage=Garbage(store))
    log.append([b"a"])
    disk.fail_after, disk.once = 1, True
    with pytest.raises(OSError, match="No space"):
        log.append([b"lost"])
    assert log.append([b"b"]) == 2
    assert contents(log) == [(1, b"a"), (2, b"b")]
