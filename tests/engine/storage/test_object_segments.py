"""Segments in a shared store: the folder may be lost or damaged, the store's objects are what counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.storage.test_object_log import PREFIX, Clock, opened
from tests.engine.stores import Fault, FaultyStore, MemoryStore
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.config import StorageType
from vectorizer_engine.errors import Fenced
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.keys import encode_id
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.object_log import ObjectLog
from vectorizer_engine.storage.object_segments import ObjectSegmentStore
from vectorizer_engine.storage.object_store import Refused
from vectorizer_engine.storage.segment import Segment, StoredPoint
from vectorizer_engine.storage.segment_folder import SegmentPlace

MiB = 1024**2


def segment_place(folder: Path) -> SegmentPlace:
    return SegmentPlace(folder, 2, StorageType.MMAP, CacheMemoryManager(64 * MiB), Files())


class Pod:
    """A process that owns the shard, with a folder of its own."""

    def __init__(self, store: MemoryStore, folder: Path, *, patience: float = 0.0) -> None:
        self.clock = Clock()
        self.store = FaultyStore(store)
        garbage = Garbage(self.store, clock=self.clock)
        self.garbage = garbage
        self.log = opened(self.store, garbage=garbage, clock=self.clock, patience=patience)
        self.segments = ObjectSegmentStore(
            segment_place(folder),
            store=self.store,
            prefix=PREFIX,
            log=self.log,
            garbage=garbage,
        )
        self.opened = self.segments.open_all()
        list(self.log.replay(after=0))

    def write(self, *ids: int) -> Segment:
        points = [StoredPoint(encode_id(each), each, b"{}") for each in ids]
        return self.segments.write([(points, np.array([[each, 0] for each in ids], np.float32))])

    def publish(self, *segments: Segment) -> None:
        masks = [(segment, LiveMask.from_deleted(b"", segment.count)) for segment in segments]
        self.segments.publish(masks, applied=0, logged=0)

    def close(self) -> None:
        """Let go of the copies, which can be open once in a process."""
        self.segments.close()
        self.opened = []

    def sweep(self) -> None:
        self.clock.now += 10_000
        self.garbage.sweep()


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    ObjectLog.create(store, PREFIX)
    return store


def ids(opened: list[tuple[Segment, LiveMask]]) -> list[int]:
    return sorted(point.version for segment, live in opened for _, point in segment.scan(live))


def folders(store: MemoryStore) -> set[str]:
    return {name.split("/")[-2] for name in store.objects if "/segments/" in name}


def object_of(store: MemoryStore, file: str) -> str:
    (name,) = (name for name in store.objects if name.endswith(file))
    return name


def test_a_pod_without_a_folder_fetches_what_another_one_published(
    store: MemoryStore, tmp_path: Path
) -> None:
    first = Pod(store, tmp_path / "first")
    first.publish(first.write(1, 2, 3), first.write(4))
    second = Pod(store, tmp_path / "second")
    assert ids(second.opened) == [1, 2, 3, 4]
    np.testing.assert_array_equal(
        np.vstack([segment.vectors for segment, _ in second.opened])[:, 0], [1, 2, 3, 4]
    )


def test_a_copy_that_is_there_is_not_fetched_again(store: MemoryStore, tmp_path: Path) -> None:
    first = Pod(store, tmp_path)
    first.publish(first.write(1, 2))
    first.close()
    again = Pod(store, tmp_path)
    assert ids(again.opened) == [1, 2]
    assert not [call for call in again.store.calls if "segments/0" in call]


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove"])
def test_a_damaged_copy_is_fetched_again(store: MemoryStore, tmp_path: Path, damage: str) -> None:
    first = Pod(store, tmp_path)
    first.publish(first.write(1, 2))
    first.close()
    path = tmp_path / "segments" / "00000001" / "vectors.f32"
    content = path.read_bytes()
    path.unlink()
    if damage != "remove":
        path.write_bytes(content[:-1] + (b"" if damage == "shorten" else b"\xff"))
    assert ids(Pod(store, tmp_path).opened) == [1, 2]
    assert path.read_bytes() == content


def test_a_copy_of_another_writers_segment_with_the_same_number_does_not_count(
    store: MemoryStore, tmp_path: Path
) -> None:
    """What a pod that was fenced before it could publish leaves on its volume."""
    fenced = Pod(store, tmp_path / "fenced")
    owner = Pod(store, tmp_path / "owner")
    unpublished = fenced.write(666)
    published = owner.write(1)
    assert unpublished.id == published.id
    owner.publish(published)
    with pytest.raises(Fenced):
        fenced.publish(unpublished)
    assert ids(Pod(store, tmp_path / "fenced").opened) == [1]


@pytest.mark.parametrize("file", ["vectors.f32", "points.lmdb", "CHECKSUMS"])
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_object_sets_its_segment_aside_and_the_rest_is_served(
    store: MemoryStore, tmp_path: Path, file: str, damage: str
) -> None:
    first = Pod(store, tmp_path / "first")
    first.publish(first.write(1, 2))
    name = object_of(store, file)
    content = store.objects.pop(name)
    if damage == "flip":
        store.objects[name] = content[:-1] + bytes([content[-1] ^ 1])
    second = Pod(store, tmp_path / "second")
    assert second.opened == []
    (quarantined,) = second.segments.manifest.quarantined
    assert (quarantined.id, quarantined.points) == (1, 2)
    assert name in quarantined.reason
    assert ("is missing" if damage == "remove" else "fails its checksum") in quarantined.reason
    second.publish(second.write(3))
    second.sweep()
    third = Pod(store, tmp_path / "third")
    assert ids(third.opened) == [3]
    assert [each.id for each in third.segments.manifest.quarantined] == [1]
    assert len(folders(store)) == 2, "what is left of the damaged one stays, for whoever wants to look"


def test_what_was_replaced_goes_after_the_grace_period(store: MemoryStore, tmp_path: Path) -> None:
    pod = Pod(store, tmp_path)
    one, two = pod.write(1), pod.write(2)
    pod.publish(one, two)
    merged = pod.write(1, 2)
    pod.publish(merged)
    pod.segments.discard(one)
    pod.segments.discard(two)
    pod.garbage.sweep()
    assert len(folders(store)) == 3
    pod.sweep()
    assert len(folders(store)) == 1
    assert ids(Pod(store, tmp_path / "other").opened) == [1, 2]


def test_a_segment_that_a_checkpoint_in_doubt_names_stays_until_another_is_for_certain(
    store: MemoryStore, tmp_path: Path
) -> None:
    pod = Pod(store, tmp_path / "pod")
    segment = pod.write(1)
    pod.store.faults.append(Fault.LOST_ANSWER)
    with pytest.raises(OSError, match="did not confirm"):
        pod.publish(segment)
    pod.segments.discard(segment)
    pod.sweep()
    assert ids(Pod(store, tmp_path / "next").opened) == [1], "a crash now would make it count"


def test_a_segment_of_a_failed_checkpoint_goes_with_the_next_one(store: MemoryStore, tmp_path: Path) -> None:
    pod = Pod(store, tmp_path / "pod")
    failed = pod.write(1)
    pod.store.faults.append(Fault.LATE)
    with pytest.raises(OSError, match="did not confirm"):
        pod.publish(failed)
    pod.segments.discard(failed)
    pod.publish(pod.write(2))
    pod.store.deliver()
    pod.sweep()
    assert len(folders(store)) == 1
    assert ids(Pod(store, tmp_path / "next").opened) == [2]


def test_an_upload_that_fails_leaves_nothing_that_counts(store: MemoryStore, tmp_path: Path) -> None:
    pod = Pod(store, tmp_path / "pod")
    pod.store.upload = _refuse  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no permission"):
        pod.write(1)
    assert list((tmp_path / "pod" / "segments").iterdir()) == []
    del pod.store.upload
    pod.publish(pod.write(2))
    assert ids(Pod(store, tmp_path / "next").opened) == [2]


def test_a_segment_that_nobody_can_know_of_goes_at_once(store: MemoryStore, tmp_path: Path) -> None:
    pod = Pod(store, tmp_path / "pod")
    pod.segments.discard(pod.write(1))
    assert folders(store) == set()
    again = pod.write(2)
    pod.store.faults.append(Fault.UNAVAILABLE)
    pod.segments.discard(again)
    assert len(folders(store)) == 1, "left to the next opening"


def test_a_folder_that_vanishes_while_it_is_uploaded_is_not_tried_again(
    store: MemoryStore, tmp_path: Path
) -> None:
    pod = Pod(store, tmp_path / "pod", patience=30.0)
    upload = pod.store.upload

    def vanish(name: str, file: Path) -> None:
        file.unlink()
        upload(name, file)

    pod.store.upload = vanish  # type: ignore[method-assign]
    with pytest.raises(FileNotFoundError):
        pod.write(1)


def _refuse(name: str, file: Path) -> None:
    raise Refused("no permission")


def test_what_a_killed_pod_never_published_goes_after_the_next_ones_checkpoint(
    store: MemoryStore, tmp_path: Path
) -> None:
    killed = Pod(store, tmp_path / "killed")
    killed.write(1)
    owner = Pod(store, tmp_path / "owner")
    owner.publish(owner.write(2))
    owner.sweep()
    assert len(folders(store)) == 1


def test_a_sweeper_that_slept_takes_nothing_of_its_successors(store: MemoryStore, tmp_path: Path) -> None:
    sleeper = Pod(store, tmp_path / "sleeper")
    sleeper.publish(sleeper.write(1))
    successor = Pod(store, tmp_path / "successor")
    successor.publish(*[segment for segment, _ in successor.opened], successor.write(2))
    sleeper.sweep()
    with pytest.raises(Fenced):
        sleeper.publish(sleeper.write(3))
    sleeper.sweep()
    assert ids(Pod(store, tmp_path / "another").opened) == [1, 2]
