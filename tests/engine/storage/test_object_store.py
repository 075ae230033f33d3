"""What is asked of a store: held by a folder and by a real S3 server alike, and proved when one is opened."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.disks import FailingDisk, ForgetfulDisk
from tests.engine.s3 import S3Server
from tests.engine.stores import Fault, FaultyStore, MemoryStore
from vectorizer_engine.errors import StoreUnsuitable
from vectorizer_engine.storage import object_store
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.folder_store import FolderStore
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.object_store import (
    CloudStore,
    Listed,
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    Refused,
    prove_create_if_absent,
    repeated,
)
from vectorizer_engine.storage.read_ahead import AT_ONCE, BYTES, read_ahead


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "folder":
        return FolderStore(tmp_path / "store", files=Files())
    s3: S3Server = request.getfixturevalue("s3")
    return s3.store(secrets.token_hex(8))


def names(listed: Iterator[Listed]) -> set[str]:
    return {each.name for each in listed}


def test_what_was_created_is_read_and_listed(store: ObjectStore) -> None:
    store.create("a/b/1", b"one")
    store.create("a/b/2", b"")
    store.create("a/bc/3", b"three")
    assert store.read("a/b/1") == b"one"
    assert store.read("a/b/2") == b""
    assert store.read_range("a/bc/3", 1, 3) == b"hre"
    assert set(store.list("a/b")) == {Listed("a/b/1", 3), Listed("a/b/2", 0)}
    assert names(store.list("a")) == {"a/b/1", "a/b/2", "a/bc/3"}
    assert names(store.list("a/b", after="a/b/1")) == {"a/b/2"}
    assert names(store.list("nothing")) == set()


def test_a_second_create_fails_and_changes_nothing(store: ObjectStore) -> None:
    store.create("a/1", b"first")
    with pytest.raises(ObjectExists):
        store.create("a/1", b"second")
    assert store.read("a/1") == b"first"
    assert names(store.list("a")) == {"a/1"}


def test_of_many_creates_at_once_one_wins(store: ObjectStore) -> None:
    won: list[bytes] = []
    lost: list[bytes] = []
    start = threading.Barrier(8)

    def create(data: bytes) -> None:
        start.wait()
        for number in range(20):
            try:
                store.create(f"race/{number}", data)
            except ObjectExists:
                lost.append(data)
            else:
                won.append(data)
                assert store.read(f"race/{number}") == data

    threads = [threading.Thread(target=create, args=(b"%d" % each,)) for each in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (20, 140)


def test_a_file_is_uploaded_and_may_be_uploaded_again(store: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = secrets.token_bytes(6_000_000)  # more than one part of a multipart upload
    file.write_bytes(content)
    for _ in range(2):
        store.upload("big/file", file)
    assert store.read("big/file") == content
    assert store.read_range("big/file", 5_500_000, 10) == content[5_500_000:5_500_010]


def test_deleting_takes_all_that_is_there(store: ObjectStore) -> None:
    for number in range(3):
        store.create(f"a/{number}", b"x")
    store.delete(["a/0", "a/nothing", "a/2"])
    assert names(store.list("a")) == {"a/1"}
    for missing in ("a/0", "b"):
        with pytest.raises(ObjectMissing):
            store.read(missing)
    with pytest.raises(ObjectMissing):
        store.read_range("a/0", 0, 1)


def test_a_good_store_is_proved_and_left_clean(store: ObjectStore) -> None:
    prove_create_if_absent(store, url="the store")
    assert names(store.list("probe")) == set()


# --- the proof -------------------------------------------------------------------------------------------


class Overwriting(MemoryStore):
    def create(self, name: str, data: bytes) -> None:
        self.objects[name] = data


class RefusingTooLate(MemoryStore):
    def create(self, name: str, data: bytes) -> None:
        taken = name in self.objects
        self.objects[name] = data
        if taken:
            raise ObjectExists


class Lagging(MemoryStore):
    def list(self, prefix: str, *, after: str = "") -> Iterator[Listed]:
        return iter(())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Overwriting, r"the store s3://b made the object probe/\w+ twice: it ignores create-if-absent"),
        (RefusingTooLate, r"gave back b'second' for the object probe/\w+, expected b'first'"),
        (Lagging, r"does not list the object probe/\w+ that it has just made"),
    ],
)
def test_a_store_that_lacks_what_is_relied_on_is_refused(kind: type[MemoryStore], message: str) -> None:
    store = kind()
    with pytest.raises(StoreUnsuitable, match=message):
        prove_create_if_absent(store, url="s3://b")
    assert store.objects == {}


def test_the_proof_survives_a_lost_answer_and_a_failing_tidying_up() -> None:
    store = FaultyStore(MemoryStore())
    store.faults.extend([Fault.LOST_ANSWER, Fault.NONE, Fault.NONE, Fault.UNAVAILABLE])
    prove_create_if_absent(store, url="s3://b")
    store.faults.extend([Fault.NONE] * 4 + [Fault.UNAVAILABLE])
    prove_create_if_absent(store, url="s3://b")


# --- repeating -------------------------------------------------------------------------------------------


def test_a_failing_call_is_repeated_with_growing_pauses_until_patience_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    monkeypatch.setattr(object_store.time, "sleep", sleep)
    monkeypatch.setattr(object_store.time, "monotonic", lambda: now)

    def fail() -> None:
        raise OSError("503")

    with pytest.raises(OSError, match="503"):
        repeated(fail, patience=10.0)
    assert now <= 10.0
    assert len(pauses) > 5
    assert pauses[0] <= 0.05
    assert max(pauses) <= 2.0


def test_what_is_refused_is_not_repeated() -> None:
    calls = 0

    def refuse() -> None:
        nonlocal calls
        calls += 1
        raise Refused("403")

    with pytest.raises(Refused):
        repeated(refuse)
    assert calls == 1


# --- S3 --------------------------------------------------------------------------------------------------


def test_wrong_credentials_and_missing_buckets_are_refused_with_the_stores_reason(s3: S3Server) -> None:
    wrong = CloudStore(f"{s3.url}/x", {**s3.settings, "secret_access_key": "wrong"})
    for call in (lambda: wrong.create("a", b""), lambda: wrong.read("a"), lambda: list(wrong.list("a"))):
        with pytest.raises(Refused, match="SignatureDoesNotMatch"):
            call()
    nowhere = CloudStore("s3://nobucket/x", s3.settings)
    for call in (lambda: nowhere.create("a", b""), lambda: nowhere.read("a"), lambda: nowhere.delete(["a"])):
        with pytest.raises(Refused, match=r"NoSuchBucket.*make the bucket first"):
            call()
    with pytest.raises(Refused, match="InvalidBucketName"):
        CloudStore("s3://b/x", s3.settings).create("a", b"")


def test_a_store_that_nobody_serves_is_worth_repeating() -> None:
    settings = {
        "endpoint": "http://127.0.0.1:1",
        "region": "x",
        "access_key_id": "k",
        "secret_access_key": "s",
    }
    with pytest.raises(OSError, match="error sending request") as error:
        CloudStore("s3://bucket", settings).create("a", b"")
    assert not isinstance(error.value, Refused)


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        ("s3://bucket", {"endpointt": "x"}, "the store s3://bucket cannot be opened: .*'endpointt'"),
        ("az://bucket", {}, "Account must be specified"),
        ("ftp://host/x", {}, "Unable to recognise URL"),
    ],
)
def test_settings_that_do_not_fit_are_refused(url: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(StoreUnsuitable, match=message):
        CloudStore(url, settings)


def test_a_bulk_delete_goes_on_behind_a_missing_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with stores that delete one by one and report the first that is gone."""
    deleted: list[str] = []

    def delete(_: object, paths: str | list[str]) -> None:
        if isinstance(paths, list) or paths == "a":
            raise FileNotFoundError(paths)
        deleted.append(paths)

    monkeypatch.setattr(object_store.obstore, "delete", delete)
    CloudStore("s3://bucket", {"region": "x"}).delete(["a", "b", "c"])
    assert deleted == ["b", "c"]


