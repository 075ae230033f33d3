"""Writing the index of a payload field with a bounded heap, whatever the segment's size.

Terms are gathered in runs of a megabyte; a full run is sorted into a scratch file, and the runs are merged
at the end. Columns are sorted on the heap: 34 bytes a value. Each writer says how much it holds (`heap_bytes`),
for whoever reserves it.

Rows are added in ascending order. See `payload_index` for what the files hold.
"""

from __future__ import annotations

import heapq
import itertools
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from pyroaring import BitMap

from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.payload_index import COLUMN_DTYPES, ENTRY, FORMAT, FieldType, Flag
from vectorizer_engine.storage.section_file import SectionWriter

RUN_BYTES = 1024**2
"""Heap of a run before it goes to the scratch file."""

# Measured, see tests/engine/storage/test_payload_index.py.
_TERM_BYTES = (
    320  # besides the term itself: its objects, its place in the dictionary just after that has grown
)
_ROW_BYTES = 6
_SORTING_BYTES = 34  # a value of a column: twice the value, twice the row, the order
_FIXED_BYTES = 256 * 1024  # buffers, and bitmaps while they are merged
_FLAG_BYTES = 2  # a row: the bitmaps of all flags
_START_BYTES = 9
_RUN_READER_BYTES = 1024

_Entry = tuple[bytes, bytes]
"""A term and the serialised bitmap of its rows."""


class TermWriter:
    """Terms with their rows."""

    def __init__(self, scratch: Path, *, files: Files) -> None:
        self._scratch = scratch
        self._files = files
        self._run: dict[bytes, array[int]] = {}
        self._run_bytes = 0
        self._spilled: int | None = None
        self._run_ends = [0]
        self._terms = 0

    @property
    def heap_bytes(self) -> int:
        runs = len(self._run_ends)
        return RUN_BYTES + self._terms * _START_BYTES + runs * _RUN_READER_BYTES + _FIXED_BYTES

    def add(self, term: bytes, row: int) -> None:
        """Note that *row*, not below the last one, has *term*. Raises OSError."""
        rows = self._run.get(term)
        if rows is None:
            self._run[term] = array("I", (row,))
            self._terms += 1
            self._run_bytes += _TERM_BYTES + len(term)
        elif rows[-1] != row:
            rows.append(row)
            self._run_bytes += _ROW_BYTES
        if self._run_bytes >= RUN_BYTES:
            self._spill()

    def write(self, out: SectionWriter) -> None:
        """Raises OSError."""
        starts = array("Q", (0,))
        out.begin("entries")
        for term, rows in self._entries():
            out.write(ENTRY.pack(len(term)) + term + rows)
            starts.append(starts[-1] + ENTRY.size + len(term) + len(rows))
        out.begin("starts")
        out.write(memoryview(starts).cast("B"))

    def close(self) -> None:
        if self._spilled is not None:
            os.close(self._spilled)

    def _entries(self) -> Iterator[_Entry]:
        """Every term once, in order."""
        if self._spilled is None:
            yield from self._sorted_run()
            return
        self._spill()
        with mmap.mmap(self._spilled, self._run_ends[-1], prot=mmap.PROT_READ) as scratch:
            runs = [_read_run(scratch, start, end) for start, end in itertools.pairwise(self._run_ends)]
            for term, entries in itertools.groupby(heapq.merge(*runs, key=itemgetter(0)), itemgetter(0)):
                parts = [rows for _, rows in entries]
                yield term, parts[0] if len(parts) == 1 else _union(parts)

    def _sorted_run(self) -> Iterator[_Entry]:
        for term in sorted(self._run):
            yield term, BitMap(self._run[term]).serialize()

    def _spill(self) -> None:
        if self._spilled is None:
            self._spilled = self._files.scratch(self._scratch)
        position = self._run_ends[-1]
        for batch in _batched(self._sorted_run()):
            self._files.write(self._spilled, batch, position)
            position += len(batch)
        self._run_ends.append(position)
        self._run = {}
        self._run_bytes = 0


class ColumnWriter:
    """Numbers with their rows."""

    def __init__(self, type: FieldType) -> None:
        self._dtype = COLUMN_DTYPES[type]
        self._values: array[Any] = array("d" if self._dtype is np.float64 else "q")
        self._rows = array("I")

    @property
    def heap_bytes(self) -> int:
        return len(self._rows) * _SORTING_BYTES + _FIXED_BYTES

    def add(self, value: float, row: int) -> None:
        self._values.append(value)
        self._rows.append(row)

    def write(self, out: SectionWriter) -> None:
        """Raises OSError."""
        values = np.frombuffer(self._values, self._dtype)
        order = np.argsort(values, kind="stable")
        out.begin("values")
        out.write(values[order].data.cast("B"))
        out.begin("rows")
        out.write(np.frombuffer(self._rows, np.uint32)[order].data.cast("B"))

    def close(self) -> None:
        """Nothing is open."""


class FieldWriter:
    """The index of one field: its values, added row by row, and the flags of the rows."""

    def __init__(self, type: FieldType, *, scratch: Path, files: Files) -> None:
        self._type = type
        self._files = files
        self.values: TermWriter | ColumnWriter = (
            ColumnWriter(type) if type in COLUMN_DTYPES else TermWriter(scratch, files=files)
        )
        self.flags = {flag: BitMap() for flag in Flag}

    def heap_bytes(self, rows: int) -> int:
        """What is held, and needed to finish, where the segment has *rows* rows."""
        return self.values.heap_bytes + rows * _FLAG_BYTES

    def write(self, path: Path, *, rows: int) -> None:
        """Write the durable file *path*, over *rows* rows. Raises OSError; the rest is for the caller to remove."""
        with SectionWriter(path, files=self._files) as out:
            self.values.write(out)
            for flag, flagged in self.flags.items():
                out.begin(flag)
                out.write(flagged.serialize())
            out.finish({"format": FORMAT, "type": self._type, "rows": rows})

    def close(self) -> None:
        self.values.close()


def _union(parts: Iterable[bytes]) -> bytes:
    rows = BitMap()
    for part in parts:
        rows |= BitMap.deserialize(part)
    serialised: bytes = rows.serialize()
    return serialised


def _batched(entries: Iterator[_Entry]) -> Iterator[bytes]:
    """Entries as they lie in a scratch file, some hundred kilobytes at a time."""
    batch = bytearray()
    for term, rows in entries:
        batch += ENTRY.pack(len(term)) + ENTRY.pack(len(rows)) + term + rows
        if len(batch) >= _FIXED_BYTES // 4:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)


def _read_run(scratch: mmap.mmap, position: int, end: int) -> Iterator[_Entry]:
    while position < end:
        (term_size,) = ENTRY.unpack_from(scratch, position)
        (rows_size,) = ENTRY.unpack_from(scratch, position + ENTRY.size)
        term_start = position + 2 * ENTRY.size
        rows_start = term_start + term_size
        position = rows_start + rows_size
        yield scratch[term_start:rows_start], scratch[rows_start:position]
