"""A collection against a dictionary, through restarts and crashes of a disk that forgets."""

from __future__ import annotations

import random
import shutil
import tempfile
import uuid
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.engine.collection.model import (
    RESTLESS,
    Points,
    assert_same,
    everything,
    open_store,
    params,
    scores,
    vectors_of,
)
from tests.engine.disks import ForgetfulDisk
from vectorizer_engine.collection.types import Distance, PointId

IDS: list[PointId] = [*range(30), *(uuid.UUID(int=number << 64) for number in range(10))]
ids = st.lists(st.sampled_from(IDS), max_size=12)
payloads = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=2)
waits = st.booleans()
"""A write that does not wait is as durable. Nobody else writes here, so it is as visible too."""


class CollectionMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = Path(tempfile.mkdtemp())
        self.life = 0
        self.disk = ForgetfulDisk()
        self.store = open_store(self.folder, files=self.disk, limits=RESTLESS)
        self.collection = self.store.create_collection("c", params())
        self.model: Points = {}

    @property
    def folder(self) -> Path:
        return self.root / str(self.life)

    @rule(
        batch=st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 99), payloads), max_size=20), wait=waits
    )
    def upsert(self, batch: list[tuple[PointId, int, dict[str, int]]], wait: bool) -> None:
        vectors = vectors_of([seed for _, seed, _ in batch])
        self.collection.upsert(
            [point for point, _, _ in batch], vectors, [payload for _, _, payload in batch], wait=wait
        )
        for row, (point, _, payload) in enumerate(batch):
            self.model[point] = (vectors[row], payload)

    @rule(points=ids, wait=waits)
    def delete(self, points: list[PointId], wait: bool) -> None:
        self.collection.delete(ids=points, wait=wait)
        for point in points:
            self.model.pop(point, None)

    @rule(value=st.integers(0, 3), wait=waits)
    def delete_by_filter(self, value: int, wait: bool) -> None:
        self.collection.delete(predicate=lambda _, payload: payload.get("a") == value, wait=wait)
        self.model = {point: kept for point, kept in self.model.items() if kept[1].get("a") != value}

    @rule(points=ids, payload=payloads, wait=waits)
    def set_payload(self, points: list[PointId], payload: dict[str, int], wait: bool) -> None:
        known = [point for point in points if point in self.model]
        self.collection.set_payload(payload, ids=known, wait=wait)
        for point in known:
            vector, old = self.model[point]
            self.model[point] = (vector, {**old, **payload})

    @rule(value=st.integers(0, 3), wait=waits)
    def clear_payload_by_filter(self, value: int, wait: bool) -> None:
        self.collection.clear_payload(predicate=lambda _, payload: payload.get("b") == value, wait=wait)
        for point, (vector, payload) in self.model.items():
            if payload.get("b") == value:
                self.model[point] = (vector, {})

    @rule()
    def restart(self) -> None:
        self.store.close()
        self._open()

    @rule()
    def crash(self) -> None:
        old = self.store
        before = self.folder
        self.life += 1
        self.disk.crash(before, self.folder, survives=lambda: self.random.random() < 0.5)
        self.disk = ForgetfulDisk()
        for path in (self.folder, *self.folder.rglob("*")):
            if path.is_file():
                self.disk.sync_file(path)
            else:
                self.disk.sync_folder(path)
        old.close()
        self._open()

    def _open(self) -> None:
        self.store = open_store(self.folder, files=self.disk, limits=RESTLESS)
        self.collection = self.store.collection("c")
        assert self.collection.info().problems == ()

    @invariant()
    def holds_what_was_acknowledged(self) -> None:
        assert_same(everything(self.collection), self.model)
        assert self.collection.count() == self.collection.info().points == len(self.model)

    @invariant()
    def finds_the_nearest(self) -> None:
        query = vectors_of([12345])
        (found,) = self.collection.search(query, limit=5)
        rows = np.array([vector for vector, _ in self.model.values()]).reshape(-1, 4)
        expected = np.sort(scores(query[0], rows, Distance.DOT))[::-1][:5]
        np.testing.assert_allclose([hit.score for hit in found], expected, rtol=1e-5, atol=1e-6)

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.store.close()
            shutil.rmtree(self.root)


TestCollectionMachine = CollectionMachine.TestCase
TestCollectionMachine.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
