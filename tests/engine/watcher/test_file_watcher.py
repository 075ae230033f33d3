"""The watcher's thread by itself: folders and collections that come and go, disks that fail, rules."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.engine.collection.model import open_store
from tests.engine.disks import FailingDisk
from tests.engine.watcher.inbox import DIMENSION, line, lines
from vectorizer_engine import watcher as watcher_module
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.config import Config, parse_config
from vectorizer_engine.errors import FileWatcherNotAllowedInCluster
from vectorizer_engine.ingest.loaded_files import FILE_NAME
from vectorizer_engine.metrics import Metrics
from vectorizer_engine.watcher import FileWatcher

PARAMS = CollectionParams(dimension=DIMENSION, distance=Distance.DOT)


class Watched:
    """A store, its watcher, and the folder `inbox`, which is made by whoever wants it."""

    def __init__(self, folder: Path, disk: FailingDisk) -> None:
        self.inbox = folder / "inbox"
        self.data = folder / "data"
        self.store = open_store(self.data, files=disk)
        self.metrics = Metrics()
        self.watcher = FileWatcher(config_of(folder), self.store, self.metrics, look_seconds=0.05)

    def put(self, file: str, text: str) -> Path:
        path = self.inbox / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def wait_for(self, name: str, count: int) -> None:
        wait_until(lambda: self.store.collection(name).count() == count)

    def remembered(self) -> set[str]:
        """The files that the data folder knows to be loaded."""
        file = self.data / FILE_NAME
        return set(json.loads(file.read_text())) if file.exists() else set()

    def failures(self, reason: str) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "vectorizer_file_watcher_failures_total", {"reason": reason}
            )
            or 0.0
        )


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def watched(tmp_path: Path, disk: FailingDisk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Not started. What is tried again is tried soon."""
    for pause in ("_RETRY_SECONDS", "_MOMENT_SECONDS", "_SAVE_SECONDS"):
        monkeypatch.setattr(watcher_module, pause, 0.05)
    made = Watched(tmp_path, disk)
    made.store.create_collection("docs", PARAMS)
    yield made
    disk.fail_after = None
    if made.watcher._thread.ident is not None:
        made.watcher.stop()
        assert not made.watcher._thread.is_alive()
    made.store.close()


def config_of(folder: Path, **cluster: Any) -> Config:
    watcher = {"enabled": True, "paths": [str(folder / "inbox")]}
    return parse_config(
        {"storage": {"path": str(folder / "data")}, "file_watcher": watcher, "cluster": cluster}
    )


