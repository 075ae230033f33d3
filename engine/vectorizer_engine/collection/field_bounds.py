"""What the index of a field says about a test of the field's values: the rows that surely pass, and those that may.

Where an index says nothing, rows without any value are still out, as no test of a value takes null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from operator import and_, or_

from pyroaring import BitMap

from vectorizer_engine.collection.field_values import (
    EQUALITY_TYPES,
    as_float,
    encode_text,
    number_of,
    term_of,
)
from vectorizer_engine.collection.moments import microseconds
from vectorizer_engine.collection.value_tests import (
    AllWords,
    AnyValue,
    AnyWord,
    DatetimeRange,
    Exact,
    IsEmpty,
    IsNull,
    NoneOf,
    NumberRange,
    OneOf,
    Phrase,
    Prefix,
    ValuesTest,
    ValueTest,
    words_of,
)
from vectorizer_engine.storage.payload_index import ColumnIndex, FieldIndex, FieldType, Flag, TermIndex

_Pair = tuple[BitMap, BitMap]
"""As `conditions.Bounds`."""

_Interval = Iterable[tuple[str, int | float]]
"""Names of comparisons, and with what."""

_LEAST, _MOST = -(2**63), 2**63 - 1


def field_bounds(test: ValuesTest, index: FieldIndex) -> _Pair | None:
    """The rows of which *test* surely holds, and those of which it may. None: no row can be ruled out."""
    match test:
        case IsEmpty():
            return _exactly(index.flagged(Flag.EMPTY))
        case IsNull():
            return _exactly(index.flagged(Flag.NULL))
        case AnyValue(test=inner):
            found = _column_bounds(inner, index) if isinstance(index, ColumnIndex) else None
            if isinstance(index, TermIndex):
                found = (_text_bounds if index.type is FieldType.TEXT else _term_bounds)(inner, index)
            return found or (BitMap(), index.flagged(Flag.INDEXED) | index.flagged(Flag.OTHER))
    return None


def _term_bounds(test: ValueTest, index: TermIndex) -> _Pair | None:
    match test:
        case OneOf() | NoneOf():
            return _equality(test, index)
        case Prefix(text=text) if index.type is FieldType.KEYWORD:
            return _exactly(index.rows_of_prefix(encode_text(text)))
    return None


def _text_bounds(test: ValueTest, index: TermIndex) -> _Pair | None:
    match test:
        case AllWords(words=words) | Phrase(words=words):
            found = _with_words(index, words)
            if len(words) <= 1:
                return _exactly(found)
            if isinstance(test, Phrase):
                return BitMap(), found
            return found - index.flagged(Flag.SEVERAL), found  # of several texts, each may have some
        case AnyWord(words=words):
            return _exactly(_union(index.rows_of(encode_text(word)) for word in words))
        case OneOf(listed=listed):
            texts = [value for _, value in listed if isinstance(value, str)]
            maybe = index.flagged(Flag.OTHER) if len(texts) < len(listed) else BitMap()
            for text in texts:
                words = tuple(words_of(text))
                maybe |= _with_words(index, words) if words else index.flagged(Flag.INDEXED)
            return BitMap(), maybe
    return None


def _column_bounds(test: ValueTest, index: ColumnIndex) -> _Pair | None:
    match test:
        case OneOf() | NoneOf() if index.type in EQUALITY_TYPES:
            return _equality(test, index)
        case OneOf(listed=listed) if index.type is FieldType.FLOAT:  # which does not tell 1 from 1.0
            return BitMap(), _union(_rows_equal(index, each) for each in listed) | index.flagged(Flag.OTHER)
        case NumberRange(bounds=bounds) if index.type is not FieldType.DATETIME:
            between = _integers_between if index.type is FieldType.INTEGER else _floats_between
            found = between(index, ((each.name, each.operand) for each in bounds))
            return None if found is None else (found, found | index.flagged(Flag.OTHER))
        case DatetimeRange(bounds=bounds) if index.type is FieldType.DATETIME:
            return _exactly(
                _integers_between(index, ((each.name, microseconds(each.operand)) for each in bounds))
            )
    return None


def _equality(test: OneOf | NoneOf, index: TermIndex | ColumnIndex) -> _Pair:
    found = [_rows_equal(index, each) for each in test.listed]
    known = [rows for rows in found if rows is not None]
    listed = _union(known)
    other = index.flagged(Flag.OTHER)
    foreign = len(known) < len(found)  # values that the index does not hold are asked for
    if isinstance(test, OneOf):
        return listed, listed | other if foreign else listed
    several = index.flagged(Flag.SEVERAL)
    sure = index.flagged(Flag.INDEXED) - listed
    if len(known) <= 1:  # of two different values one is not listed
        sure |= several
    if not foreign:
        sure |= other
    return sure, sure | several | other


def _rows_equal(index: FieldIndex, exact: Exact) -> BitMap | None:
    """The rows with this value, None where it is no value that the index holds."""
    _, value = exact
    if isinstance(index, TermIndex):
        term = term_of(index.type, value)
        return None if term is None else index.rows_of(term)
    assert isinstance(index, ColumnIndex)
    number = number_of(index.type, value)
    return None if number is None else index.rows_between(number, number)


def _with_words(index: TermIndex, words: tuple[str, ...]) -> BitMap:
    """The rows that have all of *words*, in one text or in several; none without words."""
    if not words:
        return BitMap()
    return reduce(and_, (index.rows_of(encode_text(word)) for word in set(words)))


def _integers_between(index: ColumnIndex, bounds: _Interval) -> BitMap:
    low, high = _LEAST, _MOST
    for name, bound in bounds:
        bound = max(_LEAST - 1, min(_MOST + 1, bound))  # an integer that is far beyond, where it is infinite
        match name:
            case "gt":
                low = max(low, math.floor(bound) + 1)
            case "gte":
                low = max(low, math.ceil(bound))
            case "lt":
                high = min(high, math.ceil(bound) - 1)
            case "lte":
                high = min(high, math.floor(bound))
    return index.rows_between(low, high) if low <= high else BitMap()


def _floats_between(index: ColumnIndex, bounds: _Interval) -> BitMap | None:
    """None where a bound is an integer that no float is equal to."""
    low, high = -math.inf, math.inf
    low_included = high_included = True
    for name, bound in bounds:
        number = as_float(bound)
        if number is None:
            return None
        included = name.endswith("e")
        if name.startswith("g"):
            if (number, not included) > (low, not low_included):
                low, low_included = number, included
        elif (number, included) < (high, high_included):
            high, high_included = number, included
    return index.rows_between(low, high, low_included=low_included, high_included=high_included)


def _union(sets: Iterable[BitMap | None]) -> BitMap:
    return reduce(or_, (each for each in sets if each is not None), BitMap())


def _exactly(rows: BitMap) -> _Pair:
    return rows, rows
