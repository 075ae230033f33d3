"""Qdrant's filter JSON, compiled to a function that says whether a point is wanted.

Compiling checks the whole filter, so that a mistake is one clear error and the function itself never raises.
The function reads ids and payloads only; how a search uses it is the collection's affair. Geographical
conditions, named vectors and slices are refused.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from vectorizer_engine.collection.payload_path import parse_path, values_at
from vectorizer_engine.collection.types import PointId, Predicate
from vectorizer_engine.errors import InvalidRequest

_Value = Callable[[Any], bool]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
}

_DATETIME = re.compile(
    r"\s*(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<minute>\d\d:\d\d)(?:(?P<second>:\d\d)(?:\.(?P<fraction>\d+))?"
    r" ?(?P<offset>[Zz]|UTC|[+-]\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)

_WORD = re.compile(r"[^\W_]+")

_CONDITIONS = "match, range, values_count, is_empty, is_null"


def compile_filter(filter_: object, *, where: str = "filter") -> Predicate | None:
    """The predicate that *filter_*, as decoded from JSON, stands for; None where it takes every point.

    *where* is how errors call the filter. Raises InvalidRequest, naming the place in the filter.
    """
    return None if filter_ is None else _filter(filter_, where, nested=False)


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


def parse_datetime(text: str) -> datetime | None:
    """The moment that *text* names in RFC 3339 or a shorter form (UTC where it names no offset), or None."""
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    fraction = f".{match['fraction'][:6]:0<6}" if match["fraction"] else ""
    offset = match["offset"]
    zone = "+00:00" if offset in (None, "Z", "z", "UTC") else offset
    try:
        moment = datetime.fromisoformat(
            f"{match['date']}T{match['minute'] or '00:00'}{match['second'] or ':00'}{fraction}{zone}"
        )
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# --- clauses -------------------------------------------------------------------------------------------


def _filter(filter_: object, where: str, *, nested: bool) -> Predicate | None:
    clauses = _object(filter_, where, allowed=("must", "should", "must_not", "min_should"))
    tests: list[Predicate] = []
    if must := _conditions(clauses.get("must"), f"{where}.must", nested=nested):
        tests.extend(must)
    if should := _conditions(clauses.get("should"), f"{where}.should", nested=nested):
        tests.append(lambda point, payload: any(test(point, payload) for test in should))
    if must_not := _conditions(clauses.get("must_not"), f"{where}.must_not", nested=nested):
        tests.append(lambda point, payload: not any(test(point, payload) for test in must_not))
    if clauses.get("min_should") is not None:
        tests.append(_min_should(clauses["min_should"], f"{where}.min_should", nested=nested))
    if len(tests) <= 1:
        return tests[0] if tests else None
    return lambda point, payload: all(test(point, payload) for test in tests)


def _min_should(clause: object, where: str, *, nested: bool) -> Predicate:
    fields = _object(clause, where, allowed=("conditions", "min_count"), required=("conditions", "min_count"))
    conditions = _conditions(fields["conditions"], f"{where}.conditions", nested=nested)
    least = fields["min_count"]
    if not isinstance(least, int) or isinstance(least, bool) or least < 0:
        raise InvalidRequest(f"{where}.min_count: expected a whole number from 0 on, found {least!r}")
    return lambda point, payload: sum(test(point, payload) for test in conditions) >= least


def _conditions(clause: object, where: str, *, nested: bool) -> list[Predicate]:
    if clause is None:
        return []
    if not isinstance(clause, list):
        return [_condition(clause, where, nested=nested)]
    return [_condition(each, f"{where}[{i}]", nested=nested) for i, each in enumerate(clause)]


def _condition(condition: object, where: str, *, nested: bool) -> Predicate:
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
        return _payload_field(condition, "is_empty", _is_empty, where)
    if "is_null" in condition:
        return _payload_field(condition, "is_null", _is_null, where)
    for unsupported in ("has_vector", "slice"):
        if unsupported in condition:
            raise InvalidRequest(f"{where}: {unsupported} conditions are not supported: leave it out")
    inner = _filter(condition, where, nested=nested)
    return _anything if inner is None else inner


def _anything(point: PointId, payload: Mapping[str, Any]) -> bool:
    return True


# --- conditions ----------------------------------------------------------------------------------------


def _has_id(condition: dict[str, Any], where: str) -> Predicate:
    _object(condition, where, allowed=("has_id",))
    if not isinstance(condition["has_id"], list):
        raise InvalidRequest(f"{where}.has_id: expected a list of ids, found {condition['has_id']!r}")
    wanted = frozenset(parse_id(each, where=f"{where}.has_id") for each in condition["has_id"])
    return lambda point, payload: point in wanted


def _nested(condition: dict[str, Any], where: str) -> Predicate:
    _object(condition, where, allowed=("nested",))
    where = f"{where}.nested"
    fields = _object(condition["nested"], where, allowed=("key", "filter"), required=("key", "filter"))
    steps = _path(fields["key"], where)
    steps = steps[:-1] if steps[-1] is None else steps  # `data` and `data[]` mean the same
    inner = _filter(fields["filter"], f"{where}.filter", nested=True) or _anything

    def test(point: PointId, payload: Mapping[str, Any]) -> bool:
        return any(
            inner(point, element)
            for array in values_at(payload, steps)
            if isinstance(array, list)
            for element in array
            if isinstance(element, dict)
        )

    return test


def _payload_field(
    condition: dict[str, Any], name: str, holds: Callable[[list[Any]], bool], where: str
) -> Predicate:
    _object(condition, where, allowed=(name,))
    fields = _object(condition[name], f"{where}.{name}", allowed=("key",), required=("key",))
    steps = _path(fields["key"], f"{where}.{name}")
    return lambda point, payload: holds(values_at(payload, steps))


def _field(condition: dict[str, Any], where: str) -> Predicate:
    given = {name: value for name, value in condition.items() if value is not None and name != "key"}
    for name in given:
        if name.startswith("geo_"):
            raise InvalidRequest(f"{where}.{name}: geographical conditions are not supported: leave it out")
    _object(given, where, allowed=tuple(_CONDITIONS.split(", ")))
    if len(given) != 1:
        raise InvalidRequest(
            f"{where}: expected exactly one of {_CONDITIONS} beside key, found {', '.join(given) or 'none'}: "
            "write one condition for each"
        )
    steps = _path(condition["key"], where)
    [(name, body)] = given.items()
    where = f"{where}.{name}"
    if name in ("is_empty", "is_null"):
        if not isinstance(body, bool):
            raise InvalidRequest(f"{where}: expected true or false, found {body!r}")
        holds = _is_empty if name == "is_empty" else _is_null
        return lambda point, payload: holds(values_at(payload, steps)) is body
    if name == "values_count":
        within = _count_within(body, where)
        return lambda point, payload: within(values_at(payload, steps))
    takes = _match(body, where) if name == "match" else _range(body, where)

    def test(point: PointId, payload: Mapping[str, Any]) -> bool:
        for value in values_at(payload, steps):
            if any(map(takes, value)) if isinstance(value, list) else takes(value):
                return True
        return False

    return test


def _is_empty(values: list[Any]) -> bool:
    return all(value is None or value == [] for value in values)


def _is_null(values: list[Any]) -> bool:
    return any(value is None or (isinstance(value, list) and None in value) for value in values)


def _count_within(body: object, where: str) -> Callable[[list[Any]], bool]:
    bounds = _bounds(body, where, numbers=(int,))

    def within(values: list[Any]) -> bool:
        if not any(value is not None for value in values):
            return _holds(bounds, 0)
        return any(_holds(bounds, _count(value)) for value in values)

    return within


def _count(value: Any) -> int:
    if isinstance(value, list):
        return len(value)
    return 0 if value is None else 1


# --- match and range -----------------------------------------------------------------------------------


def _match(body: object, where: str) -> _Value:
    kinds = ("value", "any", "except", "text", "text_any", "phrase", "prefix", "substring")
    fields = _object(body, where, allowed=kinds)
    if len(fields) != 1:
        raise InvalidRequest(f"{where}: expected exactly one of {', '.join(kinds)}, found {body!r}")
    [(kind, operand)] = fields.items()
    where = f"{where}.{kind}"
    if kind == "value":
        wanted = _exact(operand, where)
        return lambda value: isinstance(value, bool | int | str) and (type(value), value) == wanted
    if kind in ("any", "except"):
        if not isinstance(operand, list):
            raise InvalidRequest(f"{where}: expected a list of texts or integers, found {operand!r}")
        listed = frozenset(_exact(each, where) for each in operand)
        if kind == "any":
            return lambda value: isinstance(value, bool | int | str) and (type(value), value) in listed
        return lambda value: (
            value is not None and not (isinstance(value, bool | int | str) and (type(value), value) in listed)
        )
    if not isinstance(operand, str):
        raise InvalidRequest(f"{where}: expected a text, found {operand!r}")
    return _text_match(kind, operand)


def _exact(operand: object, where: str) -> tuple[type, object]:
    """Booleans, integers and texts are kept apart although Python finds True equal to 1."""
    if not isinstance(operand, bool | int | str):
        raise InvalidRequest(
            f"{where}: expected a text, an integer or a boolean, found {operand!r}: use range for other numbers"
        )
    return type(operand), operand


def _text_match(kind: str, operand: str) -> _Value:
    if kind == "prefix":
        return lambda value: isinstance(value, str) and value.startswith(operand)
    if kind == "substring":
        return lambda value: isinstance(value, str) and operand in value
    words = _words(operand)
    if kind == "phrase":
        return lambda value: isinstance(value, str) and _contains_run(_words(value), words)
    if kind == "text":
        every = frozenset(words)
        return lambda value: isinstance(value, str) and bool(every) and every.issubset(_words(value))
    some = frozenset(words)
    return lambda value: isinstance(value, str) and not some.isdisjoint(_words(value))


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _contains_run(words: list[str], run: list[str]) -> bool:
    if not run:
        return False
    return any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1))


_Bounds = list[tuple[Callable[[Any, Any], bool], Any]]


def _range(body: object, where: str) -> _Value:
    if isinstance(body, dict) and any(isinstance(bound, str) for bound in body.values()):
        moments = _datetime_bounds(body, where)

        def in_time(value: Any) -> bool:
            moment = parse_datetime(value) if isinstance(value, str) else None
            return moment is not None and _holds(moments, moment)

        return in_time
    bounds = _bounds(body, where, numbers=(int, float))
    return lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and _holds(bounds, value)
    )


def _holds(bounds: _Bounds, value: Any) -> bool:
    return all(compare(value, bound) for compare, bound in bounds)


def _bounds(body: object, where: str, *, numbers: tuple[type, ...]) -> _Bounds:
    fields = _object(body, where, allowed=tuple(_COMPARISONS))
    for name, bound in fields.items():
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, numbers)):
            raise InvalidRequest(f"{where}.{name}: expected a number, found {bound!r}")
    return [(_COMPARISONS[name], bound) for name, bound in fields.items() if bound is not None]


def _datetime_bounds(body: dict[str, Any], where: str) -> _Bounds:
    fields = _object(body, where, allowed=tuple(_COMPARISONS))
    bounds: _Bounds = []
    for name, bound in fields.items():
        if bound is None:
            continue
        moment = parse_datetime(bound) if isinstance(bound, str) else None
        if moment is None:
            raise InvalidRequest(
                f"{where}.{name}: expected a date such as 2024-06-15T12:30:00Z, found {bound!r}"
            )
        bounds.append((_COMPARISONS[name], moment))
    return bounds


# --- shapes --------------------------------------------------------------------------------------------


def _path(key: object, where: str) -> tuple[str | int | None, ...]:
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