def wait_until(holds: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_in_cluster_mode_a_start_is_refused_with_the_rule_and_what_to_do_instead(
    tmp_path: Path, watched: Watched
) -> None:
    watcher = FileWatcher(config_of(tmp_path, enabled=True), watched.store, watched.metrics)
    with pytest.raises(FileWatcherNotAllowedInCluster) as refused:
        watcher.start()
    assert (refused.value.violation.code, refused.value.violation.path) == (
        "CLUSTER_002",
        "file_watcher.enabled",
    )
    assert str(refused.value).startswith(
        "CLUSTER_002: file_watcher.enabled is true, but a cluster runs no file watcher: "
        "set file_watcher.enabled to false; to load data into a cluster, send it to the REST API"
    )
    assert watcher._thread.ident is None


def test_a_folder_is_watched_once_it_exists(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.watcher.start()
    wait_until(lambda: "cannot be watched: No such file or directory" in caplog.text)
    watched.put("docs/a.jsonl", lines(0, 3))
    watched.wait_for("docs", 3)
    assert caplog.text.count("cannot be watched") == 1


def test_a_file_in_the_place_of_a_folder_is_named(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.inbox.write_text("")
    watched.watcher.start()
    wait_until(lambda: f"{watched.inbox} cannot be watched: it is no folder" in caplog.text)


def test_a_folder_in_the_place_of_another_is_watched(watched: Watched) -> None:
    watched.put("docs/a.jsonl", line(0))
    watched.watcher.start()
    watched.wait_for("docs", 1)
    watched.inbox.rename(watched.inbox.parent / "old")
    watched.put("docs/b.jsonl", line(1))
    watched.wait_for("docs", 2)


def test_a_collection_that_is_created_anew_is_filled_again(watched: Watched) -> None:
    watched.put("docs/a.jsonl", lines(0, 3))
    watched.watcher.start()
    watched.wait_for("docs", 3)
    watched.store.delete_collection("docs")
    watched.store.create_collection("docs", PARAMS)
    watched.wait_for("docs", 3)


def test_the_names_of_files_may_be_any_bytes(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "vectorizer_engine")  # the test's report cannot hold such a name
    watched.put(os.fsdecode(b"docs/\xff\xfe.jsonl"), line(1))
    watched.watcher.start()
    watched.wait_for("docs", 1)
    watched.watcher.stop()
    assert "\\\\xff\\\\xfe.jsonl" in (watched.data / FILE_NAME).read_text()


def test_a_full_disk_is_waited_for(
    watched: Watched, disk: FailingDisk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.fail_after = 0
    file = watched.put("docs/a.jsonl", lines(0, 3))
    watched.watcher.start()
    wait_until(lambda: watched.failures("storage") >= 3)
    assert caplog.text.count(f"{file} is tried again: ") == 1
    assert "the disk is full" in caplog.text
    assert watched.store.collection("docs").count() == 0
    disk.fail_after = None
    watched.wait_for("docs", 3)


def test_a_disk_that_is_full_for_the_memory_of_what_was_loaded_is_told_once(
    watched: Watched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FailingDisk()
    full.fail_after = 0
    monkeypatch.setattr(watched.watcher._loaded, "_files", full)
    watched.put("docs/a.jsonl", line(0))
    watched.watcher.start()
    wait_until(lambda: len(full.calls) >= 3)
    assert caplog.text.count("would be loaded again after a restart") == 1
    full.fail_after = None
    wait_until((watched.data / FILE_NAME).exists)


def test_files_for_a_damaged_collection_are_tried_again(
    tmp_path: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.store.close()
    [description] = (watched.data / "collections").glob("docs.*/collection.json")
    whole = description.read_bytes()
    description.write_bytes(b"{")
    damaged = Watched(tmp_path, FailingDisk())
    file = damaged.put("docs/a.jsonl", line(0))
    damaged.watcher.start()
    wait_until(lambda: damaged.failures("storage") >= 2)
    damaged.watcher.stop()
    damaged.store.close()
    description.write_bytes(whole)
    assert f"{file} is tried again: collection 'docs' cannot be served" in caplog.text


def test_without_notifications_files_are_found_by_looking(
    watched: Watched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_watches(*folders: Path, **options: object) -> NoReturn:
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr(watcher_module, "watch", out_of_watches)
    watched.watcher.start()
    watched.put("docs/a.jsonl", line(0))
    watched.wait_for("docs", 1)
    assert caplog.text.count("the system does not tell of changes in the watched folders") == 1


def test_a_bug_in_loading_ends_with_the_file(
    watched: Watched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    upsert = Collection.upsert

    def broken(self: Collection, ids: Any, vectors: Any, payloads: Any, **options: Any) -> int:
        if 13 in ids:
            raise RuntimeError("a bug")
        return upsert(self, ids, vectors, payloads, **options)

    monkeypatch.setattr(Collection, "upsert", broken)
    file = watched.put("docs/a.jsonl", line(13))
    watched.put("docs/b.jsonl", line(1))
    watched.watcher.start()
    watched.wait_for("docs", 1)
    wait_until(lambda: f"{file} is left alone until it changes" in caplog.text)
    file.write_text(line(14))
    watched.wait_for("docs", 2)
    assert watched.failures("unexpected") == 1


def test_a_bug_in_watching_begins_anew(
    watched: Watched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    collection = VectorStore.collection
    monkeypatch.setattr(VectorStore, "collection", lambda self, name: 1 / 0)
    watched.put("docs/a.jsonl", line(0))
    watched.watcher.start()
    wait_until(lambda: watched.failures("unexpected") >= 2)
    monkeypatch.setattr(VectorStore, "collection", collection)
    watched.wait_for("docs", 1)


def test_what_is_forgotten_is_only_what_is_gone(watched: Watched) -> None:
    gone = watched.put("docs/gone.jsonl", lines(0, 2))
    kept = watched.put("docs/kept.jsonl", line(2))
    watched.watcher.start()
    wait_until(lambda: {str(gone), str(kept)} == watched.remembered())
    gone.unlink()
    wait_until(lambda: {str(kept)} == watched.remembered())
