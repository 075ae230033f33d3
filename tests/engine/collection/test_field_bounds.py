"""What indexes say of a condition: never wrong, and exact where a type is asked what it is for."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from tests.engine.collection.test_filters import _bounds, _filters
from tests.engine.collection.test_payload_filters import BOUNDS, LEAVES, OPERANDS, PAYLOADS, SCALARS, UUID
from vectorizer_engine.collection.conditions import Bounds, Rows, Steps
from vectorizer_engine.collection.field_values import FieldIndexer
from vectorizer_engine.collection.filters import compile_filter
from vectorizer_engine.collection.payload_path import parse_path
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.payload_index import FieldIndex, FieldType, open_field_index
from vectorizer_engine.storage.payload_index_writer import FieldWriter


class NoSync(Files):
    def sync(self, descriptor: int) -> None:
        """Nothing is to survive here."""


class Indexed(Rows):
    """Payloads and the indexes of some of their fields."""

    def __init__(self, payloads: Sequence[dict[str, Any]], schema: dict[str, FieldType]) -> None:
        self.payloads = payloads
        self.fields: dict[Steps, FieldIndex] = {}
        with tempfile.TemporaryDirectory() as folder:
            for number, (path, type) in enumerate(schema.items()):
                file = Path(folder) / str(number)
                steps = parse_path(path)
                writer = FieldWriter(type, scratch=Path(folder), files=NoSync())
                indexer = FieldIndexer(type, steps, writer)
                for row, payload in enumerate(payloads):
                    indexer.add(row, payload)
                writer.write(file, rows=len(payloads))
                writer.close()
                self.fields[steps] = open_field_index(file, type, len(payloads))

    @property
    def all(self) -> BitMap:
        return BitMap(range(len(self.payloads)))

    def with_keys(self, keys: Sequence[bytes]) -> BitMap:
        raise NotImplementedError

    def field(self, steps: Steps) -> FieldIndex | None:
        return self.fields.get(steps)

    def ask(self, filter_: dict[str, Any]) -> tuple[Bounds, BitMap]:
        """What the indexes say, and the truth."""
        compiled = compile_filter(filter_)
        assert compiled is not None
        taken = BitMap(row for row, payload in enumerate(self.payloads) if compiled(0, payload))
        return compiled.condition.bounds(self), taken


CLOSE = SCALARS | st.lists(SCALARS, max_size=3)
ELEMENTS = st.lists(st.dictionaries(st.sampled_from("yz"), CLOSE, max_size=2), max_size=3)
ON_X = st.builds(
    lambda key, body: {"key": key, **body},
    st.sampled_from(["x", "x", "x[]", "y"]),
    st.one_of(
        st.fixed_dictionaries({"match": st.fixed_dictionaries({"value": OPERANDS})}),
        st.fixed_dictionaries({"match": st.fixed_dictionaries({"any": st.lists(OPERANDS, max_size=3)})}),
        st.fixed_dictionaries({"match": st.fixed_dictionaries({"except": st.lists(OPERANDS, max_size=3)})}),
        *(
            st.fixed_dictionaries(
                {"match": st.fixed_dictionaries({kind: st.sampled_from(["a b", "b", "", "a"])})}
            )
            for kind in ("text", "text_any", "phrase", "prefix", "substring")
        ),
        st.fixed_dictionaries({"range": _bounds(BOUNDS)}),
        st.fixed_dictionaries({"range": _bounds(st.sampled_from(["2024-06-15T12:30:00Z", "2024-06-15"]))}),
        st.fixed_dictionaries({"is_empty": st.booleans()}),
        st.fixed_dictionaries({"is_null": st.booleans()}),
    ),
)


@settings(max_examples=400, deadline=None)
@given(
    values=st.lists(CLOSE, min_size=3, max_size=12),
    type=st.sampled_from(FieldType),
    conditions=st.lists(ON_X, min_size=1, max_size=12),
)
def test_an_index_never_contradicts_the_payloads(
    values: list[Any], type: FieldType, conditions: list[dict[str, Any]]
) -> None:
    indexed = Indexed([{"x": value} for value in values], {"x": type})
    for condition in conditions:
        bounds, taken = indexed.ask({"must": condition})
        assert bounds.sure <= taken <= bounds.maybe, condition


@settings(max_examples=80, deadline=None)
@given(
    payloads=st.lists(
        PAYLOADS | st.fixed_dictionaries({"x": ELEMENTS}) | st.fixed_dictionaries({"x": CLOSE, "y": CLOSE}),
        min_size=3,
        max_size=10,
    ),
    schema=st.fixed_dictionaries({path: st.sampled_from(FieldType) for path in ("x", "y", "x[].y", "x[].z")}),
    filters=st.lists(
        _filters(
            ON_X
            | LEAVES
            | st.builds(
                lambda of: {"nested": {"key": "x", "filter": of}},
                _filters(
                    ON_X.map(lambda condition: condition | {"key": "z" if "x" in condition["key"] else "y"})
                ),
            )
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_indexes_of_several_fields_never_contradict_the_payloads(
    payloads: list[dict[str, Any]], schema: dict[str, FieldType], filters: list[dict[str, Any]]
) -> None:
    indexed = Indexed(payloads, schema)
    for filter_ in filters:
        if compile_filter(filter_) is not None:
            bounds, taken = indexed.ask(filter_)
            assert bounds.sure <= taken <= bounds.maybe, filter_


OTHER_UUID = str(uuid.UUID(int=7))
CASES: dict[FieldType, tuple[list[Any], list[dict[str, Any]]]] = {
    FieldType.KEYWORD: (
        ["red", "blue", ["red", "green"], [], None, "reddish"],
        [
            {"match": {"value": "red"}},
            {"match": {"any": ["red", "blue"]}},
            {"match": {"except": ["blue"]}},
            {"match": {"prefix": "red"}},
            {"is_empty": True},
            {"is_null": False},
        ],
    ),
    FieldType.INTEGER: (
        [1, -5, [2, 3], 2**62, None],
        [{"match": {"value": 3}}, {"match": {"except": [1]}}, {"range": {"gt": -5, "lte": 2.5}}],
    ),
    FieldType.FLOAT: ([0.5, 3, [-1.25, 8.0], None], [{"range": {"gte": 0.5, "lt": 8}}, {"range": {"gt": 3}}]),
    FieldType.BOOL: (
        [True, False, [True, False]],
        [{"match": {"value": True}}, {"match": {"except": [True]}}],
    ),
    FieldType.DATETIME: (
        ["2024-06-15T12:30:00Z", "2023-01-01", "no date", None],
        [{"range": {"gte": "2024-01-01", "lt": "2025-01-01T00:00:00+02:00"}}],
    ),
    FieldType.UUID: ([UUID, OTHER_UUID, [UUID, OTHER_UUID]], [{"match": {"value": OTHER_UUID}}]),
    FieldType.TEXT: (
        ["The quick fox", "a slow fox", "quick", None, ""],
        [
            {"match": {"text": "Quick fox"}},
            {"match": {"text_any": "slow quick"}},
            {"match": {"phrase": "quick"}},
        ],
    ),
}


@pytest.mark.parametrize(
    ("type", "body"), [(type, body) for type, (_, bodies) in CASES.items() for body in bodies], ids=str
)
def test_what_an_index_is_for_needs_no_payload(type: FieldType, body: dict[str, Any]) -> None:
    indexed = Indexed([{"x": value} for value in CASES[type][0]], {"x": type})
    for filter_ in ({"must": {"key": "x", **body}}, {"must_not": [{"key": "x", **body}]}):
        bounds, taken = indexed.ask(filter_)
        assert bounds.sure == bounds.maybe == taken
        assert 0 < len(taken) < len(indexed.payloads)


@pytest.mark.parametrize(
    ("conditions", "taken"),
    [
        ([{"key": "y", "match": {"value": 1}}, {"key": "z", "match": {"value": 1}}], [0]),
        ([{"key": "y", "match": {"value": 1}}], [0, 1]),
        ([{"key": "y", "is_empty": True}], [1]),
        ([{"is_empty": {"key": "y"}}], [1]),
        ([{"must_not": [{"key": "y", "match": {"value": 1}}]}], [1, 2]),
        ([{"min_should": {"conditions": [{"key": "y", "match": {"value": 2}}], "min_count": 0}}], [0, 1, 2]),
        ([], [0, 1, 2]),
    ],
)
def test_a_nested_filter_is_about_one_element_at_a_time(
    conditions: list[dict[str, Any]], taken: list[int]
) -> None:
    payloads: list[dict[str, Any]] = [
        {"x": [{"y": 1, "z": 1}]},
        {"x": [{"y": 1}, {"z": 1}]},
        {"x": [{"y": 3, "z": 1}]},
        {"x": []},
    ]
    indexed = Indexed(payloads, dict.fromkeys(["x[].y", "x[].z", "y"], FieldType.INTEGER))
    bounds, found = indexed.ask({"must": [{"nested": {"key": "x", "filter": {"must": conditions}}}]})
    assert found.to_array().tolist() == taken
    assert bounds.sure <= found <= bounds.maybe


def test_a_filter_that_is_indexed_in_part_leaves_little_to_read() -> None:
    payloads = [{"x": row % 10, "y": row, "parts": [{"z": "a"}, {"z": str(row)}]} for row in range(100)]
    indexed = Indexed(payloads, {"x": FieldType.INTEGER, "parts[].z": FieldType.KEYWORD})
    three = {"key": "x", "match": {"value": 3}}
    unindexed = {"key": "y", "range": {"gt": 50}}
    nested = {"nested": {"key": "parts", "filter": {"must": [{"key": "z", "match": {"value": "7"}}]}}}

    bounds, taken = indexed.ask({"must": [three, unindexed]})
    assert (len(bounds.sure), len(bounds.maybe), len(taken)) == (0, 10, 5)
    bounds, taken = indexed.ask({"should": [three, nested]})
    assert bounds.sure == bounds.maybe == taken == BitMap([*range(3, 100, 10), 7])
    bounds, taken = indexed.ask({"min_should": {"conditions": [three, nested, unindexed], "min_count": 2}})
    assert bounds.maybe == BitMap([*range(3, 100, 10), 7])
    assert taken == BitMap(range(53, 100, 10))


@pytest.mark.parametrize(
    ("type", "values", "body", "taken"),
    [
        (FieldType.TEXT, [["quick", "fox"], "fox quick"], {"match": {"text": "quick fox"}}, [1]),
        (FieldType.FLOAT, [2**53, 2**53 + 1], {"range": {"gt": 2**53}}, [1]),
        (FieldType.FLOAT, [2**53, 2.0**53 + 2], {"range": {"gt": 2**53 + 1}}, [1]),
        (FieldType.INTEGER, [2**63 - 1, 2**63], {"range": {"gte": 2**63}}, [1]),
        (FieldType.INTEGER, [2, 3], {"range": {"lt": 2.5}}, [0]),
        (FieldType.INTEGER, [2, 3], {"range": {"gt": 2.5}}, [1]),
        (FieldType.INTEGER, [-3, -2], {"range": {"lte": -2.5}}, [0]),
        (FieldType.INTEGER, [-3, -2], {"range": {"gte": -2.5}}, [1]),
        (FieldType.KEYWORD, [["a", "b"], ["a", "b", "c"]], {"match": {"except": ["a", "b"]}}, [1]),
        (FieldType.KEYWORD, ["a", 1, ["a", 1]], {"match": {"except": ["a"]}}, [1, 2]),
        (FieldType.INTEGER, [1, 1.0, True], {"match": {"value": 1}}, [0]),
        (FieldType.FLOAT, [1, 1.0, True], {"match": {"value": 1}}, [0]),
        (FieldType.UUID, [UUID, UUID.upper()], {"match": {"value": UUID.upper()}}, [1]),
    ],
)
def test_what_an_index_cannot_hold_exactly_is_left_to_the_payload(
    type: FieldType, values: list[Any], body: dict[str, Any], taken: list[int]
) -> None:
    bounds, found = Indexed([{"x": value} for value in values], {"x": type}).ask(
        {"must": {"key": "x", **body}}
    )
    assert found.to_array().tolist() == taken
    assert bounds.sure <= found <= bounds.maybe
