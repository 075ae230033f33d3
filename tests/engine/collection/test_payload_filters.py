"""Filters on a real collection take the same points with and without payload indexes, whatever happens to it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.engine.collection import test_filters
from tests.engine.collection.model import open_store, params, vectors_of
from vectorizer_engine.collection.filters import EVERY_POINT, compile_filter
from vectorizer_engine.storage.payload_index import FieldType

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

UUID = "1234abcd-1234-5678-1234-567812345678"
SCALARS = test_filters.SCALARS | st.sampled_from(
    [
        2**53 + 1,
        2**63,
        -(2**63),
        1e300,
        -0.0,
        3.0,
        UUID,
        UUID.upper(),
        "a a",
        "b",
        "2024-06-15T14:30:00+02:00",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(st.sampled_from("xyz"), SCALARS | VALUES, max_size=3)
PATHS = st.sampled_from(["x", "y", "z", "x.y", "x[]", "x[].y", "x[].y[].z", "x[0]", '"x".y', "y[].x"])
IDS = st.integers(0, 25)

OPERANDS = test_filters.OPERANDS | st.sampled_from([2**63, 2**53 + 1, UUID, UUID.upper()])
BOUNDS = st.sampled_from([-1, 0, 0.5, 2, 2.5, -0.5, 2**53 + 1, 2**63, 10**400, -(10**400), 1e300])
FIELDS = st.builds(
    lambda key, body: {"key": key, **body},
    PATHS,
    st.one_of(
        st.fixed_dictionaries({"match": st.fixed_dictionaries({"value": OPERANDS})}),
        st.fixed_dictionaries({"match": st.fixed_dictionaries({"any": st.lists(OPERANDS, max_size=3)})}),
        st.fixed_dictionaries({"match": st.fixed_dictionaries({"except": st.lists(OPERANDS, max_size=3)})}),
        st.fixed_dictionaries({"range": test_filters._bounds(BOUNDS)}),
    ),
)
HAS_ID = st.builds(lambda ids: {"has_id": ids}, st.lists(IDS, max_size=4))
LEAVES = FIELDS | test_filters.LEAVES
CONDITIONS = st.recursive(
    LEAVES | HAS_ID,
    lambda inner: st.one_of(
        test_filters._filters(inner),
        st.builds(
            lambda key, of: {"nested": {"key": key, "filter": of}}, PATHS, test_filters._filters(LEAVES)
        ),
    ),
    max_leaves=4,
)
FILTERS = test_filters._filters(CONDITIONS)


class FilteredCollection(RuleBasedStateMachine):
    @initialize(indexed=st.dictionaries(PATHS, st.sampled_from(FieldType), max_size=4))
    def start(self, indexed: dict[str, FieldType]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = open_store(self.folder)
        self.collection = self.store.create_collection("c", params())
        self.payloads: dict[int, dict[str, Any]] = {}
        for path, type in indexed.items():
            self.collection.create_payload_index(path, type)

    @rule(batch=st.dictionaries(IDS, PAYLOADS, min_size=1, max_size=12))
    def upsert(self, batch: dict[int, dict[str, Any]]) -> None:
        self.collection.upsert(list(batch), vectors_of(list(batch)), list(batch.values()))
        self.payloads |= {point: msgspec.json.decode(msgspec.json.encode(p)) for point, p in batch.items()}

    @rule(points=st.lists(IDS, max_size=5))
    def delete(self, points: list[int]) -> None:
        self.collection.delete(ids=points)
        for point in points:
            self.payloads.pop(point, None)

    @rule(filter_=FILTERS)
    def delete_what_a_filter_takes(self, filter_: dict[str, Any]) -> None:
        taken = self.taken(filter_)
        self.collection.delete(predicate=compile_filter(filter_) or EVERY_POINT)
        self.payloads = {point: kept for point, kept in self.payloads.items() if point not in taken}

    @rule(filter_=FILTERS, value=SCALARS)
    def change_what_a_filter_takes(self, filter_: dict[str, Any], value: Any) -> None:
        taken = self.taken(filter_)
        self.collection.overwrite_payload({"x": value}, predicate=compile_filter(filter_) or EVERY_POINT)
        self.payloads |= {point: {"x": value} for point in taken}

    @rule(path=PATHS, type=st.sampled_from(FieldType), wait=st.booleans())
    def index(self, path: str, type: FieldType, wait: bool) -> None:
        assert self.collection.create_payload_index(path, type, wait=wait) is wait
        assert self.collection.payload_schema()[path].type is type

    @rule(path=PATHS)
    def drop_index(self, path: str) -> None:
        self.collection.delete_payload_index(path)
        assert path not in self.collection.payload_schema()

    @rule()
    def restart(self) -> None:
        before = self.collection.payload_schema().keys()
        self.store.close()
        self.store = open_store(self.folder)
        self.collection = self.store.collection("c")
        assert self.collection.payload_schema().keys() == before

    @rule(filters=st.lists(FILTERS, min_size=3, max_size=8), twice=st.booleans())
    def ask(self, filters: list[dict[str, Any]], twice: bool) -> None:
        for filter_ in filters + filters * twice:
            predicate = compile_filter(filter_)
            taken = self.taken(filter_)
            page, _ = self.collection.scroll(limit=100, predicate=predicate)
            assert [record.id for record in page] == taken, filter_
            assert self.collection.count(predicate) == len(taken), filter_
            (found,) = self.collection.search(vectors_of([1]), limit=100, predicate=predicate)
            assert sorted(hit.id for hit in found) == taken, filter_

    def taken(self, filter_: dict[str, Any]) -> list[int]:
        predicate = compile_filter(filter_)
        return [
            point
            for point, payload in sorted(self.payloads.items())
            if predicate is None or predicate(point, payload)
        ]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


TestFilteredCollection = FilteredCollection.TestCase
TestFilteredCollection.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
