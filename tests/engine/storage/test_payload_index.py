"""The files of payload indexes: what was added is found, with a bounded heap, and damage is seen."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pyroaring import BitMap

from vectorizer_engine.errors import StoreCorrupt, StoreVersionError
from vectorizer_engine.storage import payload_index, payload_index_writer
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.payload_index import ColumnIndex, FieldType, Flag, TermIndex, open_field_index
from vectorizer_engine.storage.payload_index_writer import FieldWriter, TermWriter
from vectorizer_engine.storage.section_file import SectionWriter

ROWS = 3000


def writer(folder: Path, type: FieldType) -> FieldWriter:
    return FieldWriter(type, scratch=folder, files=Files())


def keywords(folder: Path, terms: list[list[bytes]]) -> TermIndex:
    """The index of rows with these terms each."""
    field = writer(folder, FieldType.KEYWORD)
    assert isinstance(field.values, TermWriter)
    for row, of_row in enumerate(terms):
        for term in of_row:
            field.values.add(term, row)
        field.flags[Flag.INDEXED].add(row)
    field.write(folder / "index", rows=len(terms))
    field.close()
    index = open_field_index(folder / "index", FieldType.KEYWORD, len(terms))
    assert isinstance(index, TermIndex)
    return index


@pytest.mark.parametrize("run_bytes", [500, 20_000, payload_index_writer.RUN_BYTES])
def test_terms_are_found_however_many_runs_they_were_sorted_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_bytes: int
) -> None:
    monkeypatch.setattr(payload_index_writer, "RUN_BYTES", run_bytes)
    terms = [[b"all", b"of %d" % (row % 7), b"one %d" % row, b"all"] for row in range(ROWS)]
    index = keywords(tmp_path, terms)
    assert index.rows_of(b"all") == BitMap(range(ROWS)) == index.flagged(Flag.INDEXED)
    assert index.rows_of(b"of 3") == BitMap(range(3, ROWS, 7))
    assert index.rows_of(b"one 77") == BitMap([77])
    assert [len(index.rows_of(absent)) for absent in (b"", b"al", b"all\0", b"zzz")] == [0, 0, 0, 0]
    assert index.rows_of_prefix(b"one 77") == BitMap([77, *range(770, 780)])
    assert index.rows_of_prefix(b"") == BitMap(range(ROWS))
    assert index.rows_of_prefix(b"x") == BitMap()
    assert not index.flagged(Flag.NULL)


def test_an_index_of_nothing_finds_nothing(tmp_path: Path) -> None:
    assert keywords(tmp_path, []).rows_of(b"a") == BitMap()
    column = writer(tmp_path, FieldType.FLOAT)
    column.write(tmp_path / "column", rows=5)
    column.close()
    index = open_field_index(tmp_path / "column", FieldType.FLOAT, 5)
    assert isinstance(index, ColumnIndex)
    assert index.rows_between(-np.inf, np.inf) == BitMap()


@pytest.mark.parametrize("type", [FieldType.INTEGER, FieldType.FLOAT])
def test_a_column_finds_what_comparing_every_value_finds(tmp_path: Path, type: FieldType) -> None:
    values = np.random.default_rng(0).integers(-20, 20, ROWS)
    field = writer(tmp_path, type)
    for row, value in enumerate(values.tolist()):
        field.values.add(value, row)  # type: ignore[arg-type]
    field.write(tmp_path / "index", rows=ROWS)
    field.close()
    index = open_field_index(tmp_path / "index", type, ROWS)
    assert isinstance(index, ColumnIndex)
    for low, high in ((-5, 5), (0, 0), (5, -5), (-100, 100), (19, 100)):
        for low_included in (True, False):
            for high_included in (True, False):
                found = index.rows_between(low, high, low_included=low_included, high_included=high_included)
                above = values >= low if low_included else values > low
                below = values <= high if high_included else values < high
                assert found == BitMap(np.flatnonzero(above & below).tolist())


@pytest.mark.parametrize("kind", ["many terms", "few terms", "words", "column"])
def test_what_a_writer_holds_is_what_it_says(tmp_path: Path, kind: str) -> None:
    field = writer(tmp_path, FieldType.FLOAT if kind == "column" else FieldType.KEYWORD)
    rows = 20_000
    tracemalloc.start()
    try:
        start, said = tracemalloc.get_traced_memory()[0], 0
        for row in range(rows):
            match kind:
                case "column":
                    field.values.add(row * 7919 % rows / 2, row)  # type: ignore[arg-type]
                case "many terms":
                    field.values.add(b"term %d" % (row * 7919 % rows), row)  # type: ignore[arg-type]
                case "few terms":
                    field.values.add(b"%d" % (row % 5), row)  # type: ignore[arg-type]
                case "words":
                    for word in range(5):
                        field.values.add(b"%d" % (row * 31 * (word + 1) % 9000), row)  # type: ignore[arg-type]
            if row % 1000 == 0:
                said = field.heap_bytes(rows)
                assert tracemalloc.get_traced_memory()[0] - start <= said
        tracemalloc.reset_peak()
        field.write(tmp_path / "index", rows=rows)
        peak = tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()
        field.close()
    assert peak <= field.heap_bytes(rows)
    assert field.heap_bytes(rows) <= 3 * peak + 2 * payload_index_writer.RUN_BYTES


def test_every_flipped_bit_is_seen_when_an_index_is_opened(tmp_path: Path) -> None:
    keywords(tmp_path, [[b"a"], [b"b"]])
    content = (tmp_path / "index").read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "damaged").unlink(missing_ok=True)
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(StoreCorrupt, match="damaged"):
            open_field_index(tmp_path / "damaged", FieldType.KEYWORD, 2)


def test_an_index_of_something_else_or_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    keywords(tmp_path, [[b"a"], [b"b"]])
    for type, rows in ((FieldType.UUID, 2), (FieldType.KEYWORD, 3)):
        with pytest.raises(StoreCorrupt, match="is a keyword index of 2 rows"):
            open_field_index(tmp_path / "index", type, rows)
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        open_field_index(tmp_path / "nowhere", FieldType.KEYWORD, 2)
    with SectionWriter(tmp_path / "newer", files=Files()) as out:
        out.finish({"format": payload_index.FORMAT + 1})
    with pytest.raises(StoreVersionError, match="has format 2"):
        open_field_index(tmp_path / "newer", FieldType.KEYWORD, 2)
