"""A shard that somebody else writes, read along: what was read is what its owner had at that frame."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from tests.engine.collection.model import RESTLESS, MiB, Points, assert_same, everything, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.collection.test_shared_store import SharedCollectionMachine, fill, ids, open_shared
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.collection_reader import CollectionReader
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.shard_reader import ShardReader
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.errors import CacheMemoryLimitExceeded, StorageFailure, StoreClosed, StoreCorrupt
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.folder_store import FolderStore
from vectorizer_engine.storage.log_objects import list_frames
from vectorizer_engine.storage.log_tail import News, Outrun
from vectorizer_engine.storage.object_segments import ObjectSegmentStore
from vectorizer_engine.storage.object_store import repeated
from vectorizer_engine.storage.shared_store import SharedStore


class Along:
    """A reader of the only collection in *objects*, with a folder and a memory limit of its own."""

    def __init__(self, folder: Path, objects: Path, *, limit: int = 16 * MiB) -> None:
        files = Files()
        self.store = FolderStore(objects, files=files)
        shared = SharedStore(self.store, f"file://{objects}")
        [self.token] = shared.catalog.entries
        self.memory = CacheMemoryManager(limit)
        self.maintenance = Maintenance()
        self.folder = folder / f"c.{self.token}" / "shard-0"
        for path in (self.folder, folder / "scratch"):
            path.mkdir(parents=True, exist_ok=True)
        environment = ShardEnvironment(
            self.memory.account(""), self.maintenance, files, folder / "scratch", RESTLESS, shared
        )
        self.shard = ShardReader(self.folder, params(), environment)
        self.collection = CollectionReader("c", params(), self.shard, tenant="", results=None)

    @property
    def log(self) -> str:
        return f"collections/{self.token}/shard-0/log"

    def frames(self) -> dict[int, int]:
        return list_frames(self.store, self.log)

    def follow(self, *, until: int | None = None, known: int | None = None) -> None:
        """Read on to before the frame *until*, or to the end; the sizes are told of the frames from *known* on."""
        sizes = self.frames()
        end = max(sizes) + 1 if until is None else until
        first = self.shard.next_frame if known is None else known
        self.shard.follow(News(first, [sizes[number] for number in range(first, end)]))

    def close(self) -> None:
        self.shard.close()
        self.maintenance.close()


@contextmanager
def owned(folder: Path) -> Iterator[tuple[VectorStore, Collection]]:
    store = open_shared(folder / "owner", folder / "objects")
    try:
        yield store, store.create_collection("c", params())
    finally:
        store.close()


@contextmanager
def read_along(folder: Path, *, limit: int = 16 * MiB) -> Iterator[Along]:
    along = Along(folder / "reader", folder / "objects", limit=limit)
    try:
        yield along
    finally:
        along.close()


def test_what_is_written_is_read_along_through_sealing_and_merging(tmp_path: Path) -> None:
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        for start in range(0, 120, 20):
            fill(owner, start, start + 20)
            owner.delete(ids=[start, start + 1])
            owner.set_payload({"seen": True}, ids=[start + 2])
            reader.follow()
            assert_same(everything(reader.collection), everything(owner))
        settled(owner)
        reader.follow()
        assert_same(everything(reader.collection), everything(owner))
        assert reader.collection.info().points == owner.info().points == 108
        named = {f"{entry.id:08d}" for entry in reader.shard._segments.manifest.segments}
        assert {path.name for path in (reader.folder / "segments").iterdir()} == named, (
            "what was merged is removed"
        )


def test_a_reader_goes_on_when_another_process_takes_the_shard_over(tmp_path: Path) -> None:
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        fill(owner, 0, 30)
        other = open_shared(tmp_path / "other", tmp_path / "objects")
        fill(other.collection("c"), 30, 60)
        reader.follow()
        assert ids(reader.collection) == [*range(60)]
        other.close()


def test_reading_along_asks_nothing_of_the_store_but_the_frames_that_it_was_told_of(tmp_path: Path) -> None:
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        fill(owner, 0, 3)
        sizes = reader.frames()
        asked: list[str] = []
        read = reader.store.read
        reader.store.read = lambda name: asked.append(name) or read(name)  # type: ignore[method-assign, func-returns-value]
        reader.store.list = None  # type: ignore[method-assign, assignment]
        first = reader.shard.next_frame
        reader.shard.follow(News(first, [sizes[number] for number in range(first, max(sizes) + 1)]))
        assert ids(reader.collection) == [0, 1, 2]
        assert sorted(asked) == [f"{reader.log}/{number:020d}" for number in range(first, max(sizes) + 1)]


def test_a_reader_that_slept_while_frames_were_forgotten_says_so_and_a_new_one_has_all(
    tmp_path: Path,
) -> None:
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        fill(owner, 0, 40)
        settled(owner)
        frames = reader.frames()
        assert owner._shard._log.checkpoint.start > reader.shard.next_frame  # type: ignore[attr-defined]
        forgotten = range(reader.shard.next_frame, owner._shard._log.checkpoint.start)  # type: ignore[attr-defined]
        reader.store.delete([f"{reader.log}/{number:020d}" for number in forgotten])
        with pytest.raises(Outrun):
            reader.shard.follow(News(max(frames) + 1, ()))
        reader.close()
        with read_along(tmp_path) as again:
            assert ids(again.collection) == [*range(40)]


def test_an_index_that_is_built_later_is_fetched_when_the_owner_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_keep, kept = threading.Event(), threading.Event()
    keep = ObjectSegmentStore.keep_index

    def keep_later(*arguments: Any) -> None:
        assert may_keep.wait(20)
        keep(*arguments)

    monkeypatch.setattr(ObjectSegmentStore, "keep_index", keep_later)
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        owner._shard._uploads._kept = kept.set  # type: ignore[attr-defined]
        points = range(5000)
        owner.upsert(points, vectors_of([*points]), [None] * len(points))
        wait_until(lambda: owner.info().indexed_vectors == len(points))
        reader.follow()
        assert [each.layout for each in reader.collection.layouts()] == [SegmentLayout.EXACT]
        may_keep.set()
        assert kept.wait(20)
        reader.shard.follow(News(reader.shard.next_frame, (), indexes=True))
        assert [each.layout for each in reader.collection.layouts()] == [SegmentLayout.HNSW_SQ8]


def test_a_damaged_frame_stops_a_reader_and_is_named(tmp_path: Path) -> None:
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        fill(owner, 0, 2)
        last = tmp_path / "objects" / f"{reader.log}/{max(reader.frames()):020d}"
        content = bytearray(last.read_bytes())
        content[-1] ^= 1
        last.write_bytes(content)
        with pytest.raises(StoreCorrupt, match=f"{last.name} fails its checksum"):
            reader.follow()
        assert ids(reader.collection) == [0]


def test_a_reader_holds_no_memory_when_it_is_closed_and_answers_no_more(tmp_path: Path) -> None:
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        fill(owner, 0, 50)
        reader.follow()
        assert reader.shard.head_bytes > 0
        reader.maintenance.relieve(reader.memory.account(""))
        assert reader.shard.is_closed, "a writer that needs its memory gets it"
        assert reader.memory.snapshot().used == 0
        with pytest.raises(StoreClosed):
            ids(reader.collection)


def test_a_reader_for_which_there_is_no_memory_ends_and_gives_back_what_it_had(tmp_path: Path) -> None:
    with owned(tmp_path) as (_, owner):
        owner.upsert([*range(8)], vectors_of([*range(8)]), [None] * 8)
        with pytest.raises(CacheMemoryLimitExceeded, match="8 points of a shard that another member writes"):
            Along(tmp_path / "reader", tmp_path / "objects", limit=1000)


def test_a_reader_whose_store_is_away_answers_what_it_has_and_goes_on_when_the_store_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        fill(owner, 0, 5)
        with monkeypatch.context() as patch:
            patch.setitem(repeated.__kwdefaults__, "patience", 0.0)
            patch.setattr(reader.store, "read", _away)
            with pytest.raises(StorageFailure, match="the store is away"):
                reader.follow()
            assert ids(reader.collection) == []
        reader.follow()
        assert ids(reader.collection) == [0, 1, 2, 3, 4]


def test_a_reader_that_cannot_hold_what_it_read_ends_and_gives_no_answer_that_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owned(tmp_path) as (_, owner), read_along(tmp_path) as reader:
        fill(owner, 0, 5)
        with monkeypatch.context() as patch:
            patch.setattr(Files, "write", _away)
            with pytest.raises(StorageFailure, match="the store is away"):
                reader.follow()
        assert reader.shard.is_closed
        assert reader.memory.snapshot().used == 0


def _away(*_: object) -> bytes:
    raise OSError("the store is away")


def test_a_copy_that_is_there_already_is_not_fetched_again(tmp_path: Path) -> None:
    with owned(tmp_path) as (_, owner):
        fill(owner, 0, 40)
        settled(owner)
    # Nobody merges any more.
    with read_along(tmp_path) as reader:
        copies = {path: path.stat().st_ino for path in reader.folder.rglob("*.f32")}
    with read_along(tmp_path) as again:
        assert {path: path.stat().st_ino for path in again.folder.rglob("*.f32")} == copies != {}


class ReaderMachine(SharedCollectionMachine):
    """A reader beside the owner, that hears of frames late, in parts, or with a gap."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        super().start(seed)
        self.history: dict[int, Points] = {}
        self.reader: Along | None = None

    @rule(part=st.floats(0, 1), told=st.floats(0, 1), gap=st.booleans())
    def follow(self, part: float, told: float, gap: bool) -> None:
        if self.reader is None:
            self.reader = Along(self.root / f"reader-{self.life}", self.folder / "objects")
        following, end = self.reader.shard.next_frame, max(self.reader.frames()) + 1
        until = following + int(part * (end - following))
        known = following + int(told * (until - following)) if gap else following - int(told * 3)
        try:
            self.reader.follow(until=until, known=max(known, min(self.reader.frames())))
        except Outrun:  # the owner has removed what a reader would have to read
            self.forget()
            return
        reached = self.reader.shard.next_frame
        assert reached >= until
        expected = self.history[max(frame for frame in self.history if frame <= reached)]
        assert_same(everything(self.reader.collection), expected)
        assert self.reader.collection.count() == len(expected)

    @rule()
    def forget(self) -> None:
        if self.reader is not None:
            self.reader.close()
            assert self.reader.memory.snapshot().used == 0
            self.reader = None

    @rule()
    def crash(self) -> None:
        self.forget()  # the folder of objects is another one afterwards
        super().crash()

    @invariant()
    def remember(self) -> None:
        self.history[self.collection._shard._log._next_frame] = dict(self.model)  # type: ignore[attr-defined]

    def teardown(self) -> None:
        self.forget()
        self.store.close()
        shutil.rmtree(self.root)


TestReaderMachine = ReaderMachine.TestCase
TestReaderMachine.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
