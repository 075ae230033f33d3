"""A data folder: who may open it, and what is left of collections that were being made or deleted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.collection.model import SMALL, MiB, everything, open_store, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.disks import FailingDisk, ForgetfulDisk
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidRequest,
    StorageFailure,
    StorageFull,
    StoreClosed,
    StoreCorrupt,
    StoreLocked,
    StoreVersionError,
)
from vectorizer_engine.storage.files import Files


def test_collections_are_made_listed_and_deleted(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for name in ("b", "a", "with space and ü"):
        assert store.create_collection(name, params()).name == name
    with pytest.raises(CollectionExists, match="'a' already exists"):
        store.create_collection("a", params())
    assert [collection.name for collection in store.collections()] == ["a", "b", "with space and ü"]
    assert store.delete_collection("b")
    assert not store.delete_collection("b")
    with pytest.raises(CollectionNotFound, match="'b' does not exist"):
        store.collection("b")
    store.close()
    store = open_store(tmp_path)
    assert [collection.name for collection in store.collections()] == ["a", "with space and ü"]
    store.close()


@pytest.mark.parametrize("name", ["", "a/b", "a\0", "a:b", "x" * 256, "ü" * 128, "a\n"])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    store = open_store(tmp_path)
    with pytest.raises(InvalidRequest, match="expected 1 to 255 bytes"):
        store.create_collection(name, params())
    store.close()


def test_a_collection_that_cannot_be_opened_was_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    store = open_store(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(StorageFailure, match="Too many open files"):
        patch.setattr("vectorizer_engine.collection.store.Shard", no_descriptors)
        store.create_collection("c", params())
    assert list((tmp_path / "collections").iterdir()) == []
    store.create_collection("c", params()).upsert([1], vectors_of([1]), [None])
    store.close()
    store = open_store(tmp_path)
    assert store.collection("c").count() == 1
    store.close()


def test_a_collection_whose_recovery_fails_holds_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    collection = store.create_collection("c", params())
    for number in range(20):
        collection.upsert([number], vectors_of([number]), [None])
    wait_until(lambda: settled(collection))
    assert list(tmp_path.rglob("vectors.f32"))
    store.close()

    def corrupt(data: bytes) -> None:
        raise StoreCorrupt("a record that cannot be read")

    monkeypatch.setattr("vectorizer_engine.collection.operations.decode_record", corrupt)
    memory = CacheMemoryManager(16 * MiB)
    store = VectorStore.open(tmp_path, memory=memory, limits=SMALL)
    assert store.damaged == {"c": "a record that cannot be read"}
    assert memory.snapshot().used == 0
    store.close()


def test_a_deletion_that_the_disk_does_not_confirm_leaves_nothing(tmp_path: Path) -> None:
    disk = FailingDisk()
    memory = CacheMemoryManager(16 * MiB)
    store = VectorStore.open(tmp_path, memory=memory, files=disk)
    store.create_collection("c", params()).upsert([1], vectors_of([1]), [None])
    disk.calls.clear()
    disk.fail_after, disk.once = 1, True
    with pytest.raises(StorageFull):
        store.delete_collection("c")
    assert disk.calls[1] == "sync collections"
    assert memory.snapshot().used == 0
    assert list((tmp_path / "collections").iterdir()) == []
    store.close()


def test_a_new_collection_knows_nothing_of_one_that_had_its_name(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    old = store.create_collection("c", params())
    old.upsert([1], vectors_of([1]), [None])
    store.delete_collection("c")
    new = store.create_collection("c", params(dimension=7))
    assert new.count() == 0
    with pytest.raises(StoreClosed):
        old.count()
    with pytest.raises(StoreClosed):
        old.upsert([1], vectors_of([1]), [None])
    store.close()
    assert open_store_names(tmp_path) == ["c"]


def open_store_names(folder: Path) -> list[str]:
    store = open_store(folder)
    try:
        assert store.damaged == {}
        return [collection.name for collection in store.collections()]
    finally:
        store.close()


def test_a_second_process_on_one_folder_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    code = (
        "import sys; from pathlib import Path; from tests.engine.collection.model import open_store\n"
        "try: open_store(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert answer.startswith("StoreLocked ")
    assert answer.count("\n") == 1
    with pytest.raises(StoreLocked, match="in use by another process"):
        open_store(tmp_path)
    store.close()
    open_store(tmp_path).close()


def test_a_newer_format_is_refused_and_the_folder_let_go(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "FORMAT").write_text("vectorizer-storage 2\n")
    for _ in range(2):
        with pytest.raises(StoreVersionError, match="has format 2, this version reads up to 1"):
            open_store(tmp_path)
    (tmp_path / "FORMAT").write_text("something else")
    with pytest.raises(StoreVersionError, match="is not the format file"):
        open_store(tmp_path)


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageFailure, match="cannot use the data folder"):
        open_store(tmp_path / "file")


def test_creating_fails_cleanly_at_every_write(tmp_path: Path) -> None:
    disk = FailingDisk()
    store = open_store(tmp_path, files=disk)
    disk.calls.clear()
    store.create_collection("probe", params())
    calls = len(disk.calls)
    assert calls > 8
    for number in range(calls):
        disk.fail_after, disk.once = number, True
        with pytest.raises(StorageFull, match="cannot create collection 'c': the disk is full"):
            store.create_collection("c", params())
        disk.fail_after = None
        with pytest.raises(CollectionNotFound):
            store.collection("c")
    store.create_collection("c", params())
    store.close()
    assert open_store_names(tmp_path) == ["c", "probe"]


def test_a_crash_leaves_a_collection_whole_or_not_at_all(tmp_path: Path) -> None:
    """Cut the power after every call that creating and deleting make, with all or nothing of the rest kept."""

    class PowerFailure(Exception):
        pass

    class FailingPower(ForgetfulDisk):
        left: int | None = None

        def _count(self) -> None:
            if self.left is not None:
                if self.left == 0:
                    raise PowerFailure
                self.left -= 1

        def rename(self, source: Path, target: Path) -> None:
            self._count()
            super().rename(source, target)

        def sync_folder(self, folder: Path) -> None:
            self._count()
            super().sync_folder(folder)

        def remove_tree(self, folder: Path) -> None:
            self._count()
            super().remove_tree(folder)

    for survives in (True, False):
        for moment in range(12):
            for deleting in (False, True):
                folder = tmp_path / f"{survives}-{moment}-{deleting}"
                disk = FailingPower()
                store = open_store(folder, files=disk)
                if deleting:
                    store.create_collection("c", params()).upsert([1], vectors_of([1]), [None])
                disk.left = moment
                acknowledged = True
                try:
                    if deleting:
                        store.delete_collection("c")
                    else:
                        store.create_collection("c", params())
                except PowerFailure:
                    acknowledged = False
                left = tmp_path / f"{folder.name}-after"
                disk.crash(folder, left, survives=lambda survives=survives: survives)
                names = open_store_names(left)
                if acknowledged:
                    assert names == ([] if deleting else ["c"])
                assert not [path for path in (left / "collections").iterdir() if path.name.startswith(".")]
                disk.left = None
                store.close()


def test_a_damaged_collection_is_named_and_the_others_are_served(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for name in ("bad", "good", "worse"):
        store.create_collection(name, params()).upsert([1], vectors_of([1]), [None])
    store.close()
    manifest = next((tmp_path / "collections").glob("bad.*")) / "shard-0" / "MANIFEST"
    data = bytearray(manifest.read_bytes())
    data[-1] ^= 1
    manifest.write_bytes(data)
    (next((tmp_path / "collections").glob("worse.*")) / "collection.json").unlink()
    store = open_store(tmp_path)
    assert store.damaged.keys() == {"bad", "worse"}
    assert "MANIFEST fails its checksum" in store.damaged["bad"]
    assert [collection.name for collection in store.collections()] == ["good"]
    assert everything(store.collection("good")).keys() == {1}
    with pytest.raises(StorageFailure, match=r"'bad' cannot be served: .*MANIFEST fails its checksum"):
        store.collection("bad")
    with pytest.raises(CollectionExists):
        store.create_collection("bad", params())
    assert store.delete_collection("bad")
    store.create_collection("bad", params())
    store.close()
    assert set(open_store(tmp_path).damaged) == {"worse"}


def test_deleting_a_damaged_collection_spares_those_whose_folders_are_called_alike(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for between in "+ &,;=!()@#$%^~'":
        name = f"a{between}b"
        store.create_collection(name, params()).upsert([1], vectors_of([1]), [None])
    store.close()
    folders = list((tmp_path / "collections").glob("a_b.*"))
    [damaged] = [folder for folder in folders if b'"a+b"' in (folder / "collection.json").read_bytes()]
    manifest = damaged / "shard-0" / "MANIFEST"
    manifest.write_bytes(manifest.read_bytes()[:-1] + b"?")
    store = open_store(tmp_path)
    assert store.damaged.keys() == {"a+b"}
    store.delete_collection("a+b")
    store.close()
    assert len(folders) == 16
    assert [folder for folder in folders if not folder.exists()] == [damaged]


def test_a_closed_store_refuses_and_closes_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    collection = store.create_collection("c", params())
    store.close()
    store.close()
    with pytest.raises(StoreClosed):
        store.create_collection("d", params())
    with pytest.raises(StoreClosed):
        collection.upsert([1], vectors_of([1]), [None])


def test_an_error_of_the_disk_is_told_from_a_full_one(tmp_path: Path) -> None:
    disk = FailingDisk()
    disk.errno = errno.EIO
    store = open_store(tmp_path, files=disk)
    disk.fail_after = 0
    with pytest.raises(StorageFailure, match="cannot create collection 'c': Input/output error"):
        store.create_collection("c", params())
    disk.fail_after = None
    store.close()


class NoRoomForTwoHeads(Files):
    """A disk that takes one scratch file."""

    def __init__(self) -> None:
        self.heads = 0

    def scratch(self, folder: Path) -> int:
        self.heads += 1
        if self.heads > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().scratch(folder)


def test_a_start_that_fails_lets_go_of_all_that_it_had_opened(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for name in "ab":
        store.create_collection(name, params()).upsert([1], vectors_of([1]), [None])
    store.close()
    memory = CacheMemoryManager(16 * MiB)
    with pytest.raises(StorageFull, match=r"cannot write to the scratch file"):
        VectorStore.open(tmp_path, memory=memory, files=NoRoomForTwoHeads())
    assert memory.snapshot().used == 0
    open_store(tmp_path).close()
