"""A migration that ends at any moment loses nothing: it is gone on with, or undone byte for byte."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.children import uncovered
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.fixtures import VECTORIZER
from tests.engine.migration.standalone import (
    CONFIG,
    Standalone,
    Unsynced,
    answers,
    fill,
    open_store,
    run_without_fsync,
)
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance, StorageType
from vectorizer_engine.migration import command
from vectorizer_engine.migration.command import Options, run
from vectorizer_engine.storage.files import Files

KILLS = 20
QUERIES = 1000
DATA = Path(__file__).parents[3] / "examples" / "data" / "packages.f16.npy"


def example_vectors() -> np.ndarray:
    return np.load(DATA).astype(np.float32)


@pytest.fixture
def packages(tmp_path: Path) -> Standalone:
    """The example data in two collections, of which one is indexed, in memory storage."""
    standalone = Standalone(tmp_path / "standalone")
    standalone.folder.mkdir()
    standalone.config.write_text(CONFIG.format(data=standalone.data))
    rows = example_vectors()
    store = VectorStore.open(
        standalone.data, memory=CacheMemoryManager(256 * 1024**2), limits=ShardLimits(head_points=len(rows))
    )
    for name, count in (("indexed", len(rows)), ("log", 200)):
        collection = store.create_collection(
            name, CollectionParams(rows.shape[1], Distance.COSINE, StorageType.MEMORY)
        )
        for start in range(0, count, 400):
            ids = list(range(start, min(start + 400, count)))
            collection.upsert(ids, rows[ids], [{"n": number} for number in ids])
    large = store.collection("indexed")
    large.upsert([0], rows[:1], [None])  # so that the head that is full is sealed
    wait_until(lambda: settled(large) and large.info().indexed_vectors > 0)
    store.close()
    return standalone


def found(standalone: Standalone, copy: Path) -> list[Any]:
    """What 1,000 searches find, asked of a copy."""
    rng = np.random.default_rng(0)
    rows = example_vectors()
    queries = rows[rng.choice(len(rows), QUERIES // 2)] + rng.normal(0, 0.01, (QUERIES // 2, rows.shape[1]))
    store = open_store(Path(shutil.copytree(standalone.data, copy)))
    result = [answers(store, name, queries.astype(np.float32)) for name in ("indexed", "log")]
    store.close()
    return result


class Command(subprocess.Popen[bytes]):
    """The command itself, to be waited for as a process of `multiprocessing` is."""

    def join(self, seconds: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(seconds)

    def is_alive(self) -> bool:
        return self.poll() is None


def test_killed_20_times_it_is_finished_and_undone_byte_for_byte(
    packages: Standalone, tmp_path: Path
) -> None:
    """Every fifth time it is the command; else its function in a process that starts at once, without fsync."""
    before = packages.content()
    expected = found(packages, tmp_path / "before")
    rng = random.Random(7)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_without_fsync.__module__])

    def start(rollback: bool, as_command: bool) -> Any:
        if as_command:
            arguments = ["--migrate-to-cluster", "--config", packages.config, *["--rollback"] * rollback]
            return Command([VECTORIZER, *arguments], stdout=subprocess.DEVNULL, env=uncovered())
        options = Options(config=packages.config, rollback=rollback, json_output=True)
        process = context.Process(target=run_without_fsync, args=(options,))
        process.start()
        return process

    def lasts(as_command: bool) -> float:
        began = time.monotonic()
        start(False, as_command).join()
        assert packages.storages()["indexed"] is StorageType.MMAP
        return time.monotonic() - began

    function_lasts = lasts(as_command=False)
    assert run(Options(config=packages.config, rollback=True)) == 0
    command_starts = lasts(as_command=True) - function_lasts
    killed = 0
    rollback = True
    while killed < KILLS:
        as_command = killed % 5 == 4
        process = start(rollback, as_command)
        works = rng.uniform(0, function_lasts / 8 if rollback else function_lasts)
        process.join(command_starts + works if as_command else works)
        if process.is_alive():
            process.kill()
            process.join()
            killed += 1
            rollback = rng.random() < 0.3
        else:
            rollback = not rollback

    while run(Options(config=packages.config)) != 0:  # a rollback that was begun has to be finished
        assert run(Options(config=packages.config, rollback=True)) == 0
    assert set(packages.storages().values()) == {StorageType.MMAP}
    assert found(packages, tmp_path / "after") == expected
    assert run(Options(config=packages.config, rollback=True)) == 0
    assert packages.content() == before


class Power(BaseException):
    """It went out."""


class Dying(Unsynced):
    """Ends the work at one of its calls, before that has done anything."""

    def __init__(self, *, after: int) -> None:
        self.left = after

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in {"create", "write", "sync", "sync_folder", "make_folder", "rename", "remove", "link",
                        "remove_tree"}:  # fmt: skip
            return method
        return lambda *arguments: self._count() or method(*arguments)

    def _count(self) -> None:
        if self.left == 0:
            raise Power
        self.left -= 1


@pytest.fixture
def with_files(monkeypatch: pytest.MonkeyPatch) -> Callable[[Files], None]:
    return lambda files: monkeypatch.setattr(command, "Files", lambda: files)


@pytest.mark.parametrize("rollback", [False, True], ids=["migrate", "rollback"])
def test_ended_at_any_of_its_writes_it_can_be_undone_and_gone_on_with(
    tmp_path: Path, rollback: bool, with_files: Callable[[Files], None]
) -> None:
    filled = Standalone(tmp_path / "filled")
    fill(filled)
    migrated = Standalone(tmp_path / "migrated")
    original = filled.content()
    standalone = Standalone(tmp_path / "standalone")
    filled.config.write_text(CONFIG.format(data=standalone.data))
    original["config.yml"] = filled.config.read_bytes()
    counting = Dying(after=10**9)
    shutil.copytree(filled.folder, standalone.folder)
    with_files(Unsynced() if rollback else counting)
    assert standalone.migrate().exit_code == 0
    shutil.copytree(standalone.folder, migrated.folder)
    with_files(counting)
    if rollback:
        assert standalone.migrate("--rollback").exit_code == 0
    calls = 10**9 - counting.left
    begin = migrated if rollback else filled
    for after in sorted({*range(0, calls, max(1, calls // 10)), *range(max(0, calls - 3), calls)}):
        shutil.rmtree(standalone.folder)
        shutil.copytree(begin.folder, standalone.folder)
        with_files(Dying(after=after))
        with pytest.raises(Power):
            run(Options(config=standalone.config, rollback=rollback))
        with_files(Unsynced())
        if not rollback and after % 2:
            assert standalone.migrate().exit_code == 0, after
            assert set(standalone.storages().values()) == {StorageType.MMAP}
        undone = standalone.migrate("--rollback")
        if undone.exit_code != 0:
            assert "there is nothing to roll back" in undone.stderr, after
        assert standalone.content() == original, after
