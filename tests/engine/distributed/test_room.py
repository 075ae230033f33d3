"""Who makes room for copies on a volume, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.eventually import eventually
from vectorizer_engine.distributed.copies import Copies
from vectorizer_engine.distributed.room import Giver, Giving, Room
from vectorizer_engine.errors import StorageFailure
from vectorizer_engine.storage.files import Files

LIMIT = 300


class World:
    """Shards of a hundred bytes each on a volume with room for three."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.used: set[Path] = set()
        self.readers: list[Path] = []
        self.owners: list[Path] = []
        self.keep: set[Path] = set()
        self.fail: set[Path] = set()
        self.copies = Copies(root, files=Files(), limit=LIMIT, free_share=lambda folder: 1.0)
        self.room = Room(self.copies, is_used=lambda folder: folder in self.used, givers=self._givers)

    def add(self, number: int, size: int = 100) -> Path:
        folder = self.root / "a.1" / f"shard-{number}"
        folder.mkdir(parents=True)
        (folder / "vectors").write_bytes(bytes(size))
        self.copies.measure(folder)
        return folder

    def own(self, number: int) -> Path:
        folder = self.add(number)
        self.used.add(folder)
        self.owners.append(folder)
        return folder

    def read(self, number: int) -> Path:
        folder = self.add(number)
        self.used.add(folder)
        self.readers.append(folder)
        return folder

    def there(self) -> list[int]:
        return sorted(int(folder.name.removeprefix("shard-")) for folder in self.root.glob("*/shard-*"))

    def take(self, number: int, nbytes: int = 100, giving: Giving = Giving.OWNERS) -> bool:
        return self.room.take(self.root / "a.1" / f"shard-{number}", nbytes, giving=giving)

    def _givers(self) -> Iterator[Giver]:
        for giving, folders in ((Giving.READERS, self.readers), (Giving.OWNERS, self.owners)):
            for folder in folders:
                yield Giver(folder, giving, lambda within, folder=folder: self._close(folder))  # type: ignore[misc]

    def _close(self, folder: Path) -> bool:
        if folder in self.fail:
            raise StorageFailure("the store is away")
        return folder not in self.keep


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.room.close()


def test_what_nobody_serves_goes_first_then_readers_then_owners(world: World) -> None:
    world.own(0)
    world.read(1)
    world.add(2)
    assert world.take(3)
    assert world.there() == [0, 1]
    assert world.take(4)
    assert world.there() == [0]
    assert world.take(5)
    assert world.there() == []


def test_nobody_gives_more_than_is_asked_of_them(world: World) -> None:
    world.own(0)
    world.read(1)
    world.own(2)
    assert not world.take(3, giving=Giving.UNSERVED)
    assert world.there() == [0, 1, 2]
    assert not world.take(3, 250, giving=Giving.READERS)
    assert world.there() == [0, 2]


def test_only_so_many_are_closed_as_there_is_room_wanted_for(world: World) -> None:
    for number in range(3):
        world.own(number)
    assert world.take(3)
    assert world.there() == [1, 2]


def test_one_that_is_used_or_cannot_be_closed_is_passed_over(world: World) -> None:
    world.keep.add(world.own(0))
    world.fail.add(world.own(1))
    world.own(2)
    assert world.take(3)
    assert world.there() == [0, 1]


def test_what_is_larger_than_the_limit_gets_all_the_room_there_is_and_is_named_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.own(0)
    for _ in range(2):
        assert not world.take(3, 1000)
    assert world.there() == []
    assert caplog.text.count("more than the 300 that copies may take") == 1


def test_what_is_being_fetched_counts_until_it_is_there(world: World) -> None:
    world.own(0)
    world.own(1)
    assert world.take(2)
    assert not world.take(3, giving=Giving.READERS)
    world.room.filled(world.root / "a.1" / "shard-2")  # nothing came of it
    assert world.take(3, giving=Giving.READERS)


def test_what_has_grown_is_noticed_and_room_is_made(world: World) -> None:
    for number in range(3):
        world.own(number)
    folder = world.root / "a.1" / "shard-2"
    (folder / "index").write_bytes(bytes(50))
    world.room.changed(folder)
    eventually(lambda: world.there() == [1, 2])
