"""Every write the store makes goes through `Files`, so that tests can fail each of them in turn.

A thin layer over `os`: nothing is buffered, and a name is durable only after `sync_folder` of the folder that
holds it. Reading and mapping go through the standard library directly.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vectorizer_engine.errors import StorageFailure, StorageFull

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Files:
    """The file system as it is. Raises OSError as the system calls do; see `disk_errors`."""

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file to read and write. Empties a file that is there already."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def scratch(self, folder: Path) -> int:
        """A descriptor of a file that has no name and is gone with the process."""
        descriptor, name = tempfile.mkstemp(dir=folder)
        Path(name).unlink()
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview, position: int) -> None:
        """Write all of *data* at *position*."""
        view = memoryview(data).cast("B")
        while view:
            written = os.pwrite(descriptor, view, position)
            view = view[written:]
            position += written

    def truncate(self, descriptor: int, size: int) -> None:
        """Set the size of a file that nobody has mapped, or grow one that somebody has."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Return when the file's content and size are on the disk."""
        os.fdatasync(descriptor)

    def sync_file(self, path: Path) -> None:
        """`sync` for a file that a library wrote."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in *folder* are on the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, folder: Path, *, parents: bool = True) -> None:
        """Without *parents*, raises FileNotFoundError where the parent is gone, instead of making it again."""
        folder.mkdir(parents=parents, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """Replace *target* by *source* in one step."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Raises FileExistsError where that is taken."""
        os.link(source, target)

    def remove(self, path: Path) -> None:
        """Remove a file. One that is gone already is no error."""
        path.unlink(missing_ok=True)

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder and all in it. One that is gone already is no error."""
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def replace_file(self, path: Path, data: bytes) -> None:
        """Make *data* the durable content of *path*, in one step: after a crash it is the old or the new."""
        temporary = path.with_name(path.name + ".tmp")
        descriptor = self.create(temporary)
        try:
            self.write(descriptor, data, 0)
            self.sync(descriptor)
        finally:
            os.close(descriptor)
        self.rename(temporary, path)
        self.sync_folder(path.parent)


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn an OSError into StorageFull or StorageFailure. *doing* completes "cannot …"."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageFull(
                f"cannot {doing}: the disk is full; nothing of this write was kept, reads go on: "
                "free space or enlarge the volume, then send it again"
            ) from error
        raise StorageFailure(f"cannot {doing}: {error.strerror or error}") from error
