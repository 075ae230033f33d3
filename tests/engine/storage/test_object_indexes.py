"""Index files in a shared store: whoever fetches a segment has its index, or builds one where that is of no use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.storage.test_object_log import PREFIX
from tests.engine.storage.test_object_segments import Pod, ids, segment_place
from tests.engine.stores import Fault, MemoryStore
from vectorizer_engine.errors import Fenced, StoreCorrupt
from vectorizer_engine.index import quantized
from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.index.base import Distance
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.followed_segments import FollowedSegments
from vectorizer_engine.storage.object_log import ObjectLog
from vectorizer_engine.storage.object_segments import copy_segments_ahead
from vectorizer_engine.storage.payload_index import SUFFIX, FieldType
from vectorizer_engine.storage.payload_index_writer import FieldWriter
from vectorizer_engine.storage.segment import Segment

VERSION = BACKENDS[SegmentLayout.HNSW_SQ8].version


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    ObjectLog.create(store, PREFIX)
    return store


def build(segment: Segment) -> Path:
    path = segment.folder / quantized.FILE_NAME
    quantized.build(path, segment.vectors, Distance.DOT, threads=1, files=Files())
    return path


def build_for_payloads(segment: Segment, folder: Path) -> Path:
    path = segment.folder / f"0123456789abcdef{SUFFIX}"
    writer = FieldWriter(FieldType.KEYWORD, scratch=folder, files=Files())
    writer.write(path, rows=segment.count)
    writer.close()
    return path


def publish_with_index(pod: Pod) -> tuple[Segment, Path]:
    segment = pod.write(1, 2, 3)
    pod.publish(segment)
    path = build(segment)
    pod.segments.keep_index(segment.id, path)
    return segment, path


def indexes(store: MemoryStore) -> list[str]:
    return [name for name in store.objects if "/index." in name or SUFFIX in name]


def place_at(folder: Path, segment: Segment) -> Path:
    return folder / "segments" / segment.folder.name / quantized.FILE_NAME


def test_whoever_fetches_a_segment_has_its_indexes_too(store: MemoryStore, tmp_path: Path) -> None:
    owner = Pod(store, tmp_path / "owner")
    segment, path = publish_with_index(owner)
    fields = build_for_payloads(segment, tmp_path)
    owner.segments.keep_index(segment.id, fields)
    next_owner = Pod(store, tmp_path / "next")
    assert ids(next_owner.opened) == [1, 2, 3]
    copy_segments_ahead(
        store, PREFIX, tmp_path / "ahead", files=Files(), admit=lambda nbytes: True, wanted=lambda: True
    )
    for folder in (tmp_path / "next", tmp_path / "ahead"):
        fetched = place_at(folder, segment)
        assert fetched.read_bytes() == path.read_bytes()
        assert fetched.with_name(fields.name).read_bytes() == fields.read_bytes()
    assert not next_owner.segments.lacks_index(segment.id, path)


def test_who_reads_a_shard_along_has_the_indexes_that_there_are_by_then(
    store: MemoryStore, tmp_path: Path
) -> None:
    owner = Pod(store, tmp_path / "owner")
    segment = owner.write(1, 2)
    owner.publish(segment)
    reader = FollowedSegments(segment_place(tmp_path / "reader"), store=store, prefix=PREFIX)
    place = place_at(tmp_path / "reader", segment)
    state = owner.log.checkpoint.state
    assert len(reader.open(state)) == 1
    assert not place.exists()
    path = build(segment)
    owner.segments.keep_index(segment.id, path)
    assert len(reader.open(state)) == 1
    assert place.read_bytes() == path.read_bytes()


def test_an_index_is_put_into_the_store_once(store: MemoryStore, tmp_path: Path) -> None:
    owner = Pod(store, tmp_path)
    segment = owner.write(1)
    path = build(segment)
    assert owner.segments.lacks_index(segment.id, path)
    owner.segments.keep_index(segment.id, path)
    assert not owner.segments.lacks_index(segment.id, path)
    assert len(indexes(store)) == 1


def test_an_index_that_is_there_already_is_not_fetched(store: MemoryStore, tmp_path: Path) -> None:
    owner = Pod(store, tmp_path)
    publish_with_index(owner)
    owner.close()
    assert not [call for call in Pod(store, tmp_path).store.calls if "segments/0" in call]


@pytest.mark.parametrize(
    "other", ["1-0000000000000000", f"{VERSION[:-1]}{'0' if VERSION[-1] != '0' else '1'}"]
)
def test_an_index_of_another_format_or_with_other_parameters_is_not_looked_at(
    store: MemoryStore, tmp_path: Path, other: str
) -> None:
    owner = Pod(store, tmp_path / "owner")
    segment, path = publish_with_index(owner)
    (name,) = indexes(store)
    store.objects[name.replace(VERSION, other)] = store.objects.pop(name)
    next_owner = Pod(store, tmp_path / "next")
    assert not place_at(tmp_path / "next", segment).exists()
    assert not [call for call in next_owner.store.calls if other in call]
    assert next_owner.segments.lacks_index(segment.id, path)


def test_an_index_that_was_not_built_as_it_would_be_now_is_not_handed_on(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Pod(store, tmp_path)
    segment = owner.write(1, 2)
    monkeypatch.setattr(quantized, "RECIPE", bytes(8))
    owner.segments.keep_index(segment.id, build(segment))
    assert not indexes(store)


@pytest.mark.parametrize("damage", ["flip", "shorten", "lengthen"])
def test_a_damaged_index_object_is_removed_and_costs_nothing_but_a_build(
    store: MemoryStore, tmp_path: Path, damage: str
) -> None:
    segment, path = publish_with_index(Pod(store, tmp_path / "owner"))
    (name,) = indexes(store)
    content = store.objects[name]
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    store.objects[name] = {"flip": flipped, "shorten": content[:-1], "lengthen": content + b"."}[damage]
    next_owner = Pod(store, tmp_path / "next")
    assert ids(next_owner.opened) == [1, 2, 3]
    assert not list(place_at(tmp_path / "next", segment).parent.glob("index.*"))
    assert not indexes(store)
    assert next_owner.segments.lacks_index(segment.id, path)


@pytest.mark.parametrize("failure", ["lost", "unavailable"])
def test_an_index_object_that_cannot_be_read_costs_nothing_but_a_build(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr("vectorizer_engine.storage.object_indexes._PATIENCE", 0.0)
    segment, _ = publish_with_index(Pod(store, tmp_path / "owner"))
    (name,) = indexes(store)
    read = MemoryStore.read

    def fail(store: MemoryStore, wanted: str) -> bytes:
        if wanted == name:
            if failure == "unavailable":
                raise OSError("service unavailable")
            store.objects.pop(name, None)
        return read(store, wanted)

    monkeypatch.setattr(MemoryStore, "read", fail)
    next_owner = Pod(store, tmp_path / "next")
    assert ids(next_owner.opened) == [1, 2, 3]
    assert not list(place_at(tmp_path / "next", segment).parent.glob("index.*"))


def test_an_index_goes_with_its_segment(store: MemoryStore, tmp_path: Path) -> None:
    owner = Pod(store, tmp_path)
    segment, _ = publish_with_index(owner)
    merged = owner.write(1, 2, 3, 4)
    owner.publish(merged)
    owner.segments.discard(segment)
    assert indexes(store)  # for those who fetch it at this moment
    owner.sweep()
    assert not indexes(store)


def test_an_index_that_is_put_while_its_segment_is_replaced_goes_too(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Pod(store, tmp_path)
    segment = owner.write(1, 2)
    owner.publish(segment)
    path = build(segment)
    upload = MemoryStore.upload

    def replace_first(store: MemoryStore, name: str, file: Path) -> None:
        upload(store, name, file)
        if "/index." in name:
            owner.publish(owner.write(1, 2, 3))
            owner.segments.discard(segment)

    monkeypatch.setattr(MemoryStore, "upload", replace_first)
    owner.segments.keep_index(segment.id, path)
    assert indexes(store)
    owner.sweep()
    assert not indexes(store)


def test_an_index_of_an_owner_that_was_replaced_goes_with_the_next_opening(
    store: MemoryStore, tmp_path: Path
) -> None:
    former = Pod(store, tmp_path / "former")
    segment = former.write(1, 2)
    former.publish(segment)
    owner = Pod(store, tmp_path / "owner")
    former.segments.keep_index(segment.id, build(segment))  # it does not know yet
    ((taken, _),) = owner.opened
    owner.publish(owner.write(1, 2, 3))
    owner.segments.discard(taken)
    owner.sweep()
    assert indexes(store)
    last = Pod(store, tmp_path / "last")
    last.publish(last.write(4))
    last.sweep()
    assert not indexes(store)


@pytest.mark.parametrize("deleted", [False, True], ids=["taken-over", "deleted"])
def test_an_index_that_is_put_while_its_shard_is_taken_away_stays_as_long_as_its_segment_does(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    former = Pod(store, tmp_path / "former")
    segment = former.write(1, 2)
    former.publish(segment)
    path = build(segment)
    upload = MemoryStore.upload
    taken: list[Pod] = []

    def take_away(store: MemoryStore, name: str, file: Path) -> None:
        upload(store, name, file)
        taken.append(Pod(store, tmp_path / "owner"))
        former.clock.now += 1  # so that it asks whether it is the owner still
        if deleted:
            store.delete([each for each in store.objects if "/segments/" in each and each != name])

    monkeypatch.setattr(MemoryStore, "upload", take_away)
    with pytest.raises(Fenced):
        former.segments.keep_index(segment.id, path)
    assert bool(indexes(store)) is not deleted
    assert not taken[0].segments.lacks_index(segment.id, path)


def test_a_file_that_is_no_index_is_not_put_into_the_store(store: MemoryStore, tmp_path: Path) -> None:
    owner = Pod(store, tmp_path)
    segment = owner.write(1, 2)
    path = segment.folder / quantized.FILE_NAME
    path.write_bytes(b"half an index")
    with pytest.raises(StoreCorrupt):
        owner.segments.keep_index(segment.id, path)
    assert not indexes(store)


def test_an_upload_that_fails_is_told_to_who_can_try_it_again(store: MemoryStore, tmp_path: Path) -> None:
    owner = Pod(store, tmp_path)
    segment = owner.write(1, 2)
    path = build(segment)
    owner.store.faults.extend([Fault.UNAVAILABLE] * 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vectorizer_engine.storage.object_store._FIRST_PAUSE", 60.0)
        with pytest.raises(OSError, match="service unavailable"):
            owner.segments.keep_index(segment.id, path)
    assert owner.segments.lacks_index(segment.id, path)
