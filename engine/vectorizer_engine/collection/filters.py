"""Qdrant's filter JSON, compiled to a tree of conditions.

Compiling checks the whole filter, so that a mistake is one clear error, and what it makes of it never raises.
Geographical conditions, named vectors and slices are refused.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import msgspec

from vectorizer_engine.collection.conditions import (
    AllOf,
    AnyOf,
    AtLeast,
    Condition,
    Field,
    HasId,
    Nested,
    Not,
    Steps,
)
from vectorizer_engine.collection.moments import parse_datetime
from vectorizer_engine.collection.payload_path import parse_path
from vectorizer_engine.collection.types import PointId
from vectorizer_engine.collection.value_tests import (
    COMPARISONS,
    AllWords,
    AnyValue,
    AnyWord,
    Bound,
    DatetimeRange,
    Exact,
    IsEmpty,
    IsNull,
    NoneOf,
    NumberRange,
    OneOf,
    Phrase,
    Prefix,
    Range,
    Substring,
    ValuesCount,
    ValuesTest,
    ValueTest,
    words_of,
)
from vectorizer_engine.errors import InvalidRequest

_FIELD_TESTS = ("match", "range", "values_count", "is_empty", "is_null")


@dataclass(frozen=True)
class Filter:
    """A condition, and its JSON to know it again by."""

    condition: Condition
    key: bytes

    def __call__(self, point: PointId, payload: Any) -> bool:
        return self.condition.accepts(point, payload)


EVERY_POINT = Filter(AllOf(()), b"{}")


def compile_filter(filter_: object, *, where: str = "filter") -> Filter | None:
    """What *filter_*, as decoded from JSON, stands for; None where it takes every point.

    *where* is how errors call the filter. Raises InvalidRequest, naming the place in the filter.
    """
    condition = AllOf(()) if filter_ is None else _filter(filter_, where, nested=False)
    return None if condition == AllOf(()) else Filter(condition, msgspec.json.encode(filter_))


def parse_id(value: object, *, where: str) -> PointId:
    """A point id from JSON: an unsigned integer or a UUID as a string. Raises InvalidRequest."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    if isinstance(value, str):
        try:
            return uuid.UUID(value)
        except ValueError:
            pass
    raise InvalidRequest(f"{where}: {value!r} is no point id: use an integer from 0 to 2^64-1 or a UUID")


# --- clauses -------------------------------------------------------------------------------------------


def _filter(filter_: object, where: str, *, nested: bool) -> Condition:
    clauses = _object(filter_, where, allowed=("must", "should", "must_not", "min_should"))
    wanted = list(_conditions(clauses.get("must"), f"{where}.must", nested=nested))
    if should := _conditions(clauses.get("should"), f"{where}.should", nested=nested):
        wanted.append(AnyOf(should))
    if must_not := _conditions(clauses.get("must_not"), f"{where}.must_not", nested=nested):
        wanted.append(Not(AnyOf(must_not)))
    if clauses.get("min_should") is not None:
        wanted.append(_min_should(clauses["min_should"], f"{where}.min_should", nested=nested))
    return wanted[0] if len(wanted) == 1 else AllOf(tuple(wanted))


def _min_should(clause: object, where: str, *, nested: bool) -> Condition:
    fields = _object(clause, where, allowed=("conditions", "min_count"), required=("conditions", "min_count"))
    conditions = _conditions(fields["conditions"], f"{where}.conditions", nested=nested)
    least = fields["min_count"]
    if not isinstance(least, int) or isinstance(least, bool) or least < 0:
        raise InvalidRequest(f"{where}.min_count: expected a whole number from 0 on, found {least!r}")
    return AtLeast(least, conditions)


def _conditions(clause: object, where: str, *, nested: bool) -> tuple[Condition, ...]:
    if clause is None:
        return ()
    if not isinstance(clause, list):
        return (_condition(clause, where, nested=nested),)
    return tuple(_condition(each, f"{where}[{i}]", nested=nested) for i, each in enumerate(clause))


def _condition(condition: object, where: str, *, nested: bool) -> Condition:
    if not isinstance(condition, dict):
        raise InvalidRequest(f"{where}: expected a condition or a filter, found {condition!r}")
    if "key" in condition:
        return _field(condition, where)
    if "has_id" in condition:
        if nested:
            raise InvalidRequest(f"{where}: has_id is about points, it has no meaning inside nested")
        return _has_id(condition, where)
    if "nested" in condition:
        return _nested(condition, where)
    if "is_empty" in condition:
        return _payload_field(condition, "is_empty", IsEmpty(), where)
    if "is_null" in condition:
        return _payload_field(condition, "is_null", IsNull(), where)
    for unsupported in ("has_vector", "slice"):
        if unsupported in condition:
            raise InvalidRequest(f"{where}: {unsupported} conditions are not supported: leave it out")
    return _filter(condition, where, nested=nested)


# --- conditions ----------------------------------------------------------------------------------------


def _has_id(condition: dict[str, Any], where: str) -> Condition:
    _object(condition, where, allowed=("has_id",))
    if not isinstance(condition["has_id"], list):
        raise InvalidRequest(f"{where}.has_id: expected a list of ids, found {condition['has_id']!r}")
    return HasId(frozenset(parse_id(each, where=f"{where}.has_id") for each in condition["has_id"]))


