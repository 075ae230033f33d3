"""Who serves what: as little moves as can be, shards are spread evenly, and an older topology never wins."""

from __future__ import annotations

import secrets
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.disks import FailingDisk
from vectorizer_engine.distributed.placement import draw_token
from vectorizer_engine.distributed.store import DEFAULT_SHARDS
from vectorizer_engine.distributed.topology import NOBODY, KnownTopology, Member, Topology
from vectorizer_engine.errors import InvalidRequest, StorageFull, StoreCorrupt
from vectorizer_engine.storage.files import Files

names = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=12)
tokens = st.text("0123456789abcdef", min_size=16, max_size=16)


def topology(members: set[str] | list[str], version: int = 1) -> Topology:
    return Topology(version, tuple(Member(name, "host:1") for name in sorted(members)))


def owners(members: set[str] | list[str], token: str, shards: int) -> list[str]:
    asked = topology(members)
    found = [asked.owner(token, shard) for shard in range(shards)]
    return [owner.name for owner in found if owner is not None]


@given(names, names, tokens, st.integers(1, 64))
def test_nothing_moves_but_what_members_that_leave_had_and_members_that_join_get(
    before: set[str], after: set[str], token: str, shards: int
) -> None:
    for old, new in zip(owners(before, token, shards), owners(after, token, shards), strict=True):
        assert new == old or old not in after or new not in before


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_one_more_member_moves_at_most_a_tenth_more_shards_than_it_should_serve(size: int) -> None:
    pods = [f"pod-{number}" for number in range(size + 1)]
    moved = total = 0
    for collection in range(400):
        token = f"{collection:016x}"
        before, after = owners(pods[:size], token, 12), owners(pods, token, 12)
        moved += sum(old != new for old, new in zip(before, after, strict=True))
        total += 12
    assert moved <= 1.1 * total / (size + 1)


@pytest.fixture
def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens that are drawn are the same each time."""
    chosen = Random(1)
    monkeypatch.setattr(secrets, "token_hex", lambda size: chosen.randbytes(size).hex())


@pytest.mark.usefixtures("same_draws")
@pytest.mark.parametrize(("size", "fullest"), [(2, 4), (3, 2), (5, 2), (6, 2)])
def test_a_new_collection_is_spread_evenly_over_three_pods_and_well_over_more_or_fewer(
    size: int, fullest: int
) -> None:
    pods = [f"docs-{number}" for number in range(size)]
    for _ in range(5):
        token = draw_token(["docs-0", "docs-1", "docs-2"], DEFAULT_SHARDS)
        assert max(Counter(owners(pods, token, DEFAULT_SHARDS)).values()) <= fullest


@pytest.mark.usefixtures("same_draws")
@pytest.mark.parametrize(("shards", "size"), [(4, 3), (6, 5)])
def test_no_member_is_left_without_a_shard_where_there_is_one_for_each(shards: int, size: int) -> None:
    pods = [f"docs-{number}" for number in range(size)]
    for _ in range(50):
        assert set(owners(pods, draw_token(pods, shards), shards)) == set(pods)


def test_a_token_is_drawn_for_members_of_any_name_and_for_none() -> None:
    token = draw_token(["here", "there"], 8)
    assert max(Counter(owners(["here", "there"], token, 8)).values()) == 4
    assert len({draw_token([], 3), draw_token([], 3)}) == 2


def test_who_had_a_shard_before_is_told_and_found_where_it_is_now(tmp_path: Path) -> None:
    known = KnownTopology(tmp_path, files=Files())
    known.adopt(topology(["a"], 1))
    known.adopt(Topology(2, (Member("a", "new:2"), Member("b", "host:1"), Member("c", "host:1"))))
    assert known.current.previous == (Member("a", "host:1"),)
    for shard in range(20):
        owner = known.current.owner("token", shard)
        former = known.current.former_owner("token", shard)
        assert owner is not None
        assert former == (None if owner.name == "a" else Member("a", "new:2"))
    assert KnownTopology(tmp_path, files=Files()).current == known.current
    known.adopt(Topology(3, (Member("d", "host:1"),), previous=(Member("e", "host:1"),)))
    assert known.current.former_owner("token", 0) == Member("e", "host:1")


@settings(max_examples=50)
@given(st.lists(st.integers(0, 6), max_size=12))
def test_the_version_only_grows_and_listeners_hear_of_each_newer_one(versions: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        known = KnownTopology(Path(folder), files=Files())
        heard: list[int] = []
        known.listen(lambda each: heard.append(each.version))
        highest = 0
        for version in versions:
            if version == 0:
                continue
            assert known.adopt(topology(["a"], version)) == (version >= highest)
            highest = max(highest, version)
            assert known.current.version == highest
        assert heard == sorted(set(heard))
        assert KnownTopology(Path(folder), files=Files()).current.version == highest


def test_what_cannot_be_a_topology_is_refused_with_the_reason(tmp_path: Path) -> None:
    known = KnownTopology(tmp_path, files=Files())
    assert known.current == NOBODY
    known.adopt(topology(["a"], 2))
    with pytest.raises(InvalidRequest, match="version 2 is known with other members"):
        known.adopt(topology(["b"], 2))
    with pytest.raises(InvalidRequest, match="'x' is the name of two members"):
        known.adopt(Topology(3, (Member("x", "a:1"), Member("x", "b:1"))))
    assert known.current.version == 2


def test_a_topology_that_cannot_be_kept_is_not_taken_and_the_disk_is_named(tmp_path: Path) -> None:
    disk = FailingDisk()
    known = KnownTopology(tmp_path, files=disk)
    disk.fail_after = 0
    with pytest.raises(StorageFull, match="keep topology 4"):
        known.adopt(topology(["a"], 4))
    assert known.current == NOBODY
    disk.fail_after = None
    assert known.adopt(topology(["a"], 4))


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "TOPOLOGY").write_bytes(b"{}")
    with pytest.raises(StoreCorrupt, match="delete it: the topology is published again"):
        KnownTopology(tmp_path, files=Files())
