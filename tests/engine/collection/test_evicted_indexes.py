"""Open indexes give way to what needs memory, searches go on exactly without them, and they come back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.engine.children import output_of
from tests.engine.collection.model import MiB, params
from tests.engine.collection.test_collection import wait_until
from tests.engine.collection.test_indexing import fill, indexed, open_at, recall
from tests.engine.index.samples import clustered, exact
from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import (
    SERVING_SECONDS,
    CacheMemoryManager,
    CacheType,
    Charge,
    EvictionReason,
    LookupResult,
)
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.segment_index import SegmentIndex
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.index.base import Distance, Hits, Mask, Vectors
from vectorizer_engine.index.planner import LayoutPlan, SegmentLayout
from vectorizer_engine.storage.files import Files

VECTORS = clustered(600, 8)
PLAN = LayoutPlan(SegmentLayout.HNSW_SQ8, "for the test")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "index"
    BACKENDS[PLAN.layout].build(path, VECTORS, Distance.DOT, threads=1, files=Files())
    return path


@pytest.fixture(autouse=True)
def asking_at_every_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vectorizer_engine.collection.segment_index.ASK_SECONDS", 0.0)


def index_of(file: Path, memory: CacheMemoryManager) -> SegmentIndex:
    """An index that is opened when a search has asked for it, by the searching thread itself."""
    return SegmentIndex(
        file, PLAN, VECTORS, Distance.DOT, memory=memory, threads=1, ask=lambda index: bool(index.open())
    )


def search(index: SegmentIndex, row: int = 7) -> None:
    """Its scores are true, whether the index is open or not."""
    (found,) = index.search(VECTORS[row : row + 1], 5, mask=None, ef=None)
    (true,) = exact(VECTORS, Distance.DOT, VECTORS[row : row + 1], 5)
    assert len(found.offsets) == 5
    assert len(set(found.offsets.tolist()) & set(true.offsets.tolist())) >= 4
    np.testing.assert_allclose(found.scores, VECTORS[found.offsets] @ VECTORS[row], rtol=1e-5)


ONE = SegmentIndex(
    Path(), PLAN, VECTORS, Distance.DOT, memory=CacheMemoryManager(1), threads=1, ask=lambda _: None
).nbytes


def room_for(indexes: int) -> int:
    """The smallest limit under which so many indexes may be open."""
    return -(-ONE * indexes * 100 // 85) + 1


def test_an_index_that_was_evicted_is_opened_again_by_a_search(tmp_path: Path) -> None:
    memory = CacheMemoryManager(64 * MiB)
    store = open_at(tmp_path, memory=memory)
    collection = fill(store)
    wait_until(lambda: indexed(collection))
    (file,) = tmp_path.rglob("index.hnsw-sq8")
    written = file.stat().st_mtime_ns
    memory.evict_down_to(0)
    assert memory.snapshot().by_cache[CacheType.HNSW] == 0
    assert memory.snapshot().evictions == {(CacheType.HNSW, EvictionReason.MEMORY_LIMIT): 1}
    (layout,) = collection.info().layouts
    assert (layout.layout, collection.info().indexed_vectors) == ("exact", 0)
    assert layout.reason.startswith("hnsw-sq8 is closed")
    hog = memory.reserve(CacheType.METADATA, memory.available())
    assert hog is not None
    assert recall(collection) == 1, "every vector is compared"
    assert not indexed(collection)
    hog.release()
    wait_until(lambda: recall(collection) > 0 and indexed(collection))
    assert recall(collection) >= 0.97
    assert file.stat().st_mtime_ns == written, "opened, not built"
    store.close()
    assert memory.snapshot().used == 0


def test_an_index_whose_file_was_damaged_while_it_was_closed_is_built_again(tmp_path: Path) -> None:
    memory = CacheMemoryManager(64 * MiB)
    store = open_at(tmp_path, memory=memory)
    collection = fill(store)
    wait_until(lambda: indexed(collection))
    (file,) = tmp_path.rglob("index.hnsw-sq8")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    memory.evict_down_to(0)
    file.write_bytes(data)
    assert recall(collection) == 1
    wait_until(lambda: indexed(collection))
    assert recall(collection) >= 0.97
    assert collection.info().problems == ()
    store.close()
    assert memory.snapshot().used == 0


def test_an_index_in_use_is_not_evicted_and_goes_when_its_last_search_is_done(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def search(self, queries: Vectors, limit: int, *, mask: Mask | None, ef: int | None) -> list[Hits]:
            begun.set()
            assert go_on.wait(20)
            return []

    backend = BACKENDS[PLAN.layout]._replace(open=lambda *_: Slow())
    monkeypatch.setitem(BACKENDS, PLAN.layout, backend)
    memory = CacheMemoryManager(room_for(1))
    index = index_of(file, memory)
    assert index.open()
    searching = threading.Thread(
        target=index.search, args=(VECTORS[:1], 5), kwargs={"mask": None, "ef": None}
    )
    searching.start()
    assert begun.wait(20)
    assert memory.reserve(CacheType.METADATA, memory.limit) is None
    index.close()
    assert memory.snapshot().by_cache[CacheType.HNSW] == ONE, "its memory is charged until it is freed"
    search(index)
    go_on.set()
    searching.join(20)
    assert memory.snapshot().used == 0
    search(index)
    assert not index.is_open, "closed for good"


def test_searches_that_find_an_index_open_or_closed_are_counted(file: Path) -> None:
    memory = CacheMemoryManager(room_for(1))
    index = index_of(file, memory)
    for _ in range(3):  # the first finds it closed, and has it opened
        search(index)
    counted = memory.snapshot().lookups
    assert (counted[CacheType.HNSW, LookupResult.HIT], counted[CacheType.HNSW, LookupResult.MISS]) == (2, 1)


def test_indexes_that_do_not_all_fit_do_not_push_each_other_out(file: Path) -> None:
    now = 0.0
    memory = CacheMemoryManager(room_for(3), clock=lambda: now)
    indexes = [index_of(file, memory) for _ in range(5)]
    for _ in range(20):
        for index in indexes:
            search(index)
        now += 1
    assert [index.is_open for index in indexes] == [True, True, True, False, False]
    assert memory.snapshot().evictions == {}
    for _ in range(round(SERVING_SECONDS)):
        now += 1
        search(indexes[0])
        search(indexes[4])
    assert [index.is_open for index in indexes] == [True, False, True, False, True]


def test_query_results_push_out_an_idle_index_and_none_that_answers(file: Path) -> None:
    now = 0.0
    memory = CacheMemoryManager(room_for(3), clock=lambda: now)
    cache = AdvancedCache(memory)
    idle, busy = index_of(file, memory), index_of(file, memory)
    for index in (idle, busy):
        search(index)

    def flood(first: int) -> None:
        for number in range(first, first + 1000):
            cache.put(b"%032d" % number, bytes(1000))
        assert memory.snapshot().used > 0.97 * memory.limit

    flood(0)
    assert idle.is_open
    now = SERVING_SECONDS
    search(busy)
    flood(1000)
    assert (idle.is_open, busy.is_open) == (False, True)
    search(idle)
    assert idle.is_open, "an index that is asked for is worth more than results"
    assert memory.snapshot().used <= memory.limit


def test_an_index_leaves_room_for_heads_and_results(file: Path) -> None:
    memory = CacheMemoryManager(room_for(1))
    head = memory.reserve(CacheType.METADATA, 100)
    assert head is not None
    index = index_of(file, memory)
    search(index)
    assert not index.is_open, "it would leave less than 15 % of the limit"
    head.release()
    search(index)
    assert index.is_open


class EvictionMachine(RuleBasedStateMachine):
    """Indexes and whatever else wants memory, in any order: answers stay true, and the ledger is what is held."""

    files: Path

    @initialize(indexes=st.integers(1, 4), room=st.integers(0, 3))
    def start(self, indexes: int, room: int) -> None:
        self.now = 0.0
        self.most = room_for(room)
        self.memory = CacheMemoryManager(self.most, clock=lambda: self.now)
        self.indexes = [index_of(self.files, self.memory) for _ in range(indexes)]
        self.held: list[Charge] = []

    @rule(data=st.data(), row=st.integers(0, len(VECTORS) - 1))
    def search_one(self, data: st.DataObject, row: int) -> None:
        search(data.draw(st.sampled_from(self.indexes)), row)

    @rule(share=st.floats(0, 1.1), build=st.booleans())
    def hold(self, share: float, build: bool) -> None:
        serving = [index for index in self.indexes if index.is_open]
        charge = self.memory.reserve(
            CacheType.HNSW if build else CacheType.METADATA,
            round(share * self.memory.limit),
            keep=CacheType.HNSW if build else None,
        )
        if charge is not None:
            self.held.append(charge)
        elif build:
            assert all(index.is_open for index in serving)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).release()

    @rule(seconds=st.sampled_from([1.0, SERVING_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(room=st.integers(0, 5))
    def set_limit(self, room: int) -> None:
        self.memory.set_limit(room_for(room))
        self.most = max(self.memory.limit, self.memory.snapshot().used)

    @rule(share=st.floats(0, 1))
    def evict(self, share: float) -> None:
        self.memory.evict_down_to(round(share * self.memory.limit))

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        """As merging does with a segment."""
        place = data.draw(st.integers(0, len(self.indexes) - 1))
        old = self.indexes[place]
        self.indexes[place] = index_of(self.files, self.memory)
        old.close()
        search(old)
        assert not old.is_open

    @invariant()
    def the_ledger_is_what_is_held(self) -> None:
        ledger = self.memory.snapshot()
        held = sum(index.nbytes for index in self.indexes if index.is_open)
        assert ledger.used == held + sum(charge.nbytes for charge in self.held)
        assert ledger.used <= self.most
        self.most = max(ledger.limit, ledger.used)


def test_whatever_is_evicted_answers_stay_true(file: Path) -> None:
    EvictionMachine.files = file
    run_state_machine_as_test(
        EvictionMachine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )


class SampledManager(CacheMemoryManager):
    """Looks at its ledger at every reservation, before the lock is given up."""

    samples = 0

    def _change(self, charge: Charge, nbytes: int) -> None:
        super()._change(charge, nbytes)
        self.samples += 1
        assert nbytes <= 0 or self._used <= self._limit


def test_sixteen_threads_are_served_under_a_limit_far_too_small(tmp_path: Path) -> None:
    """Two collections whose heads, indexes and results fight for 2 MiB, which also shrinks and grows."""
    memory = SampledManager(16 * MiB)
    limits = ShardLimits(head_points=1100)
    store = VectorStore.open(tmp_path, memory=memory, limits=limits, results=AdvancedCache(memory))
    rows = clustered(4950, 24)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    collections = [store.create_collection(name, params(24, Distance.COSINE)) for name in "ab"]
    for collection in collections:
        for start in range(0, 4950, 550):
            ids = list(range(start, start + 550))
            collection.upsert(ids, rows[start : start + 550], [None] * 550)
    wait_until(lambda: all(indexed(collection) for collection in collections), 60)
    memory.set_limit(2 * MiB)
    done = threading.Event()
    failures: list[BaseException] = []
    searches = [0] * 16

    def ask(number: int) -> None:
        collection, random = collections[number % 2], np.random.default_rng(number)
        while not done.is_set():
            row = int(random.integers(4400))
            (found,) = collection.search(rows[row : row + 1], limit=3)
            assert len(found) == 3
            assert found[0].score == pytest.approx(1, abs=1e-4), "itself, or its double"
            searches[number] += 1

    def write(_: int) -> None:
        collection = collections[0]
        while not done.is_set():
            for start in range(0, 4950, 550):
                collection.upsert(list(range(start, start + 550)), rows[start : start + 550], [None] * 550)

    def squeeze(number: int) -> None:
        step = 0
        while not done.wait(0.005):
            step += 1
            hog = memory.reserve(CacheType.METADATA, memory.limit // 2)
            if step % 10 == 0:
                memory.set_limit((1 + step % 3) * MiB)
                memory.evict_down_to(0)
            if hog is not None:
                hog.release()

    def guarded(work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            failures.append(error)
            done.set()

    jobs = [ask] * 12 + [write] * 2 + [squeeze] * 2
    threads = [threading.Thread(target=guarded, args=job) for job in zip(jobs, range(16), strict=True)]
    for thread in threads:
        thread.start()

    def was_put_to_the_test() -> bool:
        evicted = memory.snapshot().evictions.get((CacheType.HNSW, EvictionReason.MEMORY_LIMIT), 0)
        return min(searches[:12]) >= 20 and memory.samples >= 100 and evicted >= 1

    wait_until(lambda: bool(failures) or was_put_to_the_test(), 60)
    done.set()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]
    memory.set_limit(64 * MiB)
    for collection in collections:
        assert recall(collection, ef=70) >= 0.9
    # The one that was not written to has its index back; of the other, heads hold many of the points.
    wait_until(lambda: recall(collections[1]) > 0 and indexed(collections[1]), 60)
    store.close()
    assert memory.snapshot().used == 0


def test_heads_give_way_and_stay_small_so_that_what_becomes_of_them_is_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under this limit an index of 4,500 vectors can be built, but not beside a head of 2,000 points."""
    monkeypatch.setattr("vectorizer_engine.collection.compaction._SHORT_OF_MEMORY_SECONDS", 0.1)
    memory = CacheMemoryManager(1_800_000)
    store = VectorStore.open(tmp_path, memory=memory)
    collection = store.create_collection("c", params(128))
    rows = clustered(6500, 128)
    for start in range(0, 6500, 500):
        collection.upsert(list(range(start, start + 500)), rows[start : start + 500], [None] * 500)
    wait_until(lambda: collection.info().indexed_vectors == 4500, 60)
    assert sorted(layout.points for layout in collection.info().layouts) == [2000, 4500]
    assert memory.snapshot().peak <= memory.limit
    found, true = (collection.search(rows[:1], limit=10, exact=exact)[0] for exact in (False, True))
    assert len({hit.id for hit in found} & {hit.id for hit in true}) >= 9
    store.close()