def _nested(condition: dict[str, Any], where: str) -> Condition:
    _object(condition, where, allowed=("nested",))
    where = f"{where}.nested"
    fields = _object(condition["nested"], where, allowed=("key", "filter"), required=("key", "filter"))
    steps = _path(fields["key"], where)
    steps = steps[:-1] if steps[-1] is None else steps  # `data` and `data[]` mean the same
    return Nested(steps, _filter(fields["filter"], f"{where}.filter", nested=True))


def _payload_field(condition: dict[str, Any], name: str, test: ValuesTest, where: str) -> Condition:
    _object(condition, where, allowed=(name,))
    fields = _object(condition[name], f"{where}.{name}", allowed=("key",), required=("key",))
    return Field(_path(fields["key"], f"{where}.{name}"), test)


def _field(condition: dict[str, Any], where: str) -> Condition:
    given = {name: value for name, value in condition.items() if value is not None and name != "key"}
    for name in given:
        if name.startswith("geo_"):
            raise InvalidRequest(f"{where}.{name}: geographical conditions are not supported: leave it out")
    _object(given, where, allowed=_FIELD_TESTS)
    if len(given) != 1:
        raise InvalidRequest(
            f"{where}: expected exactly one of {', '.join(_FIELD_TESTS)} beside key, "
            f"found {', '.join(given) or 'none'}: write one condition for each"
        )
    steps = _path(condition["key"], where)
    [(name, body)] = given.items()
    where = f"{where}.{name}"
    match name:
        case "match":
            return Field(steps, AnyValue(_match(body, where)))
        case "range":
            return Field(steps, AnyValue(_range(body, where)))
        case "values_count":
            return Field(steps, ValuesCount(_bounds(body, where, numbers=(int,))))
    if not isinstance(body, bool):
        raise InvalidRequest(f"{where}: expected true or false, found {body!r}")
    holds = Field(steps, IsEmpty() if name == "is_empty" else IsNull())
    return holds if body else Not(holds)


# --- match and range -----------------------------------------------------------------------------------


def _match(body: object, where: str) -> ValueTest:
    kinds = ("value", "any", "except", "text", "text_any", "phrase", "prefix", "substring")
    fields = _object(body, where, allowed=kinds)
    if len(fields) != 1:
        raise InvalidRequest(f"{where}: expected exactly one of {', '.join(kinds)}, found {body!r}")
    [(kind, operand)] = fields.items()
    where = f"{where}.{kind}"
    if kind == "value":
        return OneOf(frozenset({_exact(operand, where)}))
    if kind in ("any", "except"):
        if not isinstance(operand, list):
            raise InvalidRequest(f"{where}: expected a list of texts or integers, found {operand!r}")
        listed = frozenset(_exact(each, where) for each in operand)
        return OneOf(listed) if kind == "any" else NoneOf(listed)
    if not isinstance(operand, str):
        raise InvalidRequest(f"{where}: expected a text, found {operand!r}")
    match kind:
        case "prefix":
            return Prefix(operand)
        case "substring":
            return Substring(operand)
        case "phrase":
            return Phrase(tuple(words_of(operand)))
    words = tuple(dict.fromkeys(words_of(operand)))
    return AllWords(words) if kind == "text" else AnyWord(words)


def _exact(operand: object, where: str) -> Exact:
    if not isinstance(operand, bool | int | str):
        raise InvalidRequest(
            f"{where}: expected a text, an integer or a boolean, found {operand!r}: use range for other numbers"
        )
    return type(operand), operand


def _range(body: object, where: str) -> ValueTest:
    if isinstance(body, dict) and any(isinstance(bound, str) for bound in body.values()):
        return DatetimeRange(_datetime_bounds(body, where))
    return NumberRange(_bounds(body, where, numbers=(int, float)))


def _bounds(body: object, where: str, *, numbers: tuple[type, ...]) -> Range:
    fields = _object(body, where, allowed=tuple(COMPARISONS))
    for name, bound in fields.items():
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, numbers)):
            raise InvalidRequest(f"{where}.{name}: expected a number, found {bound!r}")
    return tuple(Bound(name, bound) for name, bound in fields.items() if bound is not None)


def _datetime_bounds(body: dict[str, Any], where: str) -> Range:
    fields = _object(body, where, allowed=tuple(COMPARISONS))
    bounds: list[Bound] = []
    for name, bound in fields.items():
        if bound is None:
            continue
        moment = parse_datetime(bound) if isinstance(bound, str) else None
        if moment is None:
            raise InvalidRequest(
                f"{where}.{name}: expected a date such as 2024-06-15T12:30:00Z, found {bound!r}"
            )
        bounds.append(Bound(name, moment))
    return tuple(bounds)


# --- shapes --------------------------------------------------------------------------------------------


def _path(key: object, where: str) -> Steps:
    if not isinstance(key, str):
        raise InvalidRequest(f"{where}.key: expected a payload path, found {key!r}")
    return parse_path(key)


def _object(
    value: object, where: str, *, allowed: tuple[str, ...], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: expected an object, found {value!r}")
    for name in value:
        if name not in allowed:
            raise InvalidRequest(f"{where}: {name!r} is not known here: expected {', '.join(allowed)}")
    for name in required:
        if name not in value:
            raise InvalidRequest(f"{where}: {name!r} is missing")
    return value
