"""The index of one payload field over the rows of one segment: from values to the rows that have them.

Two kinds, both a `section_file`, mapped and never loaded:

    terms     sorted byte strings, each with the roaring bitmap of its rows, found by binary search
    column    values in ascending order and the row of each, for ranges

Beside them are a few bitmaps of rows (`Flag`), so that whoever asks knows what the index cannot tell. What a
payload's value is as a term or a number, and what a filter makes of the answers, is not known here: see
`collection.field_values` and `collection.field_bounds`.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from vectorizer_engine.errors import StoreCorrupt, StoreVersionError
from vectorizer_engine.storage.section_file import REBUILT, SectionFile

FORMAT = 1
VERSION = str(FORMAT)
"""What tells files apart that were not built in the same way, as a part of a name."""

SUFFIX = ".payload-index"

ENTRY = struct.Struct("<I")
"""The length of a term, which follows it, and behind that its bitmap."""


class FieldType(StrEnum):
    """What is indexed of a field's values, by Qdrant's names."""

    KEYWORD = "keyword"
    INTEGER = "integer"
    FLOAT = "float"
    BOOL = "bool"
    DATETIME = "datetime"
    UUID = "uuid"
    TEXT = "text"


COLUMN_DTYPES = {FieldType.INTEGER: np.int64, FieldType.DATETIME: np.int64, FieldType.FLOAT: np.float64}
"""The types that are columns, and of what. All others are terms."""


class Flag(StrEnum):
    """A bitmap of rows that every index keeps."""

    INDEXED = "indexed"
    """At least one value is in the index."""
    OTHER = "other"
    """At least one value that is not null is not in the index, because it is of another type."""
    SEVERAL = "several"
    """Two different values or more are in the index; of a text, two texts."""
    EMPTY = "empty"
    """What a filter's `is_empty` holds for."""
    NULL = "null"
    """What a filter's `is_null` holds for."""


class FieldIndex:
    """An open index. Any number of threads may ask; an answer is a bitmap of their own."""

    def __init__(self, file: SectionFile, type: FieldType, rows: int) -> None:
        self.type = type
        self.rows = rows
        self._file = file

    def flagged(self, flag: Flag) -> BitMap:
        return _bitmap(self._file[flag])


class TermIndex(FieldIndex):
    """Terms to rows."""

    def __init__(self, file: SectionFile, type: FieldType, rows: int) -> None:
        super().__init__(file, type, rows)
        self._terms = _Terms(file["starts"], file["entries"])

    def rows_of(self, term: bytes) -> BitMap:
        place = bisect_left(self._terms, term)
        if place < len(self._terms) and self._terms[place] == term:
            return self._terms.rows(place)
        return BitMap()

    def rows_of_prefix(self, prefix: bytes) -> BitMap:
        found = BitMap()
        for place in range(bisect_left(self._terms, prefix), len(self._terms)):
            if not self._terms[place].startswith(prefix):
                break
            found |= self._terms.rows(place)
        return found


class _Terms(Sequence[bytes]):
    """The sorted terms of a file, read in place."""

    def __init__(self, starts: memoryview, entries: memoryview) -> None:
        self._starts = starts.cast("Q")
        self._entries = entries

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> bytes:  # type: ignore[override] # nobody slices
        start = self._starts[place] + ENTRY.size
        return bytes(self._entries[start : start + self._length(place)])

    def rows(self, place: int) -> BitMap:
        start = self._starts[place] + ENTRY.size + self._length(place)
        return _bitmap(self._entries[start : self._starts[place + 1]])

    def _length(self, place: int) -> int:
        length: int = ENTRY.unpack_from(self._entries, self._starts[place])[0]
        return length


class ColumnIndex(FieldIndex):
    """Numbers to rows."""

    def __init__(self, file: SectionFile, type: FieldType, rows: int) -> None:
        super().__init__(file, type, rows)
        self._values: npt.NDArray[np.int64 | np.float64] = np.frombuffer(file["values"], COLUMN_DTYPES[type])
        self._rows = np.frombuffer(file["rows"], np.uint32)

    def rows_between(
        self, low: float, high: float, *, low_included: bool = True, high_included: bool = True
    ) -> BitMap:
        """The rows with a value from *low* to *high*, which must be numbers that the column could hold."""
        bounds = np.array([low, high], self._values.dtype)
        start = np.searchsorted(self._values, bounds[0], "left" if low_included else "right")
        end = np.searchsorted(self._values, bounds[1], "right" if high_included else "left")
        # Roaring is quick with sorted arrays of the standard library, and slow with anything else.
        return BitMap(array("I", np.sort(self._rows[start : max(start, end)]).tobytes()))


def _bitmap(serialised: memoryview) -> BitMap:
    return BitMap.deserialize(serialised)  # type: ignore[arg-type] # any buffer will do


def open_field_index(path: Path, type: FieldType, rows: int) -> FieldIndex:
    """Map the index in *path*, after checking every byte of it.

    Raises StoreCorrupt where it is not the index of type *type* over *rows* rows, StoreVersionError where a newer
    version wrote it.
    """
    file = SectionFile(path)
    if file.meta["format"] > FORMAT:
        raise StoreVersionError(
            f"{path} has format {file.meta['format']}, this version reads up to {FORMAT}: {REBUILT}"
        )
    if (file.meta["type"], file.meta["rows"]) != (type, rows):
        raise StoreCorrupt(
            f"{path} is a {file.meta['type']} index of {file.meta['rows']} rows, expected {type} and {rows}: {REBUILT}"
        )
    return (ColumnIndex if type in COLUMN_DTYPES else TermIndex)(file, type, rows)
