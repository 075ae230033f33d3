"""File layers that behave as a disk may: one that fails, one that forgets what was not fsynced."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from vectorizer_engine.storage.files import Files


class FailingDisk(Files):
    """Fails its writing calls with `errno`, from the one on that `fail_after` more calls lead to.

    With `once` only that call fails. `fail_after` None: nothing fails. `calls` counts them all.
    """

    def __init__(self) -> None:
        self.fail_after: int | None = None
        self.errno = errno.ENOSPC
        self.once = False
        self.calls: list[str] = []

    def _may_fail(self, call: str) -> None:
        self.calls.append(call)
        if self.fail_after is None:
            return
        if self.fail_after == 0:
            if self.once:
                self.fail_after = None
            raise OSError(self.errno, os.strerror(self.errno))
        self.fail_after -= 1

    def create(self, path: Path) -> int:
        self._may_fail(f"create {path.name}")
        return super().create(path)

    def scratch(self, folder: Path) -> int:
        self._may_fail("scratch")
        return super().scratch(folder)

    def write(self, descriptor: int, data: bytes | memoryview, position: int) -> None:
        view = memoryview(data).cast("B")
        try:
            self._may_fail("write")
        except OSError:
            super().write(descriptor, view[: len(view) // 2], position)  # a full disk takes a part of it
            raise
        super().write(descriptor, view, position)

    def truncate(self, descriptor: int, size: int) -> None:
        self._may_fail("truncate")
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self._may_fail("sync")
        super().sync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        self._may_fail(f"sync {folder.name}")
        super().sync_folder(folder)

    def make_folder(self, folder: Path, *, parents: bool = True) -> None:
        self._may_fail(f"mkdir {folder.name}")
        super().make_folder(folder, parents=parents)

    def rename(self, source: Path, target: Path) -> None:
        self._may_fail(f"rename {target.name}")
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._may_fail(f"link {target.name}")
        super().link(source, target)


class ForgetfulDisk(Files):
    """Knows what a power failure would leave: content as of each file's last fsync, names as of each folder's.

    Names and contents that were not fsynced may be there too, as the kernel likes; `crash` asks for each.
    """

    def __init__(self) -> None:
        # Files that were removed or replaced: kept, so that their inode numbers are not given to others.
        self._graveyard = tempfile.TemporaryDirectory()
        self._buried = itertools.count()
        self._lock = threading.RLock()
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}

    def sync(self, descriptor: int) -> None:
        with self._lock:
            status = os.fstat(descriptor)
            self._contents[status.st_ino] = os.pread(descriptor, status.st_size, 0)

    def sync_folder(self, folder: Path) -> None:
        with self._lock:
            names = {entry.name: entry.inode() for entry in os.scandir(folder)}
            self._names[folder.stat().st_ino] = names

    def make_folder(self, folder: Path, *, parents: bool = True) -> None:
        with self._lock:
            fresh = [path for path in (folder, *folder.parents) if not path.exists()]
            super().make_folder(folder, parents=parents)
            for path in fresh:
                self._names[path.stat().st_ino] = {}

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            if target.is_file():
                os.link(target, self._grave())
            super().rename(source, target)

    def remove(self, path: Path) -> None:
        with self._lock, contextlib.suppress(FileNotFoundError):
            path.rename(self._grave())

    def remove_tree(self, folder: Path) -> None:
        self.remove(folder)

    def _grave(self) -> Path:
        return Path(self._graveyard.name) / str(next(self._buried))

    def crash(self, root: Path, target: Path, *, survives: Callable[[], bool]) -> None:
        """Make in the new folder *target* what is left of *root*. *survives* decides what was written by chance."""
        with self._lock:
            self._restore(root.stat().st_ino, root, target, survives)

    def _restore(self, inode: int, now: Path | None, target: Path, survives: Callable[[], bool]) -> None:
        target.mkdir()
        durable = dict(self._names.get(inode, {}))
        present = {entry.name: entry for entry in os.scandir(now)} if now else {}
        names: dict[str, tuple[int, Path | None]] = {}
        for name in sorted(durable.keys() | present.keys()):
            entry = present.get(name)
            if name in durable and entry is not None and entry.inode() == durable[name]:
                names[name] = (durable[name], Path(entry.path))
            elif entry is not None and survives():
                names[name] = (entry.inode(), Path(entry.path))  # a change of name that got through
            elif name in durable and (entry is not None or not survives()):
                names[name] = (durable[name], None)  # the name's old file, or one that was removed
        for name, (number, path) in names.items():
            if number in self._names and (path is None or path.is_dir()):
                self._restore(number, path, target / name, survives)
            else:
                content = self._contents.get(number, b"")
                if path is not None and path.is_file() and survives():
                    content = path.read_bytes()
                (target / name).write_bytes(content)
