"""A second copy of a data folder, which shares what is never written again.

Segments are written once and then only read or removed, so the image gives their files a second name (a hard link)
where the file system can, which costs no space until the original is removed. Logs grow and small files are replaced,
so those are copied. What happens to the folder later does not change the image.

Making an image that was begun goes on: what is there already and is still the same stays.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from vectorizer_engine.storage.files import Files

OnBytes = Callable[[int], None]
"""Is told of so many more bytes that are done."""

_COPY_BYTES = 4 * 1024**2
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EACCES)
_WRITTEN_ONCE = {"segments", "quarantine"}
_UNFINISHED = (".unfinished", ".tmp")


class ImageSize(NamedTuple):
    """Bytes of the files that an image shares, and of those that it copies."""

    shared: int
    copied: int


def image_size(source: Path, *, leaving_out: frozenset[str] = frozenset()) -> ImageSize:
    """What an image of *source* would take. *leaving_out* are names directly in it."""
    shared = copied = 0
    can_link = links_are_possible(source)
    for path in _files(source, leaving_out):
        size = path.stat().st_size
        if can_link and _is_written_once(path.relative_to(source)):
            shared += size
        else:
            copied += size
    return ImageSize(shared, copied)


def links_are_possible(folder: Path) -> bool:
    """Whether the file system of *folder* says that a file may have two names."""
    return os.pathconf(folder, "PC_LINK_MAX") > 1


def make_image(
    source: Path,
    target: Path,
    *,
    files: Files,
    on_bytes: OnBytes,
    leaving_out: frozenset[str] = frozenset(),
) -> None:
    """Make *target* a durable image of *source*, in which nothing changes meanwhile. Raises OSError."""
    folders = [Path(), *(path.relative_to(source) for path in _folders(source, leaving_out))]
    wanted = {path.relative_to(source) for path in _files(source, leaving_out)}
    _remove_others(target, {*folders, *wanted}, files)
    for folder in folders:
        files.make_folder(target / folder)
    for path in sorted(wanted):
        _link_or_copy(source / path, target / path, written_once=_is_written_once(path), files=files)
        on_bytes((source / path).stat().st_size)
    for folder in reversed(folders):
        files.sync_folder(target / folder)
    files.sync_folder(target.parent)


def _link_or_copy(source: Path, target: Path, *, written_once: bool, files: Files) -> None:
    if target.exists():
        if _is_same(source, target):
            return
        files.remove(target)
    if written_once:
        try:
            files.link(source, target)
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    _copy(source, target, files)


def _copy(source: Path, target: Path, files: Files) -> None:
    unfinished = target.with_name(target.name + ".tmp")
    descriptor = files.create(unfinished)
    try:
        with source.open("rb", buffering=0) as original:
            position = 0
            while piece := original.read(_COPY_BYTES):
                files.write(descriptor, piece, position)
                position += len(piece)
        shutil.copystat(source, unfinished)
        files.sync(descriptor)
    finally:
        os.close(descriptor)
    files.rename(unfinished, target)


def _is_same(source: Path, target: Path) -> bool:
    """Whether *target* is *source*, or was copied from it as it is: a copy has the time of its original."""
    first, second = source.stat(), target.stat()
    return first.st_ino == second.st_ino or (first.st_size, first.st_mtime_ns) == (
        second.st_size,
        second.st_mtime_ns,
    )


def _is_written_once(path: Path) -> bool:
    """Of a file below a collection's folder: `.../shard-0/segments/00000001/...`"""
    in_segments = any(
        shard.startswith("shard-") and folder in _WRITTEN_ONCE for shard, folder in pairwise(path.parts[:-1])
    )
    return in_segments and not path.name.endswith(_UNFINISHED)


def _remove_others(target: Path, wanted: set[Path], files: Files) -> None:
    """Remove what an earlier image of another state left."""
    if not target.exists():
        return
    for folder, folders, names in os.walk(target, topdown=False):
        for name in names:
            if (Path(folder) / name).relative_to(target) not in wanted:
                files.remove(Path(folder) / name)
        for name in folders:
            if (Path(folder) / name).relative_to(target) not in wanted:
                files.remove_tree(Path(folder) / name)


def _files(source: Path, leaving_out: frozenset[str]) -> Iterator[Path]:
    for folder, names in _walk(source, leaving_out):
        yield from (folder / name for name in names)


def _folders(source: Path, leaving_out: frozenset[str]) -> Iterator[Path]:
    return (folder for folder, _ in _walk(source, leaving_out) if folder != source)


def _walk(source: Path, leaving_out: frozenset[str]) -> Iterator[tuple[Path, list[str]]]:
    for folder, folders, names in os.walk(source):
        if Path(folder) == source:
            folders[:] = [name for name in folders if name not in leaving_out]
            names = [name for name in names if name not in leaving_out]
        folders.sort()
        yield Path(folder), sorted(names)
