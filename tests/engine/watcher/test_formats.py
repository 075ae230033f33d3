"""What each format of points is read into, and what is refused."""

from __future__ import annotations

import io
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format
from pyarrow import parquet

from tests.engine.watcher.inbox import DIMENSION, line
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.ingest import jsonl
from vectorizer_engine.ingest.batch import (
    BATCH_BYTES,
    Batch,
    FileIncomplete,
    FileRefused,
    Progress,
    checksums,
)
from vectorizer_engine.ingest.formats import FORMATS


def read(
    path: Path, since: Progress | None = None, *, dimension: int = DIMENSION
) -> tuple[list[Batch], str | None]:
    """The batches with something in them, and what is said of a missing rest."""
    params = CollectionParams(dimension=dimension, distance=Distance.DOT)
    batches = []
    with path.open("rb") as file:
        try:
            for batch in FORMATS[path.suffix].read(file, since or Progress(), params):
                assert batch.vectors.shape == (len(batch.ids), dimension)
                assert batch.vectors.dtype == np.float32
                assert len(batch.numbers) == len(batch.payloads) == len(batch.ids)
                batches.append(batch)
        except FileIncomplete as error:
            return batches, str(error)
    return batches, None


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(FileRefused) as error:
        read(path, **options)
    return str(error.value)


# --- .jsonl --------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    texts=st.lists(st.text(max_size=20), max_size=8), cuts=st.lists(st.integers(0, 600)), ended=st.booleans()
)
def test_lines_that_are_written_in_any_pieces_are_read_once_each(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cuts: list[int], ended: bool
) -> None:
    content = "".join(line(number, text=text) for number, text in enumerate(texts)).encode()
    content = content if ended else content.removesuffix(b"\n")
    path = tmp_path_factory.mktemp("pieces") / "a.jsonl"
    progress = Progress()
    found = []
    for cut in [*sorted(cuts), len(content)]:
        path.write_bytes(content[:cut])
        batches, _ = read(path, progress)
        for batch in batches:
            assert batch.bad_rows == []
            found += [(point, payload) for point, payload in zip(batch.ids, batch.payloads, strict=True)]
            progress = batch.progress
    assert found == [(number, {"text": text}) for number, text in enumerate(texts)]
    assert progress.rows >= len(texts)
    with path.open("rb") as file:
        assert list(checksums(file, progress.position))[-1:] == ([progress.crc] if progress.position else [])


def test_a_batch_is_bounded_in_points_and_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(line(number) for number in range(2_500)))
    batches, _ = read(path)
    assert [len(batch.ids) for batch in batches] == [1_000, 1_000, 500]
    path.write_text("".join(line(number, text="x" * 1_000_000) for number in range(9)))
    batches, _ = read(path)
    assert [len(batch.ids) for batch in batches] == [5, 4]
    np.save(tmp_path / "a.npy", np.ones((20, 60_000), np.float32))
    batches, _ = read(tmp_path / "a.npy", dimension=60_000)
    assert [len(batch.ids) for batch in batches] == [17, 3]
    assert batches[0].vectors.nbytes <= BATCH_BYTES


def test_a_line_that_is_too_long_is_skipped_without_being_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 200)
    path = tmp_path / "a.jsonl"
    path.write_text(line(0) + line(1, text="x" * 1_000) + line(2))
    [batch], rest = read(path)
    assert rest is None
    assert (batch.ids, batch.progress.rows) == ([0, 2], 3)
    assert batch.bad_rows == [(2, "is longer than 200 bytes")]
    assert batch.progress.position == path.stat().st_size
    with path.open("rb") as file:
        [crc] = checksums(file, batch.progress.position)
    assert crc == batch.progress.crc
    path.write_text(line(0) + line(1, text="x" * 1_000).removesuffix("\n"))
    [batch], rest = read(path)
    assert (batch.ids, rest) == ([0], "line 2 has no end")


def test_nested_too_deeply_is_a_bad_line_and_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "vector": [1,2,3,4], "payload": {"a": ' + "[" * 100_000 + "\n" + line(2))
    [batch], _ = read(path)
    assert batch.ids == [2]
    assert [row.number for row in batch.bad_rows] == [1]


def test_what_is_appended_while_a_file_is_read_is_left_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line(0))
    params = CollectionParams(dimension=DIMENSION, distance=Distance.DOT)
    with path.open("rb") as file:
        batches = FORMATS[".jsonl"].read(file, Progress(), params)
        first = next(batches)
        path.write_text(line(0) + line(1))
        assert list(batches) == []
    [second], _ = read(path, first.progress)
    assert second.ids == [1]


# --- .npy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", ">f8"])
def test_floats_of_any_size_and_order_are_read(tmp_path: Path, dtype: str) -> None:
    vectors = np.arange(40, dtype=dtype).reshape(10, 4)
    np.save(tmp_path / "a.npy", vectors)
    [batch], _ = read(tmp_path / "a.npy")
    assert np.array_equal(batch.vectors, vectors)
    assert batch.ids == list(range(10))


