"""A collection that is split over shards, held against one that is not: every answer is the same.

No network: operations and results are encoded and decoded as they travel, and merged by member and then altogether.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.engine.collection.model import assert_same, everything, open_store
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.filters import Filter, compile_filter
from vectorizer_engine.collection.records import Record, Scored, Wanted
from vectorizer_engine.collection.shard import Shard
from vectorizer_engine.collection.types import CollectionParams, Distance, PointId
from vectorizer_engine.distributed.contents import Content
from vectorizer_engine.distributed.messages import Job, Request
from vectorizer_engine.distributed.operations import INLINE_BYTES, Operation, shard_of
from vectorizer_engine.distributed.partial import Partial
from vectorizer_engine.distributed.spread import SpreadCollection
from vectorizer_engine.errors import Fenced, PointNotFound, StorageFailure, WriteInDoubt
from vectorizer_engine.storage.keys import encode_id
from vectorizer_engine.storage.payload_index import FieldType

IDS: list[PointId] = [*range(25), *(uuid.UUID(int=number << 64) for number in range(10))]
payloads = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), max_size=2)
ids = st.lists(st.sampled_from(IDS), max_size=8)


class Wire:
    """In the place of a `Router`: each shard is a collection of its own, and each member has some of them."""

    def __init__(self, shards: Sequence[Collection], members: int) -> None:
        self._shards = shards
        self._members = members
        self.longest = 0
        self.asked = 0

    def ask(
        self,
        token: str,
        name: str,
        operations: Mapping[int, Operation],
        *,
        copies: int = 1,
        partial: Partial | None = None,
    ) -> Any:
        self.asked += 1
        operation = next(iter(operations.values()))
        by_member: dict[int, list[Job]] = {}
        for shard, each in operations.items():
            by_member.setdefault(shard % self._members, []).append(Job([shard], each))  # type: ignore[arg-type]
        results = []
        for jobs in by_member.values():
            sent = msgspec.msgpack.encode(Request(token, 1, jobs))
            received = msgspec.msgpack.decode(sent, type=Request)
            found = [job.operation.run(self._shards[shard]) for job in received.jobs for shard in job.shards]
            merged = found[0] if len(found) == 1 else operation.merge(found)
            back = msgspec.msgpack.encode(merged)
            self.longest = max(self.longest, len(back))
            results.append(operation.result_decoder.decode(back))
        return results[0] if len(results) == 1 else operation.merge(results)


def where(**wanted: int) -> Filter:
    return compile_filter({"must": [{"key": key, "match": {"value": each}} for key, each in wanted.items()]})


class SplitMachine(RuleBasedStateMachine):
    @initialize(
        shards=st.sampled_from([1, 2, 3, 5]),
        members=st.integers(1, 3),
        distance=st.sampled_from([Distance.DOT, Distance.EUCLID]),
    )
    def start(self, shards: int, members: int, distance: Distance) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = open_store(self.folder)
        params = CollectionParams(2, distance)
        self.whole = self.store.create_collection("whole", params)
        parts = [self.store.create_collection(f"part-{each}", params) for each in range(shards)]
        self.split = SpreadCollection(
            "split",
            params,
            tenant="",
            token="t",
            copies=1,
            shards=shards,
            router=Wire(parts, members),  # type: ignore[arg-type]
        )

    @rule(batch=st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 4), payloads), max_size=15))
    def upsert(self, batch: list[tuple[PointId, int, dict[str, int]]]) -> None:
        """Of five vectors only, so that many scores are equal."""
        chosen = [point for point, _, _ in batch]
        vectors = np.array([(seed, 1 - seed) for _, seed, _ in batch], np.float32).reshape(-1, 2)
        for collection in (self.whole, self.split):
            collection.upsert(chosen, vectors, [payload for _, _, payload in batch])

    @rule(points=ids)
    def delete(self, points: list[PointId]) -> None:
        for collection in (self.whole, self.split):
            collection.delete(ids=points)

    @rule(value=st.integers(0, 2))
    def delete_by_filter(self, value: int) -> None:
        for collection in (self.whole, self.split):
            collection.delete(predicate=where(a=value, b=value))

    @rule(points=ids, payload=payloads, value=st.integers(0, 2), kind=st.sampled_from("spdc"))
    def change_payloads(self, points: list[PointId], payload: dict[str, int], value: int, kind: str) -> None:
        known = [record.id for record in self.whole.retrieve(points)]
        for collection in (self.whole, self.split):
            match kind:
                case "s":
                    collection.set_payload(payload, ids=known)
                case "p":
                    collection.overwrite_payload(payload, predicate=where(a=value))
                case "d":
                    collection.delete_payload(["a"], ids=known)
                case "c":
                    collection.clear_payload(predicate=where(b=value))

    @invariant()
    def it_holds_the_same(self) -> None:
        assert_same(everything(self.split), everything(self.whole))  # type: ignore[arg-type]
        assert self.split.count() == self.whole.count() == self.split.info().points
        for predicate in (where(a=1), where(b=0, c=2)):
            assert self.split.count(predicate) == self.whole.count(predicate)
        asked = [IDS[3], IDS[30], IDS[3], IDS[7]]
        assert [each.id for each in self.split.retrieve(asked)] == [
            each.id for each in self.whole.retrieve(asked)
        ]

    @invariant()
    def pages_of_a_filter_are_the_same(self) -> None:
        start: PointId | None = None
        while True:
            mine, following = self.split.scroll(start=start, limit=3, predicate=where(c=1))
            theirs, expected = self.whole.scroll(start=start, limit=3, predicate=where(c=1))
            assert [each.id for each in mine] == [each.id for each in theirs]
            assert following == expected
            if (start := following) is None:
                break

    @invariant()
    def it_finds_the_same(self) -> None:
        queries = np.array([(1, 0.5), (-1, 3)], np.float32)
        for offset, predicate, threshold in ((0, None, None), (2, where(a=0), None), (0, None, 1.0)):
            mine, theirs = (
                collection.search(
                    queries, limit=6, offset=offset, predicate=predicate, score_threshold=threshold
                )
                for collection in (self.split, self.whole)
            )
            for found, expected in zip(mine, theirs, strict=True):
                assert [hit.score for hit in found] == [hit.score for hit in expected]
                # Of equal scores any may be among the last.
                assert _before_the_last(found) == _before_the_last(expected) or offset
                for hit in found:
                    (point,) = self.whole.retrieve([hit.id])
                    assert hit.payload == point.payload
                    np.testing.assert_array_equal(hit.vector, point.vector)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


def _before_the_last(hits: Sequence[Scored]) -> set[PointId]:
    return {hit.id for hit in hits if hit.score != hits[-1].score}


TestSplitMachine = SplitMachine.TestCase
TestSplitMachine.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture
def spread(tmp_path: Path) -> tuple[SpreadCollection, Wire]:
    store = open_store(tmp_path)
    params = CollectionParams(2, Distance.DOT)
    wire = Wire([store.create_collection(f"part-{each}", params) for each in range(4)], 2)
    collection = SpreadCollection("c", params, tenant="", token="t", shards=4, copies=1, router=wire)  # type: ignore[arg-type]
    return collection, wire


def test_an_answer_carries_no_more_along_than_it_may_and_the_rest_is_fetched_when_it_is_read(
    spread: tuple[SpreadCollection, Wire],
) -> None:
    collection, wire = spread
    texts = {each: chr(ord("a") + each % 26) * (INLINE_BYTES // 16) for each in range(60)}
    for each, text in texts.items():
        collection.upsert([each], np.ones((1, 2), np.float32), [{"t": text}])
    wire.longest = 0
    records, _ = collection.scroll(limit=60, wanted=Wanted(payload=True, vector=False))
    assert wire.longest < INLINE_BYTES
    assert {each.id: each.payload["t"] for each in records} == texts
    (hits,) = collection.search(np.ones((1, 2), np.float32), limit=60)
    assert {each.id: (each.payload["t"], *each.vector) for each in hits} == {
        each: (text, 1.0, 1.0) for each, text in texts.items()
    }


def test_payload_indexes_are_told_of_all_shards_together(spread: tuple[SpreadCollection, Wire]) -> None:
    collection, _ = spread
    collection.upsert(list(range(40)), np.ones((40, 2), np.float32), [{"n": each} for each in range(40)])
    collection.create_payload_index("n", FieldType.INTEGER)
    assert collection.payload_schema()["n"].points == 40
    number = collection.last_operation
    collection.delete_payload_index("n")
    assert collection.payload_schema() == {}
    assert collection.upsert([], np.empty((0, 2), np.float32), []) == collection.last_operation >= number
    with pytest.raises(PointNotFound, match="holds no point with id 77"):
        collection.set_payload({"a": 1}, ids=[77])


@pytest.mark.parametrize("step", [1, 2])
def test_a_change_that_is_stopped_halfway_is_in_doubt_and_one_that_had_not_begun_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Else it would be done again by the new owner, over what others have written since."""
    monkeypatch.setattr("vectorizer_engine.collection.collection._POINTS_AT_ONCE", 10)
    collection = open_store(tmp_path).create_collection("c", CollectionParams(2, Distance.DOT))
    collection.upsert(list(range(40)), np.ones((40, 2), np.float32), [{"a": 1}] * 40)
    original, calls = Shard.change_payload, iter(range(1, 10))

    def fenced(*arguments: Any, **options: Any) -> int:
        if next(calls) == step:
            raise Fenced("another process has taken over")
        return original(*arguments, **options)

    monkeypatch.setattr(Shard, "change_payload", fenced)
    with pytest.raises(Fenced if step == 1 else WriteInDoubt, match=r"taken over|part of the points"):
        collection.set_payload({"a": 2}, predicate=where(a=1))
    assert collection.count(where(a=2)) == 10 * (step - 1)


