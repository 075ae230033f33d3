"""Segments, masks, keys and manifests: what is written comes back, what is damaged is named."""

from __future__ import annotations

import resource
import tracemalloc
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer_engine.errors import InvalidPoint, StoreCorrupt
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.keys import PointId, decode_id, encode_id
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.manifest import Manifest, SegmentEntry, read_manifest, write_manifest
from vectorizer_engine.storage.segment import Segment, StoredPoint, verify_segment, write_segment

ids = st.one_of(st.integers(0, 2**64 - 1), st.uuids())


@given(st.lists(ids, max_size=30))
def test_keys_sort_as_ids_do_and_give_them_back(points: list[PointId]) -> None:
    assert [decode_id(encode_id(point)) for point in points] == points
    ordered = sorted(
        points, key=lambda p: (isinstance(p, uuid.UUID), p.int if isinstance(p, uuid.UUID) else p)
    )
    assert sorted(points, key=encode_id) == ordered


@pytest.mark.parametrize("point", [-1, 2**64])
def test_an_integer_that_is_no_id_is_refused(point: int) -> None:
    with pytest.raises(InvalidPoint, match="use an integer from 0 to 18446744073709551615 or a UUID"):
        encode_id(point)


@given(st.data())
def test_a_mask_is_the_set_it_was_made_of(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 100))
    mask, model = LiveMask.none(capacity), set[int]()
    filled = 0
    for _ in range(data.draw(st.integers(0, 8))):
        if filled < capacity and data.draw(st.booleans()):
            stop = data.draw(st.integers(filled, capacity))
            mask = mask.with_range(range(filled, stop))
            model |= set(range(filled, stop))
            filled = stop
        elif model:
            gone = data.draw(st.lists(st.sampled_from(sorted(model)), unique=True))
            before = mask.offsets().tolist()
            smaller = mask.without(gone)
            assert mask.offsets().tolist() == before, "readers keep what they have"
            mask = smaller
            model -= set(gone)
    assert mask.offsets().tolist() == sorted(model)
    assert mask.count == len(model)
    assert [offset in mask for offset in range(capacity)] == [offset in model for offset in range(capacity)]
    again = LiveMask.from_deleted(mask.deleted(capacity), capacity)
    assert again.offsets().tolist() == sorted(model)


POINTS = [StoredPoint(encode_id(n * 3), n, b'{"n":%d}' % n if n % 2 else b"") for n in range(2500)]
VECTORS = np.arange(2500 * 3, dtype=np.float32).reshape(2500, 3)


def batches(step: int = 1000) -> list[tuple[list[StoredPoint], np.ndarray]]:
    return [(POINTS[i : i + step], VECTORS[i : i + step]) for i in range(0, len(POINTS), step)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "segments" / "00000001"
    target.parent.mkdir(exist_ok=True)
    assert write_segment(target, batches(), dimension=3, files=Files()) == 2500
    return target


def test_a_segment_gives_back_what_was_written(folder: Path) -> None:
    verify_segment(folder)
    segment = Segment(folder, id=1, dimension=3)
    np.testing.assert_array_equal(segment.vectors, VECTORS)
    assert not segment.vectors.flags.writeable
    assert segment.points([0, 1, 2499]) == [POINTS[0], POINTS[1], POINTS[2499]]
    assert segment.find([encode_id(3), encode_id(4), encode_id(0)]) == [1, None, 0]
    live = LiveMask.from_deleted(b"", 2500).without([1, 2])
    assert [offset for offset, _ in segment.scan(live)] == [0, *range(3, 2500)]
    assert [offset for offset, _ in segment.scan(live, encode_id(7000))] == list(range(2334, 2500))
    assert list(segment.scan(live, encode_id(10_000))) == []


def test_a_segment_can_be_opened_again_while_somebody_reads_it(folder: Path) -> None:
    first = Segment(folder, id=1, dimension=3)
    scan = first.scan(LiveMask.from_deleted(b"", first.count))
    assert next(scan) == (0, POINTS[0])
    second = Segment(folder, id=1, dimension=3)
    del first
    assert second.points([2499]) == [POINTS[2499]]
    del second
    assert [point for _, point in scan] == POINTS[1:]


def test_a_segment_whose_files_do_not_fit_together_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreCorrupt, match="has format 1 and dimension 3, expected 1 and 4"):
        Segment(folder, id=1, dimension=4)
    other = tmp_path / "segments" / "00000002"
    write_segment(other, batches()[:1], dimension=3, files=Files())
    (folder / "points.lmdb").write_bytes((other / "points.lmdb").read_bytes())
    with pytest.raises(StoreCorrupt, match=r"holds 1000 points, but vectors.f32 holds 2500"):
        Segment(folder, id=1, dimension=3)


