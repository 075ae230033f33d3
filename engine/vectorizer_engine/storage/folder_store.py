"""A shared folder as an object store, durable: what was created is on the disk when the call returns.

obstore's own local store links files without fsync, so a power failure takes what was acknowledged.

    .incoming/TOKEN   written and fsynced here, then linked to its name, which fails where the name is taken
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.object_store import Listed, ObjectExists, ObjectMissing, Refused

_INCOMING = ".incoming"
_COPY_BYTES = 1024**2
_REMEMBERED = 1000
"""So many folders are known to be durable. The others are fsynced again when they are next written to."""

_ABANDONED_SECONDS = 24 * 3600.0
"""Long after it was last written to, a file that is not linked yet never will be."""


class FolderStore:
    """The objects below *root*, which is made where it is missing."""

    def __init__(self, root: Path, *, files: Files) -> None:
        self._root = root
        self._files = files
        self._incoming = root / _INCOMING
        self._durable: set[Path] = set()
        self._make_folder(self._incoming)
        self._remove_abandoned()

    def create(self, name: str, data: bytes) -> None:
        with self._incoming_file() as (path, descriptor):
            with _full():
                self._files.write(descriptor, data, 0)
                self._files.sync(descriptor)
            self._link(path, name)

    def upload(self, name: str, file: Path) -> None:
        with self._incoming_file() as (path, descriptor), file.open("rb", buffering=0) as source:
            position = 0
            while piece := source.read(_COPY_BYTES):
                self._files.write(descriptor, piece, position)
                position += len(piece)
            self._files.sync(descriptor)
            with contextlib.suppress(ObjectExists):  # by an earlier attempt
                self._link(path, name)

    def read(self, name: str) -> bytes:
        with self._missing(name):
            return (self._root / name).read_bytes()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self._missing(name), (self._root / name).open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, start)
        if len(data) < length:
            raise OSError(f"{self._root / name} has no {length} bytes from {start} on")
        return data

    def list(self, prefix: str, *, after: str = "") -> Iterator[Listed]:
        for folder, _, names in os.walk(self._root / prefix):
            for name in names:
                path = Path(folder) / name
                found = path.relative_to(self._root).as_posix()
                if found > after:
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        yield Listed(found, path.stat().st_size)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self._files.remove(self._root / name)

    @contextlib.contextmanager
    def _missing(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if not self._incoming.exists():  # or an unmounted folder would look like one without news
                raise OSError(f"the store {self._root} is gone: is it still mounted?") from None
            raise ObjectMissing(f"there is no object {name}") from None

    def _link(self, source: Path, name: str) -> None:
        target = self._root / name
        self._make_folder(target.parent)
        try:
            self._files.link(source, target)
        except FileExistsError:
            # Whoever was first may not have come so far yet, and somebody may build on what he made.
            self._files.sync_folder(target.parent)
            raise ObjectExists from None
        self._files.sync_folder(target.parent)

    def _remove_abandoned(self) -> None:
        """Remove what writers that were killed have left, by the clock of the file system alone."""
        with self._incoming_file() as (_, descriptor):
            now = os.fstat(descriptor).st_mtime
            for entry in os.scandir(self._incoming):
                with contextlib.suppress(FileNotFoundError):  # its writer is done with it
                    if entry.stat().st_mtime < now - _ABANDONED_SECONDS:
                        self._files.remove(Path(entry.path))

    @contextlib.contextmanager
    def _incoming_file(self) -> Iterator[tuple[Path, int]]:
        path = self._incoming / secrets.token_hex(16)
        descriptor = self._files.create(path)
        try:
            yield path, descriptor
        finally:
            os.close(descriptor)
            self._files.remove(path)

    def _make_folder(self, folder: Path) -> None:
        """Make *folder* and those above it durable, whoever made them."""
        if folder in self._durable and folder.exists():
            return
        if folder != self._root:
            self._make_folder(folder.parent)
        self._files.make_folder(folder)
        self._files.sync_folder(folder.parent)
        if len(self._durable) >= _REMEMBERED:
            self._durable.clear()
        self._durable.add(folder)


@contextlib.contextmanager
def _full() -> Iterator[None]:
    """Say that nothing has been made where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(error.errno, error.strerror) from error
        raise