def test_a_point_stays_in_its_shard_for_ever() -> None:
    """What this test holds is where the points of all clusters are: it must not be changed."""
    keys = [encode_id(point) for point in (0, 1, 2, 2**64 - 1, uuid.UUID(int=5))]
    assert [[shard_of(key, shards) for key in keys] for shards in (6, 64)] == [
        [3, 1, 0, 4, 4],
        [41, 3, 22, 0, 28],
    ]


def held(records: Sequence[Record]) -> int:
    """Bytes of payloads and vectors that an answer holds at this moment."""
    place = records[0].place
    assert isinstance(place, Content)
    points = place._contents._points
    return sum(len(point.payload or b"") + len(point.vector or b"") for point in points)


def test_what_did_not_come_along_comes_many_points_at_a_time_and_no_more_is_held_than_may_be(
    spread: tuple[SpreadCollection, Wire],
) -> None:
    collection, wire = spread
    text = "t" * (INLINE_BYTES // 64)
    collection.upsert(range(400), np.ones((400, 2), np.float32), [{"t": text}] * 400)
    wire.asked = 0
    records, _ = collection.scroll(limit=400)
    for record in records:
        assert record.payload == {"t": text}
        assert record.vector.tolist() == [1, 1]
        assert held(records) <= INLINE_BYTES
    assert wire.asked < 20, "of which seven would be the least"


def test_points_are_read_in_any_order(spread: tuple[SpreadCollection, Wire]) -> None:
    collection, _ = spread
    texts = [str(each) * (INLINE_BYTES // 20) for each in range(40)]
    collection.upsert(range(40), np.ones((40, 2), np.float32), [{"t": text} for text in texts])
    records = collection.retrieve([*range(40), 3, 3])
    for each in (39, 0, 20, 5, 40, 4, 41):
        assert records[each].payload == {"t": texts[each if each < 40 else 3]}


def test_a_point_that_is_larger_than_what_may_come_along_arrives_between_others(
    spread: tuple[SpreadCollection, Wire],
) -> None:
    collection, _ = spread
    texts = ["s", "t" * 2 * INLINE_BYTES, "u" * (INLINE_BYTES // 2), "v" * 3 * INLINE_BYTES, "w"]
    collection.upsert(range(5), np.ones((5, 2), np.float32), [{"t": text} for text in texts])
    assert [record.payload for record in collection.retrieve(range(5))] == [{"t": text} for text in texts]


def test_a_point_that_is_deleted_while_it_is_read_is_an_error(
    spread: tuple[SpreadCollection, Wire],
) -> None:
    collection, _ = spread
    collection.upsert([1, 2], np.ones((2, 2), np.float32), [{"t": "t" * 2 * INLINE_BYTES}] * 2)
    first, second = collection.retrieve([1, 2])
    collection.delete(ids=[2])
    assert first.payload is not None
    with pytest.raises(StorageFailure, match="point 2 was deleted while it was read"):
        second.payload  # noqa: B018
