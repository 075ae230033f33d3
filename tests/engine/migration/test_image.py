"""An image of a data folder: linked where nothing is written again, copied elsewhere; one that was begun goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vectorizer_engine.migration.image import image_size, make_image
from vectorizer_engine.storage.files import Files

WRITTEN_ONCE = "collections/c.1/shard-0/segments/00000001/vectors.f32"
WRITTEN_ON = "collections/c.1/shard-0/log/1.log"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name in (WRITTEN_ONCE, WRITTEN_ON, WRITTEN_ONCE + ".unfinished", "FORMAT", "LOCK"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "scratch").mkdir()
    return folder


class Recorder(Files):
    """Remembers what was copied and linked; without links, as some file systems are."""

    def __init__(self, *, refuse: int | None = None) -> None:
        self.copied: list[str] = []
        self.linked: list[str] = []
        self._refuse = refuse

    def create(self, path: Path) -> int:
        self.copied.append(path.name.removesuffix(".tmp"))
        return super().create(path)

    def link(self, source: Path, target: Path) -> None:
        if self._refuse is not None:
            raise OSError(self._refuse, os.strerror(self._refuse))
        self.linked.append(target.name)
        super().link(source, target)


def image(source: Path, files: Files) -> int:
    """Make one beside *source*. Returns the bytes that were told to be done."""
    told: list[int] = []
    make_image(
        source,
        source.with_name("image"),
        files=files,
        on_bytes=told.append,
        leaving_out=frozenset({"LOCK"}),
    )
    return sum(told)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != "LOCK"
    }


def test_only_what_is_never_written_again_is_shared(source: Path) -> None:
    files = Recorder()
    done = image(source, files)
    assert contents(source.with_name("image")) == contents(source)
    assert files.linked == ["vectors.f32"]
    assert sorted(files.copied) == ["1.log", "FORMAT", "vectors.f32.unfinished"]
    size = image_size(source, leaving_out=frozenset({"LOCK"}))
    assert size.shared == len(WRITTEN_ONCE)
    assert done == size.shared + size.copied


def test_what_is_there_and_the_same_is_not_copied_again(source: Path) -> None:
    image(source, Files())
    (source / WRITTEN_ON).write_text("more of it")
    (source / "FORMAT").unlink()
    (source / "scratch").rmdir()
    (source.with_name("image") / "left").mkdir()
    files = Recorder()
    image(source, files)
    assert (files.copied, files.linked) == (["1.log"], [])
    assert contents(source.with_name("image")) == contents(source)


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_there_are_no_links_all_is_copied(
    source: Path, refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Recorder(refuse=refusal)
    image(source, files)
    assert "vectors.f32" in files.copied
    assert contents(source.with_name("image")) == contents(source)
    monkeypatch.setattr(os, "pathconf", lambda *_: 1)
    assert image_size(source).shared == 0


def test_another_failure_to_link_is_not_passed_over(source: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        image(source, Recorder(refuse=errno.ENOSPC))
