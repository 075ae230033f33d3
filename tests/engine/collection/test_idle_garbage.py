"""What nobody needs any more leaves the store by itself, also where nobody writes, or the collection is gone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.engine.collection.model import params
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.collection.test_shared_store import all_but_claims, fill, open_shared
from vectorizer_engine.collection import compaction
from vectorizer_engine.storage.folder_store import FolderStore
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.object_frame import Kind

UPLOAD = FolderStore.upload


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Garbage.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(Garbage.__init__.__kwdefaults__, "grace", 0.1)
    monkeypatch.setattr(compaction, "_LEFTOVERS_SECONDS", 0.1)


def segments_in(objects: Path) -> list[Path]:
    return list(objects.glob("collections/*/*/segments/*"))


def segment_files(objects: Path) -> list[Path]:
    return [path for folder in segments_in(objects) for path in folder.iterdir()]


def frames_of(objects: Path, kind: Kind) -> int:
    return sum(path.read_bytes()[8] == kind for path in objects.glob("collections/*/*/log/*"))


def test_what_an_idle_collection_replaced_last_goes(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    store = open_shared(tmp_path / "a", objects)
    collection = store.create_collection("c", params())
    fill(collection, 0, 60)
    wait_until(lambda: settled(collection))
    wait_until(lambda: len(segment_files(objects)) == 3 * len(list(collection._shard.view.segments())))
    wait_until(lambda: frames_of(objects, Kind.RECORDS) < 8)  # those of the head
    store.close()


def test_what_an_earlier_owner_left_goes_though_nobody_writes(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    store = open_shared(tmp_path / "a", objects)
    fill(store.create_collection("c", params()), 0, 9)
    wait_until(lambda: settled(store.collection("c")) and len(segments_in(objects)) == 1)
    store.close()
    left = segments_in(objects)[0].with_name("00000099-0123456789abcdef0123456789abcdef") / "vectors.f32"
    left.parent.mkdir()
    left.write_bytes(b"what a crash left")
    again = open_shared(tmp_path / "a", objects)
    wait_until(lambda: not left.exists())
    assert len(again.collection("c").scroll(limit=100)[0]) == 9
    again.close()
    last = open_shared(tmp_path / "b", objects)
    assert len(last.collection("c").scroll(limit=100)[0]) == 9
    last.close()


def test_an_engine_that_uploads_while_another_one_deletes_its_collection_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def upload(store: FolderStore, name: str, file: Path) -> None:
        if file.is_relative_to(tmp_path / "a"):
            begun.set()
            assert may_end.wait(60)
        UPLOAD(store, name, file)

    objects = tmp_path / "objects"
    first = open_shared(tmp_path / "a", objects)
    collection = first.create_collection("c", params())
    monkeypatch.setattr(FolderStore, "upload", upload)
    fill(collection, 0, 9)  # one more than a head takes
    assert begun.wait(60)
    second = open_shared(tmp_path / "b", objects)
    assert second.delete_collection("c")
    second.close()
    assert all_but_claims(objects) == []
    may_end.set()
    wait_until(lambda: collection._shard._sealing._error is not None)  # it has learned that it was replaced
    first.close()
    assert all_but_claims(objects) == []
