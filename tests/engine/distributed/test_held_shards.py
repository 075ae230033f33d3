"""Which shards a member opens, keeps and lets go of, with shards that cost nothing and openings that may fail."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.kube.eventually import eventually
from vectorizer_engine.distributed import held_shards
from vectorizer_engine.distributed.held_shard import LEASE_SECONDS, HeldShard, NotHeld, OpenShard, ShardId
from vectorizer_engine.distributed.held_shards import HeldShards
from vectorizer_engine.errors import Fenced, StorageFailure, StoreClosed, StoreCorrupt

ONE, TWO = ShardId("c", 1), ShardId("c", 2)
WRITER = b"w" * 16


class FakeShard:
    """In the place of a `Shard` and of the claim of its log; the truth about who has it is in the store."""

    def __init__(self, world: World, shard: ShardId) -> None:
        self.world = world
        self.shard = shard
        self.closed = False

    writer = WRITER

    def confirm(self, *, within: float) -> None:
        if self.world.owner.get(self.shard) is not self:
            raise Fenced("taken")

    def close(self) -> None:
        self.closed = True
        if self.world.closing_fails:
            raise OSError("disk")


class World:
    """What openings find: who owns which shard, which of them fail, and whether a former owner is there."""

    def __init__(self) -> None:
        self.owner: dict[ShardId, FakeShard] = {}
        self.pool = ThreadPoolExecutor(1)
        self.opened: list[tuple[ShardId, bytes | None]] = []
        self.made: list[FakeShard] = []
        self.fails: Exception | None = None
        self.closing_fails = False
        self.may_open = threading.Event()
        self.may_open.set()
        self.former_answers = False
        self.former_keeps = False
        self.prepared = threading.Event()
        self.prepared.set()

    def open(self, shard: ShardId, predecessor: bytes | None) -> HeldShard:
        assert self.may_open.wait(20)
        if self.fails is not None:
            raise self.fails
        self.opened.append((shard, predecessor))
        self.owner[shard] = fake = FakeShard(self, shard)
        self.made.append(fake)
        return HeldShard(fake, OpenShard(fake, None), opening=self.pool)  # type: ignore[arg-type]

    def is_with_former(self, shard: ShardId) -> bool:
        return self.former_answers

    def prepare(self, shard: ShardId, still_wanted: Callable[[], bool]) -> None:
        assert self.prepared.wait(20)

    def take_from_former(self, shard: ShardId) -> bytes | None:
        if self.former_keeps:
            raise NotHeld
        return b"former"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def held(world: World) -> Iterator[HeldShards]:
    shards = HeldShards(world.open, world, closed=lambda shard: None)
    yield shards
    world.may_open.set()
    world.prepared.set()
    shards.close()


def want(held: HeldShards, *shards: ShardId, gone: tuple[ShardId, ...] = ()) -> None:
    held.want(shards, existing=lambda shard: shard not in gone)


def get(held: HeldShards, shard: ShardId, seconds: float = 20.0) -> HeldShard:
    return held.get(shard, deadline=time.monotonic() + seconds)


def test_a_shard_that_is_not_wanted_is_not_held(held: HeldShards) -> None:
    want(held, ONE)
    get(held, ONE).confirm()
    assert held.serves(ONE)
    assert held.waiting() == 0
    with pytest.raises(NotHeld):
        get(held, TWO)


def test_a_shard_that_moves_away_is_served_until_its_new_owner_asks_for_it(held: HeldShards) -> None:
    want(held, ONE, TWO)
    mine = get(held, ONE)
    want(held, TWO)
    get(held, ONE).confirm()
    assert held.leaving() == 1
    assert held.release(ONE, seconds=5) is None  # so soon after opening it may owe readers something
    with pytest.raises(StoreClosed):
        mine.confirm()
    with pytest.raises(NotHeld):
        get(held, ONE)
    assert (held.leaving(), held.serves(ONE)) == (0, False)
    with pytest.raises(NotHeld):
        held.release(TWO, seconds=5)  # which is its own


def test_a_writer_is_named_when_what_it_followed_can_promise_nothing_any_more(
    held: HeldShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    want(held, ONE)
    get(held, ONE)
    want(held)
    later = time.monotonic() + LEASE_SECONDS
    monkeypatch.setattr("vectorizer_engine.distributed.held_shard.time.monotonic", lambda: later + 0.1)
    assert held.release(ONE, seconds=5) == WRITER


def test_a_shard_of_a_deleted_collection_is_let_go_of_at_once(held: HeldShards, world: World) -> None:
    want(held, ONE)
    get(held, ONE)
    want(held, gone=(ONE,))
    eventually(lambda: world.owner[ONE].closed)
    assert not held.served_now()


def test_requests_that_have_begun_are_finished_before_a_shard_is_closed(
    held: HeldShards, world: World
) -> None:
    want(held, ONE)
    mine = get(held, ONE)
    released = threading.Event()
    with mine.used():
        want(held)
        threading.Thread(target=lambda: (held.release(ONE, seconds=20), released.set())).start()
        eventually(lambda: not held.serves(ONE))
        assert not world.owner[ONE].closed
        with pytest.raises(NotHeld), mine.used():
            pass
        assert not released.is_set()
    assert released.wait(20)
    assert world.owner[ONE].closed


def test_a_release_that_takes_too_long_says_so(held: HeldShards) -> None:
    want(held, ONE)
    with get(held, ONE).used():
        want(held)
        with pytest.raises(StorageFailure, match="still being closed"):
            held.release(ONE, seconds=0.01)


def test_while_the_former_owner_serves_requests_are_sent_there_and_do_not_wait(
    held: HeldShards, world: World
) -> None:
    world.former_answers = True
    world.prepared.clear()
    want(held, ONE)

    def is_with_former() -> bool:
        with pytest.raises(NotHeld) as raised:
            get(held, ONE, 0.0)
        return raised.value.with_former

    eventually(is_with_former)
    assert held.waiting() == 1
    world.prepared.set()
    eventually(lambda: held.waiting() == 0)
    assert get(held, ONE)
    assert world.opened == [(ONE, b"former")]


def test_a_shard_that_its_owner_keeps_is_not_opened(held: HeldShards, world: World) -> None:
    world.former_answers = world.former_keeps = True
    want(held, ONE)
    with pytest.raises(NotHeld):
        get(held, ONE)
    assert world.opened == []
    world.former_keeps = False
    eventually(lambda: world.opened)


def test_a_shard_that_another_member_takes_is_given_up_and_opened_again_later(
    held: HeldShards, world: World
) -> None:
    want(held, ONE)
    mine = get(held, ONE)
    world.owner[ONE] = FakeShard(world, ONE)
    with pytest.raises(Fenced):
        mine.confirm()
    held.lost(ONE, mine)
    held.lost(ONE, mine)  # by another thread that saw the same
    with pytest.raises(NotHeld):
        get(held, ONE, 0.0)

    def is_back() -> bool:
        try:
            return get(held, ONE) is not mine
        except NotHeld:
            return False

    eventually(is_back)


def test_a_shard_that_was_lost_is_opened_again_without_a_request(held: HeldShards, world: World) -> None:
    want(held, ONE)
    held.lost(ONE, get(held, ONE))
    assert held.waiting() == 1
    eventually(lambda: held.waiting() == 0)
    assert len(world.opened) == 2


def test_a_shard_that_was_taken_unasked_is_given_up_without_a_request(held: HeldShards, world: World) -> None:
    want(held, ONE)
    mine = world.owner[ONE] = get(held, ONE) and world.owner[ONE]
    want(held)
    assert held.leaving() == 1
    world.owner[ONE] = FakeShard(world, ONE)
    eventually(lambda: mine.closed and held.leaving() == 0)


@pytest.mark.parametrize("error", [StorageFailure("the store is away"), ValueError("a bug"), OSError("disk")])
def test_a_shard_that_could_not_be_opened_is_tried_again_without_a_request(
    held: HeldShards, world: World, error: Exception
) -> None:
    world.fails = error
    want(held, ONE)
    with pytest.raises(StorageFailure):
        get(held, ONE)
    assert held.waiting() == 1
    world.fails = None
    eventually(lambda: held.waiting() == 0)
    assert get(held, ONE)


def test_a_damaged_shard_is_told_of_and_not_opened_all_the_time(held: HeldShards, world: World) -> None:
    world.fails = StoreCorrupt("frame 7 is missing")
    want(held, ONE)
    with pytest.raises(StoreCorrupt):
        get(held, ONE)
    assert held.damaged() == {ONE: "frame 7 is missing"}
    assert held.waiting() == 0  # or the pod would never be ready
    world.fails = None
    with pytest.raises(StoreCorrupt):
        get(held, ONE)


def test_a_shard_whose_closing_failed_can_be_opened_again(held: HeldShards, world: World) -> None:
    want(held, ONE)
    get(held, ONE)
    world.closing_fails = True
    want(held, gone=(ONE,))
    want(held, ONE)
    assert get(held, ONE) is not None
    assert len(world.opened) == 2


def test_nothing_is_opened_that_is_no_longer_wanted_nor_after_the_end(world: World) -> None:
    shards = HeldShards(world.open, world, closed=lambda shard: None)
    world.former_answers = True
    world.prepared.clear()
    want(shards, ONE)
    want(shards)
    world.prepared.set()
    shards.close()
    assert world.opened == []
    want(shards, ONE)
    with pytest.raises(NotHeld):
        get(shards, ONE)
    assert world.opened == []


class HeldMachine(RuleBasedStateMachine):
    """Wishes that change faster than shards open and close, with openings that fail and others that take shards."""

    @initialize(seed=st.integers(0, 1000))
    def start(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World()
        self.held = HeldShards(self.world.open, self.world, closed=lambda shard: None)
        self.wanted: set[ShardId] = set()

    @rule(numbers=st.sets(st.integers(0, 5)), former=st.booleans())
    def want(self, numbers: set[int], former: bool) -> None:
        self.world.former_answers = former
        self.wanted = {ShardId("c", number) for number in numbers}
        want(self.held, *self.wanted)

    @rule(number=st.integers(0, 5))
    def get(self, number: int) -> None:
        shard = ShardId("c", number)
        try:
            with get(self.held, shard, 0.01).used():
                assert not self.world.owner[shard].closed
        except (NotHeld, StorageFailure):
            pass

    @rule(number=st.integers(0, 5))
    def release(self, number: int) -> None:
        shard = ShardId("c", number)
        try:
            self.held.release(shard, seconds=20)
        except NotHeld:
            assert shard in self.wanted
        else:
            assert shard not in self.wanted
            assert not self.held.serves(shard)
            assert all(fake.closed for fake in self.world.made if fake.shard == shard)

    @rule(number=st.integers(0, 5))
    def lose(self, number: int) -> None:
        shard = ShardId("c", number)
        if self.held.serves(shard):
            self.world.owner[shard] = FakeShard(self.world, shard)
            self.held.lost(shard, get(self.held, shard))

    @rule(fails=st.booleans())
    def fail(self, fails: bool) -> None:
        self.world.fails = StorageFailure("the store is away") if fails else None

    def teardown(self) -> None:
        if not hasattr(self, "held"):
            return
        self.world.fails = None
        eventually(lambda: self.held.waiting() == 0, seconds=10)
        assert all(self.held.serves(shard) for shard in self.wanted)
        self.held.close()
        assert not self.held.served_now()
        assert self.held.leaving() == 0
        assert all(fake.closed for fake in self.world.made)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Nobody waits a second between two attempts here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_shards, "AGAIN_SECONDS", 0.02)
        patch.setattr(held_shards, "LOOK_SECONDS", 0.02)
        yield


TestHeldMachine = HeldMachine.TestCase
TestHeldMachine.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