EVICT = """
import json, sys
from pathlib import Path
import numpy as np
from vectorizer_engine.cache.heap import keep_little_freed_memory
from vectorizer_engine.cache.keeper import CacheKeeper
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.segment_index import SegmentIndex
from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.index.base import Distance
from vectorizer_engine.index.planner import LayoutPlan, SegmentLayout
from vectorizer_engine.metrics import process_memory
from vectorizer_engine.storage.files import Files

keep_little_freed_memory()
path, plan = Path(sys.argv[1]), LayoutPlan(SegmentLayout.IVF_RABITQ, "")
vectors = np.random.default_rng(0).standard_normal((10_000, 4), np.float32)
BACKENDS[plan.layout].build(path, vectors, Distance.DOT, threads=2, files=Files())
memory = CacheMemoryManager(32 * 2**20)
indexes = [
    SegmentIndex(path, plan, vectors, Distance.DOT, memory=memory, threads=1, ask=lambda _: None)
    for _ in range(50)
]
indexes[0].open()
memory.evict_down_to(0)
idle = process_memory().anonymous
for index in indexes:
    index.open()
    index.search(vectors[:1], 10, mask=None, ef=None)
full, charged = process_memory().anonymous, memory.snapshot().used
memory.evict_down_to(0)
CacheKeeper(memory).look()
print(json.dumps({"charged": charged, "taken": full - idle, "still": process_memory().anonymous - idle}))
"""


def test_the_memory_of_evicted_indexes_goes_back_to_the_operating_system(tmp_path: Path) -> None:
    """Anonymous resident memory of a process that opens fifty indexes, in bytes."""
    measured = json.loads(output_of(EVICT, str(tmp_path / "index"), seconds=100))
    assert 50 * 32_768 <= measured["taken"] <= measured["charged"], measured
    assert measured["still"] <= 0.1 * measured["taken"], measured
