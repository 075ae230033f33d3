"""Filters, held against the one that Qdrant's Python client carries for its own in-memory mode."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.local.payload_filters import check_filter

from vectorizer_engine.collection.filters import compile_filter
from vectorizer_engine.collection.moments import parse_datetime
from vectorizer_engine.errors import InvalidRequest

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([0.5, 1.0, -2.5]),
    st.sampled_from(["a", "b c", "B", "a b c", "2024-06-15T12:30:00Z", "2024-06-15", "", "2024-06-15 12"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3)
PATHS = st.sampled_from(
    ["x", "y", "x.y", "x[]", "x[].y", "x[0]", "x[0].y", "x[][]", "y.z", '"x".y', "nowhere"]
)
OPERANDS = st.one_of(st.booleans(), st.integers(-2, 3), st.sampled_from(["a", "b c", "B", ""]))
LISTS = st.lists(st.integers(-2, 3), max_size=3) | st.lists(st.sampled_from(["a", "B"]), max_size=3)
TEXTS = st.sampled_from(["a", "b c", "B", "", "c a", "a b"])


def _bounds(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["lt", "lte", "gt", "gte"])
    return st.dictionaries(names, values, min_size=1, max_size=2)


MATCHES = st.one_of(
    st.fixed_dictionaries({"value": OPERANDS}),
    st.fixed_dictionaries({"any": LISTS}),
    st.fixed_dictionaries({"except": LISTS}),
    *(st.fixed_dictionaries({kind: TEXTS}) for kind in ("text", "text_any", "phrase", "prefix", "substring")),
)
MOMENTS = st.sampled_from(["2024-06-15T12:30:00Z", "2024-06-15T00:00:00", "2024-06-15T14:30:00+02:00"])
FIELDS = st.builds(
    lambda key, body: {"key": key, **body},
    PATHS,
    st.one_of(
        st.fixed_dictionaries({"match": MATCHES}),
        st.fixed_dictionaries({"range": _bounds(st.sampled_from([-1, 0, 0.5, 2]))}),
        st.fixed_dictionaries({"range": _bounds(MOMENTS)}),
        st.fixed_dictionaries({"values_count": _bounds(st.integers(0, 3))}),
        st.fixed_dictionaries({"is_empty": st.booleans()}),
        st.fixed_dictionaries({"is_null": st.booleans()}),
    ),
)
LEAVES = st.one_of(
    FIELDS,
    st.builds(lambda key: {"is_empty": {"key": key}}, PATHS),
    st.builds(lambda key: {"is_null": {"key": key}}, PATHS),
)


def _filters(conditions: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    clause = conditions | st.lists(conditions, min_size=1, max_size=3)
    return st.one_of(
        st.fixed_dictionaries({"must": clause}),
        st.fixed_dictionaries({"should": clause, "must_not": clause}),
        st.builds(
            lambda several, least: {"min_should": {"conditions": several, "min_count": least}},
            st.lists(conditions, min_size=1, max_size=3),
            st.integers(0, 3),
        ),
    )


CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        _filters(inner),
        st.builds(lambda key, of: {"nested": {"key": key, "filter": of}}, PATHS, _filters(inner)),
    ),
    max_leaves=5,
)
TOP = CONDITIONS | st.builds(lambda ids: {"has_id": ids}, st.lists(st.integers(0, 3), max_size=3))


@settings(max_examples=400, deadline=None)
@given(filter_=_filters(TOP), payload=PAYLOADS, point=st.integers(0, 3))
def test_a_filter_takes_the_points_that_qdrants_own_client_takes(
    filter_: dict[str, Any], payload: dict[str, Any], point: int
) -> None:
    expected = check_filter(models.Filter(**filter_), payload, point, {})

    predicate = compile_filter(filter_)

    assert (predicate is None or predicate(point, payload)) == expected


@pytest.mark.parametrize("filter_", [None, {}, {"must": []}, {"must": None, "should": []}, {"must": [{}]}])
def test_a_filter_without_conditions_takes_everything(filter_: object) -> None:
    assert compile_filter(filter_) is None


def test_has_id_takes_integers_and_uuids_in_any_spelling() -> None:
    wanted = uuid.UUID("12345678-1234-5678-1234-567812345678")

    predicate = compile_filter({"must": {"has_id": [7, "12345678123456781234567812345678"]}})

    assert predicate is not None
    assert [predicate(point, {}) for point in (7, wanted, 8, uuid.uuid4())] == [True, True, False, False]


@pytest.mark.parametrize(
    ("filter_", "names"),
    [
        ([], "filter: expected an object"),
        ({"musst": []}, "'musst' is not known"),
        ({"must": [7]}, "filter.must[0]"),
        ({"must": [{"key": "x"}]}, "exactly one of match"),
        ({"must": [{"key": "x", "match": {"value": 1}, "range": {"lt": 1}}]}, "exactly one of match"),
        ({"must": [{"key": 1, "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "a.", "match": {"value": 1}}]}, "'a.' is not a payload path"),
        ({"must": [{"key": 'a"b"', "match": {"value": 1}}]}, "is not a payload path"),
        ({"must": [{"key": "", "match": {"value": 1}}]}, "is not a payload path"),
        ({"must": [{"key": "x", "match": {}}]}, "filter.must[0].match"),
        ({"must": [{"key": "x", "match": {"value": 0.5}}]}, "use range"),
        ({"must": [{"key": "x", "match": {"any": "a"}}]}, "filter.must[0].match.any: expected a list"),
        ({"must": [{"key": "x", "match": {"text": 1}}]}, "filter.must[0].match.text: expected a text"),
        ({"must": [{"key": "x", "range": {"lt": True}}]}, "filter.must[0].range.lt: expected a number"),
        ({"must": [{"key": "x", "range": {"below": 1}}]}, "'below' is not known"),
        ({"must": [{"key": "x", "range": {"lt": "soon"}}]}, "expected a date"),
        ({"must": [{"key": "x", "range": {"lt": "2024-06-15", "gt": 1}}]}, "range.gt: expected a date"),
        ({"must": [{"key": "x", "values_count": {"lt": 0.5}}]}, "values_count.lt: expected a number"),
        ({"must": [{"key": "x", "is_empty": 1}]}, "expected true or false"),
        ({"must": [{"is_empty": {}}]}, "'key' is missing"),
        ({"must": [{"key": "x", "geo_radius": {"radius": 1}}]}, "geographical conditions are not supported"),
        ({"must": [{"has_vector": "a"}]}, "has_vector conditions are not supported"),
        ({"must": [{"slice": {"total": 2, "index": 0}}]}, "slice conditions are not supported"),
        ({"must": [{"has_id": 7}]}, "filter.must[0].has_id: expected a list"),
        ({"must": [{"has_id": [True]}]}, "True is no point id"),
        ({"must": [{"has_id": [-1]}]}, "-1 is no point id"),
        ({"must": [{"has_id": ["x"]}]}, "'x' is no point id"),
        ({"must": [{"nested": {"key": "x"}}]}, "'filter' is missing"),
        ({"must": [{"nested": {"key": "x", "filter": {"must": [{"has_id": [1]}]}}}]}, "inside nested"),
        ({"min_should": {"conditions": [], "min_count": -1}}, "min_count: expected a whole number"),
    ],
)
def test_a_wrong_filter_is_refused_with_its_place(filter_: object, names: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        compile_filter(filter_)
    assert names in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-06-15T12:30:00Z", "2024-06-15T12:30:00+00:00"),
        ("2024-06-15 12:30:00.5+02", "2024-06-15T10:30:00.500000+00:00"),
        ("2024-06-15T12:30:00.123456789z", "2024-06-15T12:30:00.123456+00:00"),
        ("2024-06-15T12:30", "2024-06-15T12:30:00+00:00"),
        ("2024-06-15", "2024-06-15T00:00:00+00:00"),
        ("2024-06-15T12:30:00 UTC", "2024-06-15T12:30:00+00:00"),
        ("2024-06-15 12", None),
        ("2024-13-15", None),
        ("9999-12-31T23:59:59-10:00", None),
        ("soon", None),
    ],
)
def test_a_datetime_is_read_in_qdrants_forms(text: str, moment: str | None) -> None:
    parsed = parse_datetime(text)
    assert (parsed and parsed.isoformat()) == moment
