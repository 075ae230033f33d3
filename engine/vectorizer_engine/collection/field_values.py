"""What of a payload goes into the index of a field: which values an index of each type holds, and as what.

Values of other types are only noted to be there (`Flag.OTHER`), so that a filter looks at those points itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from vectorizer_engine.collection.moments import microseconds, parse_datetime
from vectorizer_engine.collection.payload_path import Step, values_at
from vectorizer_engine.collection.value_tests import IsEmpty, words_of
from vectorizer_engine.storage.payload_index import COLUMN_DTYPES, FieldType, Flag
from vectorizer_engine.storage.payload_index_writer import ColumnWriter, FieldWriter

EQUALITY_TYPES = frozenset({FieldType.KEYWORD, FieldType.UUID, FieldType.BOOL, FieldType.INTEGER})
"""Of these an index tells values apart as a filter's `match` does."""

_INT64 = range(-(2**63), 2**63)
_IS_EMPTY = IsEmpty()


def encode_text(text: str) -> bytes:
    """Byte order is code point order, and the prefix of a text is the prefix of its bytes."""
    return text.encode("utf-8", "surrogatepass")


def term_of(type: FieldType, value: Any) -> bytes | None:
    """The term that an index of keywords, UUIDs or booleans holds for *value*, None where it holds none."""
    if type is FieldType.BOOL:
        return (b"\1" if value else b"\0") if isinstance(value, bool) else None
    if not isinstance(value, str):
        return None
    return encode_text(value) if type is FieldType.KEYWORD else _uuid_bytes(value)


def number_of(type: FieldType, value: Any) -> float | None:
    """The number that a column holds for *value*, None where it cannot hold exactly this."""
    if type is FieldType.DATETIME:
        moment = parse_datetime(value) if isinstance(value, str) else None
        return None if moment is None else microseconds(moment)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if type is FieldType.INTEGER:
        return value if isinstance(value, int) and value in _INT64 else None
    return as_float(value)


def as_float(value: float) -> float | None:
    """*value* as a float, None for an integer that no float is equal to."""
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if number == value else None


def holds(type: FieldType, value: Any) -> bool:
    """Whether an index of *type* holds *value*."""
    if type is FieldType.TEXT:
        return isinstance(value, str)
    return (number_of if type in COLUMN_DTYPES else term_of)(type, value) is not None


def leaves_at(payload: Mapping[str, Any], steps: tuple[Step, ...]) -> list[Any]:
    """The values at a path, the elements of lists one by one."""
    values = values_at(payload, steps)
    return [leaf for value in values for leaf in (value if isinstance(value, list) else (value,))]


def _uuid_bytes(text: str) -> bytes | None:
    """Only the usual spelling, since a filter compares texts."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        return None
    return value.bytes if str(value) == text else None


class FieldIndexer:
    """Adds the payloads of a segment to the index of one field, row by row."""

    def __init__(self, type: FieldType, steps: tuple[Step, ...], writer: FieldWriter) -> None:
        self.writer = writer
        self._type = type
        self._steps = steps

    def add(self, row: int, payload: Mapping[str, Any]) -> None:
        """*row* is above all that were added. Raises OSError."""
        flags = self.writer.flags
        leaves = leaves_at(payload, self._steps)
        present = [leaf for leaf in leaves if leaf is not None]
        if len(present) < len(leaves):
            flags[Flag.NULL].add(row)
        if not present:
            if _IS_EMPTY.holds(values_at(payload, self._steps)):
                flags[Flag.EMPTY].add(row)
            return
        indexed, different = self._add_values(row, present)
        if indexed:
            flags[Flag.INDEXED].add(row)
        if different > 1:
            flags[Flag.SEVERAL].add(row)
        if indexed < len(present):
            flags[Flag.OTHER].add(row)

    def _add_values(self, row: int, leaves: list[Any]) -> tuple[int, int]:
        """How many of *leaves* are in the index now, and how many of these differ."""
        writer = self.writer.values
        if isinstance(writer, ColumnWriter):
            numbers = [number for leaf in leaves if (number := number_of(self._type, leaf)) is not None]
            for number in set(numbers):
                writer.add(number, row)
            return len(numbers), len(set(numbers))
        if self._type is FieldType.TEXT:
            texts = [leaf for leaf in leaves if isinstance(leaf, str)]
            for word in {word for text in texts for word in words_of(text)}:
                writer.add(encode_text(word), row)
            return len(texts), len(set(texts))
        terms = [term for leaf in leaves if (term := term_of(self._type, leaf)) is not None]
        for term in set(terms):
            writer.add(term, row)
        return len(terms), len(set(terms))
