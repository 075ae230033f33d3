"""What a member keeps of shards that it serves no more."""

import os
import shutil
from pathlib import Path

import pytest

from vectorizer_engine.distributed.copies import FREE_SHARE, Copies
from vectorizer_engine.storage.files import Files

SHARDS = ("a.1/shard-0", "a.1/shard-1", "b.2/shard-0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three shards, each served until a second later than the one before."""
    for second, shard in enumerate(SHARDS):
        (tmp_path / shard).mkdir(parents=True)
        (tmp_path / shard / "vectors").write_text("1234")
        os.utime(tmp_path / shard, (second, second))
    return tmp_path


def copies(root: Path, *, room_for: int) -> Copies:
    """On a volume where so many of the shards can be, and enough is free."""
    return Copies(
        root,
        files=Files(),
        free_share=lambda folder: FREE_SHARE if len(there(folder)) <= room_for else FREE_SHARE / 2,
    )


def there(root: Path) -> list[str]:
    return sorted(str(folder.relative_to(root)) for folder in root.glob("*/shard-*"))


def test_copies_may_take_three_quarters_of_the_volume_unless_something_else_was_said(root: Path) -> None:
    assert Copies(root, files=Files()).limit == int(0.75 * shutil.disk_usage(root).total)
    assert Copies(root, files=Files(), limit=1000).limit == 1000


def test_copies_stay_as_long_as_there_is_room(root: Path) -> None:
    copies(root, room_for=3).make_room(lambda _: False)
    assert there(root) == sorted(SHARDS)


def test_what_was_served_longest_ago_goes_first(root: Path) -> None:
    copies(root, room_for=1).make_room(lambda _: False)
    assert there(root) == ["b.2/shard-0"]


def test_what_was_served_until_now_goes_last(root: Path) -> None:
    kept = copies(root, room_for=1)
    kept.not_served_any_more(root / "a.1/shard-0")
    kept.make_room(lambda _: False)
    assert there(root) == ["a.1/shard-0"]


def test_what_is_served_stays_though_there_is_no_room(root: Path) -> None:
    copies(root, room_for=0).make_room(lambda folder: folder.parent.name == "a.1")
    assert there(root) == ["a.1/shard-0", "a.1/shard-1"]


def test_a_shard_whose_copies_are_gone_is_no_error(root: Path) -> None:
    copies(root, room_for=3).not_served_any_more(root / "a.1/shard-9")


def test_the_share_is_that_of_the_volume(root: Path) -> None:
    Copies(root, files=Files()).make_room(lambda _: True)
    assert there(root) == sorted(SHARDS)
