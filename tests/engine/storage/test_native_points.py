"""Ids and versions are read from a segment's LMDB file as LMDB reads them, whatever is stored beside them."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorizer_engine._native import Points
from vectorizer_engine.storage import segment as segment_module
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.keys import decode_id, encode_id
from vectorizer_engine.storage.segment import POINTS_NAME, Segment, StoredPoint, write_segment

ONE = np.ones(1, np.int64)

ids = st.integers(0, 2**64 - 1) | st.uuids(allow_nil=True)


def write(folder: Path, points: list[StoredPoint]) -> Path:
    batches = [
        (points[i : i + 100], np.zeros((len(points[i : i + 100]), 1), np.float32))
        for i in range(0, len(points), 100)
    ]
    write_segment(folder, batches, dimension=1, files=Files())
    return folder / POINTS_NAME


def expected(points: list[StoredPoint], scores: np.ndarray) -> list[dict[str, object]]:
    return [
        {
            "id": str(found) if isinstance(found := decode_id(point.key), uuid.UUID) else found,
            "version": point.version,
            "score": score,
        }
        for point, score in zip(points, scores.tolist(), strict=True)
    ]


@settings(max_examples=40, deadline=None)
@given(
    keys=st.lists(ids, min_size=1, max_size=50, unique=True),
    sizes=st.lists(st.sampled_from([0, 1, 30, 2000, 4096, 5000, 20_000]), min_size=1, max_size=8),
    version=st.integers(0, 2**64 - 60),
)
def test_what_lmdb_holds_is_what_is_written(
    keys: list[int | uuid.UUID], sizes: list[int], version: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("points") / "segment"
    points = [
        StoredPoint(key, version + i, b"x" * sizes[i % len(sizes)])
        for i, key in enumerate(sorted(encode_id(key) for key in keys))
    ]
    write(folder, points)
    segment = Segment(folder, id=1, dimension=1)
    scores = np.random.default_rng(0).standard_normal(len(points), np.float32)
    texts = segment.hits(np.arange(len(points)), scores, np.array([len(points)]))
    assert texts is not None
    found = json.loads(texts[0])
    assert [hit | {"score": float(np.float32(hit["score"]))} for hit in found] == expected(points, scores)
    stamps = segment.stamps(range(len(points)))
    assert stamps == [(point.key, point.version) for point in segment.points(range(len(points)))]


def test_what_cannot_be_read_that_way_is_read_through_lmdb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "segment", [StoredPoint(encode_id(5), 3, b"{}")])

    def refuse(_: object) -> None:
        raise ValueError("a format of the future")

    monkeypatch.setattr(segment_module, "Points", refuse)
    segment = Segment(tmp_path / "segment", id=1, dimension=1)
    assert segment.stamps([0]) == [(encode_id(5), 3)]
    assert segment.hits(np.zeros(1, np.int64), np.zeros(1, np.float32), ONE) is None


def test_every_row_of_a_deep_table_is_found(tmp_path: Path) -> None:
    points = [StoredPoint(encode_id(3 * i), i, b"y" * (i % 700)) for i in range(20_000)]
    path = write(tmp_path / "segment", points)
    reader = Points(path.read_bytes())
    rows = np.random.default_rng(0).permutation(20_000)
    counts = np.array([0, 1, 9_999, 0, 10_000])
    texts = reader.hits(rows, np.zeros(20_000, np.float32), counts)
    assert texts is not None
    lists = [json.loads(text) for text in texts]
    assert [len(hits) for hits in lists] == counts.tolist()
    assert [(hit["id"], hit["version"]) for hits in lists for hit in hits] == [
        (3 * i, i) for i in rows.tolist()
    ]
    for absent in (-1, 20_000, 2**32, 2**40):
        assert reader.hits(np.array([absent]), np.zeros(1, np.float32), ONE) is None


@pytest.mark.parametrize("score", [0.0, 1.0, -1.0, 0.1, 1e-9, 3.4e38, 16777216.0, 1e10, -0.0, 1.5])
def test_a_score_is_written_as_a_float_as_shortly_as_it_can_be_read_back(
    score: float, tmp_path: Path
) -> None:
    path = write(tmp_path / "segment", [StoredPoint(encode_id(1), 1, b"")])
    texts = Points(path.read_bytes()).hits(np.zeros(1, np.int64), np.array([score], np.float32), ONE)
    assert texts is not None
    written = texts[0].decode().split('"score":')[1].removesuffix("}]")
    assert np.float32(written) == np.float32(score)
    assert isinstance(json.loads(written), float)
    assert len(written) <= len(str(np.float32(score))) + 1


def test_scores_that_json_cannot_say_are_null(tmp_path: Path) -> None:
    path = write(tmp_path / "segment", [StoredPoint(encode_id(1), 1, b"")])
    unusual = np.array([np.inf, np.nan], np.float32)
    texts = Points(path.read_bytes()).hits(np.zeros(2, np.int64), unusual, 2 * ONE)
    assert texts is not None
    assert [hit["score"] for hit in json.loads(texts[0])] == [None, None]


def test_whatever_a_file_holds_nothing_outside_of_it_is_read(tmp_path: Path) -> None:
    points = [
        StoredPoint(encode_id(i) if i % 2 else encode_id(uuid.UUID(int=i)), i, b"z" * (i * 7 % 6000))
        for i in range(400)
    ]
    content = write(tmp_path / "segment", sorted(points)).read_bytes()
    random = np.random.default_rng(0)
    rows, scores = np.arange(400), np.zeros(400, np.float32)
    read = 0
    for _ in range(1000):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 30)):
            page = int(random.integers(len(content) // 4096)) * 4096
            damaged[page + int(random.integers(64 if random.random() < 0.7 else 4096))] = random.integers(256)
        try:
            reader = Points(bytes(damaged))
        except ValueError:
            continue
        read += reader.hits(rows, scores, 400 * ONE) is not None
        for row in range(0, 400, 40):
            reader.hits(rows[row : row + 1], scores[:1], ONE)
    assert read > 0
    for size in (0, 100, 4096, 8191, 9000):
        try:
            assert Points(content[:size]).hits(rows, scores, 400 * ONE) is None
        except ValueError as error:
            assert "LMDB" in str(error)


def test_what_is_no_table_of_points_is_refused(tmp_path: Path) -> None:
    other = lmdb.open(str(tmp_path / "other"), subdir=False, max_dbs=1)
    other.open_db(b"pointers")
    other.close()
    for content in (b"", b"\0" * 20_000, (tmp_path / "other").read_bytes()):
        with pytest.raises(ValueError, match="LMDB"):
            Points(content)
    with pytest.raises(TypeError, match="3 arguments"):
        Points(write(tmp_path / "segment", [StoredPoint(encode_id(1), 1, b"")]).read_bytes()).hits()  # type: ignore[call-arg]


@pytest.mark.parametrize("counts", [[2], [1, 1], [-1, 1], [2**62, 1], [1, 2**63 - 1]])
def test_lists_longer_than_what_is_in_them_are_refused(counts: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "segment", [StoredPoint(encode_id(1), 1, b"")])
    with pytest.raises(ValueError, match="longer than what is in them"):
        Points(path.read_bytes()).hits(np.zeros(1, np.int64), np.zeros(1, np.float32), np.array(counts))