def test_vectors_that_are_cut_or_of_another_kind_are_refused(folder: Path) -> None:
    path = folder / "vectors.f32"
    data = path.read_bytes()
    for content, message in (
        (data[:-4], "bytes, expected"),
        (data[:10], "shorter than its header"),
        (b"x" * len(data), "does not begin with the header"),
    ):
        path.write_bytes(content)
        with pytest.raises(StoreCorrupt, match=message):
            Segment(folder, id=1, dimension=3)
    path.unlink()
    with pytest.raises(StoreCorrupt, match="is missing"):
        Segment(folder, id=1, dimension=3)


def test_points_that_are_no_database_are_refused(folder: Path) -> None:
    (folder / "points.lmdb").write_bytes(b"not LMDB" * 4096)
    with pytest.raises(StoreCorrupt, match=r"points.lmdb cannot be read"):
        Segment(folder, id=1, dimension=3)


@pytest.mark.parametrize("name", ["vectors.f32", "points.lmdb", "CHECKSUMS"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StoreCorrupt, match=f"{name} is missing"):
        verify_segment(folder)


def test_a_manifest_comes_back_and_every_flipped_bit_in_it_is_noticed(tmp_path: Path) -> None:
    manifest = Manifest(applied=7, logged=9, next_segment=3, segments=(SegmentEntry(2, 10, b"bits"),))
    write_manifest(tmp_path, manifest, files=Files())
    assert read_manifest(tmp_path) == manifest
    path = tmp_path / "MANIFEST"
    data = path.read_bytes()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1
        path.write_bytes(broken)
        with pytest.raises(StoreCorrupt, match="fails its checksum"):
            read_manifest(tmp_path)
    path.unlink()
    with pytest.raises(StoreCorrupt, match="is missing"):
        read_manifest(tmp_path)


LONG = [StoredPoint(encode_id(n), n, b'"%s"' % (b"%02d" % n * 2**19)) for n in range(24)]
"""Payloads of 1 MiB."""


@pytest.fixture
def long_payloads(tmp_path: Path) -> Segment:
    rows = np.zeros((1, 3), np.float32)
    target = tmp_path / "segments" / "00000002"
    target.parent.mkdir(exist_ok=True)
    write_segment(target, (([point], rows) for point in LONG), dimension=3, files=Files())
    return Segment(target, id=2, dimension=3)


def test_key_and_version_are_read_without_touching_the_payload(long_payloads: Segment) -> None:
    def page_faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    before = page_faults()
    assert long_payloads.stamps([7, 3]) == [(encode_id(7), 7), (encode_id(3), 3)]
    assert long_payloads.payload_size(7) == 2**20 + 2
    assert long_payloads.payload(7, 2**20 - 1, 2**20 + 9) == b'07"'
    touched = page_faults() - before
    assert touched < 200, "of 512 pages that two payloads fill"
    assert long_payloads.payload(7) == LONG[7].payload


def test_a_scan_holds_about_a_megabyte_of_payloads(long_payloads: Segment) -> None:
    live = LiveMask.from_deleted(b"", 24)
    tracemalloc.start()
    try:
        for (offset, point), expected in zip(long_payloads.scan(live), LONG, strict=True):
            assert (offset, point) == (expected.version, expected)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * 2**20
    assert list(long_payloads.scan_keys(live, encode_id(22))) == [(22, encode_id(22)), (23, encode_id(23))]