def test_an_array_goes_on_where_it_was_left(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2_500, 4)))
    batches, _ = read(tmp_path / "a.npy")
    rest, _ = read(tmp_path / "a.npy", batches[0].progress)
    assert [batch.ids[0] for batch in rest] == [1_000, 2_000]
    assert rest[-1].progress == batches[-1].progress


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((2, 4), np.int64), "holds int64 numbers"),
        (np.ones((2, 4), np.longdouble), "holds float128 numbers"),
        (np.array([[None]]), "holds object numbers"),
        (np.ones(4), "shape (4,): expected two axes, points and 4 numbers"),
        (np.ones((2, 3)), "has a vector of dimension 3, and the collection's have 4"),
        (np.ones((2, 4), order="F"), "holds its array by columns: save numpy.ascontiguousarray of it"),
    ],
)
def test_an_array_that_holds_no_vectors_is_refused(tmp_path: Path, array: Any, reason: str) -> None:
    np.save(tmp_path / "a.npy", array)
    assert reason in refused(tmp_path / "a.npy")


def test_an_array_that_is_none_or_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_text("1, 2, 3")
    assert refused(path) == "is no .npy file: write it with numpy.save"
    whole = io.BytesIO()
    np.save(whole, np.ones((2, 4)))
    path.write_bytes(whole.getvalue() + b"more")
    assert "save one array in a file" in refused(path)
    path.write_bytes(b"\x93NUMPY\x09\x00")
    assert "has .npy format 9.0" in refused(path)
    path.write_bytes(b"\x93NUMPY\x01\x00\x04\x00nope")
    assert "has a header that cannot be read" in refused(path)


def test_every_beginning_of_an_array_is_called_incomplete(tmp_path: Path) -> None:
    whole = io.BytesIO()
    npy_format.write_array(whole, np.ones((2, 4)), version=(2, 0))
    content = whole.getvalue()
    path = tmp_path / "a.npy"
    for end in range(len(content)):
        path.write_bytes(content[:end])
        batches, rest = read(path)
        assert (batches, rest is None) == ([], False)
    path.write_bytes(content)
    assert read(path)[1] is None


def test_an_array_that_is_cut_short_while_it_is_read_is_called_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones((100_000, 4)))
    params = CollectionParams(dimension=DIMENSION, distance=Distance.DOT)
    with path.open("rb") as file:
        batches = FORMATS[".npy"].read(file, Progress(), params)
        next(batches)
        with path.open("r+b") as other:
            other.truncate(100_000)
        with pytest.raises(FileIncomplete, match="while it was read"):
            list(batches)


# --- .parquet ------------------------------------------------------------------------------------------


def table(path: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def floats(*rows: list[float] | None) -> Any:
    return pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))


def test_a_table_is_read_in_batches_and_its_progress_is_all_or_nothing(tmp_path: Path) -> None:
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ones(10_000), pyarrow.float64()), 4)
    path = table(tmp_path / "a.parquet", id=pyarrow.array(range(2_500), pyarrow.uint64()), vector=vectors)
    batches, _ = read(path)
    assert [len(batch.ids) for batch in batches if batch.ids] == [1_000, 1_000, 500]
    assert {batch.progress for batch in batches[:-1]} == {Progress()}
    assert batches[-1].progress.position == path.stat().st_size
    assert read(path, batches[-1].progress) == ([], None)


def test_bad_rows_of_a_table_are_left_out(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.parquet",
        id=pyarrow.array([1, -2, 3, None, 5], pyarrow.int64()),
        vector=floats([1, 2, 3, 4], [1, 2, 3, 4], [1, 2], [1, 2, 3, 4], None),
        tags=[["a", "b"], [], [], [], []],
    )
    batches, _ = read(path)
    [batch] = [batch for batch in batches if batch.ids]
    assert (batch.ids, batch.payloads) == ([1], [{"tags": ["a", "b"]}])
    assert [(row.number, row.reason.partition(":")[0]) for row in batch.bad_rows] == [
        (1, "id"),
        (2, "has a vector of dimension 2, and the collection's have 4"),
        (3, "id"),
        (4, "has no vector"),
    ]


def test_ids_of_a_table_may_be_uuids_as_text_or_as_such(tmp_path: Path) -> None:
    name = uuid.uuid4()
    for ids in (pyarrow.array([str(name)]), pyarrow.array([name.bytes], pyarrow.uuid())):
        batches, _ = read(table(tmp_path / "a.parquet", id=ids, vector=floats([1, 2, 3, 4])))
        assert [point for batch in batches for point in batch.ids] == [name]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"key": [1], "vector": floats([1.0])}, "has the columns key, vector: expected one named id"),
        ({"id": [1], "text": ["a"]}, "has the columns id, text: expected one named vector"),
        ({"id": [1], "vector": ["[1, 2]"]}, "has a column vector of type string"),
        ({"id": [1], "vector": [[1, 2]]}, "has a column vector of type list<element: int64>"),
    ],
)
def test_a_table_without_ids_or_vectors_is_refused(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    assert reason in refused(table(tmp_path / "a.parquet", **columns))


def test_a_table_that_is_none_is_refused_and_a_beginning_of_one_is_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text(json.dumps({"id": 1}))
    assert refused(path) == "is no Parquet file"
    table(path, id=[1], vector=floats([1, 2, 3, 4]))
    content = path.read_bytes()
    for end in (0, 2, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        assert read(path)[1] == "its footer is missing"
    path.write_bytes(content[:20] + bytes(len(content) - 28) + content[-8:])
    assert "cannot be read as Parquet" in refused(path)
