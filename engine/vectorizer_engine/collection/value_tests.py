"""What a filter may ask of the values that a path selects in a payload.

A `ValueTest` looks at one value; a condition holds where any value takes it, the elements of a list being values.
A `ValuesTest` looks at all of them. None ever raises, whatever the payload holds.
"""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vectorizer_engine.collection.moments import parse_datetime

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}

_WORD = re.compile(r"[^\W_]+")

Exact = tuple[type, object]
"""A text, integer or boolean with its type: they are kept apart although Python finds True equal to 1."""


@dataclass(frozen=True)
class Bound:
    """One end of a range: the name of a comparison, and with what."""

    name: str
    operand: Any


Range = tuple[Bound, ...]


def _within(bounds: Range, value: Any) -> bool:
    return all(COMPARISONS[bound.name](value, bound.operand) for bound in bounds)


# --- of one value --------------------------------------------------------------------------------------


class ValueTest(ABC):
    """No test takes null."""

    @abstractmethod
    def takes(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class OneOf(ValueTest):
    listed: frozenset[Exact]

    def takes(self, value: Any) -> bool:
        return isinstance(value, bool | int | str) and (type(value), value) in self.listed


@dataclass(frozen=True)
class NoneOf(ValueTest):
    listed: frozenset[Exact]

    def takes(self, value: Any) -> bool:
        return value is not None and not (
            isinstance(value, bool | int | str) and (type(value), value) in self.listed
        )


@dataclass(frozen=True)
class AllWords(ValueTest):
    """All of *words* in one text, which takes at least one."""

    words: tuple[str, ...]

    def takes(self, value: Any) -> bool:
        return isinstance(value, str) and bool(self.words) and set(self.words).issubset(words_of(value))


@dataclass(frozen=True)
class AnyWord(ValueTest):
    words: tuple[str, ...]

    def takes(self, value: Any) -> bool:
        return isinstance(value, str) and not set(self.words).isdisjoint(words_of(value))


@dataclass(frozen=True)
class Phrase(ValueTest):
    """*words* one after the other."""

    words: tuple[str, ...]

    def takes(self, value: Any) -> bool:
        if not isinstance(value, str) or not self.words:
            return False
        found, run = words_of(value), list(self.words)
        return any(found[i : i + len(run)] == run for i in range(len(found) - len(run) + 1))


@dataclass(frozen=True)
class Prefix(ValueTest):
    text: str

    def takes(self, value: Any) -> bool:
        return isinstance(value, str) and value.startswith(self.text)


@dataclass(frozen=True)
class Substring(ValueTest):
    text: str

    def takes(self, value: Any) -> bool:
        return isinstance(value, str) and self.text in value


@dataclass(frozen=True)
class NumberRange(ValueTest):
    bounds: Range

    def takes(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and _within(self.bounds, value)


@dataclass(frozen=True)
class DatetimeRange(ValueTest):
    """Bounds are moments, and so are texts that name one."""

    bounds: Range

    def takes(self, value: Any) -> bool:
        moment: datetime | None = parse_datetime(value) if isinstance(value, str) else None
        return moment is not None and _within(self.bounds, moment)


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case: runs of letters and digits."""
    return [word.lower() for word in _WORD.findall(text)]


# --- of all values -------------------------------------------------------------------------------------


class ValuesTest(ABC):
    @abstractmethod
    def holds(self, values: list[Any]) -> bool:
        """*values* are those of `payload_path.values_at`."""


@dataclass(frozen=True)
class AnyValue(ValuesTest):
    test: ValueTest

    def holds(self, values: list[Any]) -> bool:
        takes = self.test.takes
        return any(any(map(takes, value)) if isinstance(value, list) else takes(value) for value in values)


@dataclass(frozen=True)
class IsEmpty(ValuesTest):
    def holds(self, values: list[Any]) -> bool:
        return all(value is None or value == [] for value in values)


@dataclass(frozen=True)
class IsNull(ValuesTest):
    def holds(self, values: list[Any]) -> bool:
        return any(value is None or (isinstance(value, list) and None in value) for value in values)


@dataclass(frozen=True)
class ValuesCount(ValuesTest):
    bounds: Range

    def holds(self, values: list[Any]) -> bool:
        if not any(value is not None for value in values):
            return _within(self.bounds, 0)
        return any(_within(self.bounds, _count(value)) for value in values)


def _count(value: Any) -> int:
    if isinstance(value, list):
        return len(value)
    return 0 if value is None else 1