# --- a folder --------------------------------------------------------------------------------------------


def test_what_a_folder_acknowledged_survives_a_power_failure(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    store = FolderStore(tmp_path / "store", files=disk)
    (tmp_path / "file").write_bytes(b"uploaded")
    store.create("a/b/1", b"one")
    store.create("a/b/2", b"two")
    store.upload("c/3", tmp_path / "file")
    disk.sync_folder(tmp_path)
    disk.crash(tmp_path / "store", tmp_path / "left", survives=lambda: False)
    left = FolderStore(tmp_path / "left", files=Files())
    assert [left.read(name) for name in ("a/b/1", "a/b/2", "c/3")] == [b"one", b"two", b"uploaded"]


def test_who_lost_a_race_in_a_folder_builds_on_nothing_that_can_vanish(tmp_path: Path) -> None:
    """The winner is stopped between its link and its fsync; the loser reads what it made."""

    class Stopped(Exception):
        pass

    class StopsBeforeSync(ForgetfulDisk):
        stop = False

        def sync_folder(self, folder: Path) -> None:
            if self.stop and folder.name == "a":
                raise Stopped
            super().sync_folder(folder)

    disk = StopsBeforeSync()
    winner = FolderStore(tmp_path / "store", files=disk)
    winner.create("a/0", b"makes the folder")
    disk.stop = True
    with pytest.raises(Stopped):
        winner.create("a/1", b"winner")
    disk.stop = False
    loser = FolderStore(tmp_path / "store", files=disk)
    with pytest.raises(ObjectExists):
        loser.create("a/1", b"loser")
    assert loser.read("a/1") == b"winner"
    disk.crash(tmp_path / "store", tmp_path / "left", survives=lambda: False)
    assert (tmp_path / "left" / "a" / "1").read_bytes() == b"winner"


def test_what_killed_writers_left_in_a_folder_is_removed_and_what_is_being_written_is_not(
    tmp_path: Path,
) -> None:
    FolderStore(tmp_path, files=Files())
    written = tmp_path / ".incoming" / "written"
    abandoned = tmp_path / ".incoming" / "abandoned"
    for path, hours in ((written, 1), (abandoned, 25)):
        path.write_bytes(b"half an obj")
        changed = path.stat().st_mtime - hours * 3600
        os.utime(path, (changed, changed))
    FolderStore(tmp_path, files=Files())
    assert [path.name for path in (tmp_path / ".incoming").iterdir()] == ["written"]


def test_a_full_disk_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    disk = FailingDisk()
    store = FolderStore(tmp_path / "store", files=disk)
    store.create("a/0", b"x")
    for call in range(2):  # the write, then the fsync
        disk.fail_after, disk.once = 1 + call, True
        with pytest.raises(Refused) as error:
            store.create("a/1", b"lost")
        assert error.value.errno == errno.ENOSPC
    assert names(store.list("a")) == {"a/0"}
    assert list((tmp_path / "store" / ".incoming").iterdir()) == []


def test_a_folder_that_fails_otherwise_is_worth_repeating(tmp_path: Path) -> None:
    disk = FailingDisk()
    store = FolderStore(tmp_path / "store", files=disk)
    store.create("a/0", b"x")
    disk.errno, disk.fail_after, disk.once = errno.EIO, 1, True
    with pytest.raises(OSError, match="Input") as error:
        store.create("a/1", b"x")
    assert not isinstance(error.value, Refused)


def test_a_folder_that_is_gone_is_not_one_without_the_object(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "mounted", files=Files())
    store.create("a", b"1")
    (tmp_path / "mounted").rename(tmp_path / "elsewhere")
    (tmp_path / "mounted").mkdir()  # as an unmounted folder is
    with pytest.raises(OSError, match="is gone: is it still mounted"):
        store.read("a")
    with pytest.raises(FileNotFoundError):
        store.create("b", b"2")
    assert not any((tmp_path / "mounted").iterdir())


def test_reading_beyond_an_objects_end_fails(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", files=Files())
    store.create("a", b"abc")
    with pytest.raises(OSError, match="no 5 bytes from 1 on"):
        store.read_range("a", 1, 5)


# --- reading ahead, and garbage ----------------------------------------------------------------------------


def test_reading_ahead_keeps_the_order_and_holds_little() -> None:
    lock = threading.Lock()
    held = most = 0

    def read(index: int) -> int:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return index

    seen = []
    for index in read_ahead(read, [1] * 100):
        with lock:
            held -= 1
        seen.append(index)
    assert seen == list(range(100))
    assert most <= AT_ONCE
    most = held = 0
    for _ in read_ahead(read, [BYTES] * 5):
        with lock:
            held -= 1
    assert most == 1
    assert list(read_ahead(read, [])) == []


def test_reading_ahead_fails_in_its_turn() -> None:
    def read(index: int) -> int:
        if index == 2:
            raise OSError("lost")
        return index

    seen = read_ahead(read, [1] * 5)
    assert [next(seen), next(seen)] == [0, 1]
    with pytest.raises(OSError, match="lost"):
        next(seen)


def test_garbage_that_cannot_be_deleted_is_left_and_the_rest_goes() -> None:
    memory = MemoryStore()
    for number in range(2500):
        memory.create(f"a/{number}", b"")
    memory.create("b", b"")
    store = FaultyStore(memory)
    garbage = Garbage(store, grace=0.0)
    garbage.add(f"a/{number}" for number in range(2500))
    garbage.add(["b"])
    store.faults.extend([Fault.NONE, Fault.UNAVAILABLE])
    garbage.sweep()
    assert len(memory.objects) == 1500
    assert "b" not in memory.objects
