"""A compiled filter: a tree of conditions, each of which can look at a point and can ask indexes.

`accepts` looks at one point's id and payload, and is what a condition means. `bounds` says about all rows of a
segment or head at once which surely match and which may, as far as payload indexes and the table of ids tell; so
what surely matches and what surely does not needs no look at a payload, and without any index every row may match.
The two never disagree: `tests/engine/collection/test_payload_filters.py`.

Inside `nested`, a condition is about the elements of an array, one at a time, while indexes know only which values
the elements have together. There bounds are wider: see `Nested`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Any, NamedTuple, Protocol

import numpy as np
from pyroaring import BitMap

from vectorizer_engine.collection.field_bounds import field_bounds
from vectorizer_engine.collection.payload_path import Step, values_at
from vectorizer_engine.collection.types import PointId
from vectorizer_engine.collection.value_tests import IsEmpty, ValuesTest
from vectorizer_engine.storage.keys import encode_id
from vectorizer_engine.storage.payload_index import FieldIndex

Steps = tuple[Step, ...]


class Bounds(NamedTuple):
    """Rows that surely match, and rows that may, the sure ones included."""

    sure: BitMap
    maybe: BitMap


class Rows(Protocol):
    """The rows of a segment or head, and what is known of them without their payloads."""

    @property
    def all(self) -> BitMap: ...

    def with_keys(self, keys: Sequence[bytes]) -> BitMap:
        """The rows of these ids, live or not."""
        ...

    def field(self, steps: Steps) -> FieldIndex | None:
        """The index of the field at this path."""
        ...


class Condition(ABC):
    @abstractmethod
    def accepts(self, point: PointId, payload: Mapping[str, Any]) -> bool:
        """Whether the point is wanted. Never raises."""

    @abstractmethod
    def bounds(self, rows: Rows, elements: Steps = ()) -> Bounds:
        """What is known of *rows*. With *elements*, of rows of which an element at that path is wanted."""


@dataclass(frozen=True)
class AllOf(Condition):
    """Every one of them; of none, everything."""

    conditions: tuple[Condition, ...]

    def accepts(self, point: PointId, payload: Mapping[str, Any]) -> bool:
        return all(condition.accepts(point, payload) for condition in self.conditions)

    def bounds(self, rows: Rows, elements: Steps = ()) -> Bounds:
        if not self.conditions:
            return unknown(rows) if elements else Bounds(rows.all, rows.all)
        bounds = [condition.bounds(rows, elements) for condition in self.conditions]
        maybe = reduce(and_, (each.maybe for each in bounds))
        if elements and len(bounds) > 1:  # each may hold for another element
            return Bounds(BitMap(), maybe)
        return Bounds(reduce(and_, (each.sure for each in bounds)), maybe)


@dataclass(frozen=True)
class AnyOf(Condition):
    conditions: tuple[Condition, ...]

    def accepts(self, point: PointId, payload: Mapping[str, Any]) -> bool:
        return any(condition.accepts(point, payload) for condition in self.conditions)

    def bounds(self, rows: Rows, elements: Steps = ()) -> Bounds:
        bounds = [condition.bounds(rows, elements) for condition in self.conditions]
        return Bounds(
            reduce(or_, (each.sure for each in bounds), BitMap()),
            reduce(or_, (each.maybe for each in bounds), BitMap()),
        )


@dataclass(frozen=True)
class Not(Condition):
    condition: Condition

    def accepts(self, point: PointId, payload: Mapping[str, Any]) -> bool:
        return not self.condition.accepts(point, payload)

    def bounds(self, rows: Rows, elements: Steps = ()) -> Bounds:
        if elements:  # that one element is wanted says nothing about the others
            return unknown(rows)
        bounds = self.condition.bounds(rows)
        return Bounds(rows.all - bounds.maybe, rows.all - bounds.sure)


@dataclass(frozen=True)
class AtLeast(Condition):
    count: int
    conditions: tuple[Condition, ...]

    def accepts(self, point: PointId, payload: Mapping[str, Any]) -> bool:
        return sum(condition.accepts(point, payload) for condition in self.conditions) >= self.count

    def bounds(self, rows: Rows, elements: Steps = ()) -> Bounds:
        if self.count == 0:
            return AllOf(()).bounds(rows, elements)
        bounds = [condition.bounds(rows, elements) for condition in self.conditions]
        maybe = _in_at_least(self.count, [each.maybe for each in bounds], rows)
        if elements:
            return Bounds(BitMap(), maybe)
        return Bounds(_in_at_least(self.count, [each.sure for each in bounds], rows), maybe)


@dataclass(frozen=True)
class HasId(Condition):
    ids: frozenset[PointId]

    def accepts(self, point: PointId, payload: Mapping[str, Any]) -> bool:
        return point in self.ids

    def bounds(self, rows: Rows, elements: Steps = ()) -> Bounds:
        found = rows.with_keys([encode_id(point) for point in self.ids])
        return Bounds(found, found)


@dataclass(frozen=True)
class Field(Condition):
    """What the values at a path have to be."""

    steps: Steps
    test: ValuesTest

    def accepts(self, point: PointId, payload: Mapping[str, Any]) -> bool:
        return self.test.holds(values_at(payload, self.steps))

    def bounds(self, rows: Rows, elements: Steps = ()) -> Bounds:
        index = rows.field(elements + self.steps)
        if index is None or (elements and isinstance(self.test, IsEmpty)):  # one element's may be empty
            return unknown(rows)
        return Bounds(*(field_bounds(self.test, index) or unknown(rows)))


@dataclass(frozen=True)
class Nested(Condition):
    """At least one element of the array at the path, an object, is what the condition wants.

    An index of `array[].key` says which rows have a value in some element. That is an upper bound for what one
    element must be, and exact for a single condition on one key.
    """

    steps: Steps
    condition: Condition

    def accepts(self, point: PointId, payload: Mapping[str, Any]) -> bool:
        return any(
            self.condition.accepts(point, element)
            for array in values_at(payload, self.steps)
            if isinstance(array, list)
            for element in array
            if isinstance(element, dict)
        )

    def bounds(self, rows: Rows, elements: Steps = ()) -> Bounds:
        return self.condition.bounds(rows, (*elements, *self.steps, None))


def unknown(rows: Rows) -> Bounds:
    return Bounds(BitMap(), rows.all)


def _in_at_least(count: int, sets: Sequence[BitMap], rows: Rows) -> BitMap:
    """The rows that are in at least *count* of the *sets*."""
    times = np.zeros(len(rows.all), np.uint16)
    for each in sets:
        times[each.to_array()] += 1
    return BitMap(np.flatnonzero(times >= count).tolist())
