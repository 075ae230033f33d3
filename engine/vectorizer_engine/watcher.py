"""The file watcher of standalone mode: what appears or changes in the watched folders is upserted.

    PATH/NAME/*.jsonl, *.npy, *.parquet  →  collection NAME, which has to exist

One thread does everything: it is told of changes by the operating system, looks at all files every few seconds
besides (not every file system tells, and none tells what happened before the start), and loads one file after
another. What can be wrong with a file is logged and counted, and never ends the thread or the engine. A file
that goes away takes no points with it. What files hold and how they are read is the affair of `ingest`.

A cluster has no file watcher (CLUSTER_002): pods behind one Service would hold what is on their own disks.
"""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from watchfiles import watch

from vectorizer_engine.cluster.validator import ClusterSettings, Setting, validate_cluster_requirements
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.config import Config
from vectorizer_engine.errors import CollectionNotFound, EngineError, FileWatcherNotAllowedInCluster
from vectorizer_engine.ingest.batch import FileIncomplete, FileRefused
from vectorizer_engine.ingest.formats import FORMATS
from vectorizer_engine.ingest.loaded_files import LoadedFiles, Stat
from vectorizer_engine.ingest.loader import FileLoader, FileUnsettled
from vectorizer_engine.metrics import Metrics

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How often every file is looked at."""

_MOMENT_SECONDS = 1.0
"""When a file is tried again that somebody may still be writing."""

_RETRY_SECONDS = 5.0
"""After a failure that may pass by itself, such as a full disk."""

_SAVE_SECONDS = 1.0
"""How often what was loaded is remembered while a file is being loaded."""

_STOP_SECONDS = 5.0
"""How long a batch that is being written may take when the watcher is stopped."""

_TICK_MS, _QUIET_MS, _GROUP_MS = 250, 50, 500
"""Changes are taken together until none came for 50 ms, but for half a second at most."""


class _Stopped(Exception):
    """The watcher is to stop."""


class _Retry(NamedTuple):
    due: float
    reason: str


class FileWatcher:
    """Loads the files below `file_watcher.paths` into the collections of *store*."""

    def __init__(
        self, config: Config, store: VectorStore, metrics: Metrics, *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._in_cluster_mode = config.cluster.enabled
        self._folders = [path.absolute() for path in config.file_watcher.paths]
        self._store = store
        self._metrics = metrics
        self._look_seconds = look_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="file-watcher")
        self._loaded = LoadedFiles(config.storage.path)
        self._loader = FileLoader(store, self._loaded, metrics, between_batches=self._between_batches)
        self._retries: dict[Path, _Retry] = {}
        self._given_up: dict[Path, Stat] = {}  # until they change
        self._told: set[str] = set()  # conditions that were logged and have not passed
        self._saved_at = 0.0

    def start(self) -> None:
        """Begin to watch. Raises FileWatcherNotAllowedInCluster in cluster mode."""
        if self._in_cluster_mode:
            started = ClusterSettings(file_watcher_enabled=Setting("file_watcher.enabled", True))
            [violation] = validate_cluster_requirements(started)
            raise FileWatcherNotAllowedInCluster(violation)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the batch that is being written. Call it before the store is closed."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            logger.warning("the file watcher is still writing a batch: not waiting for it")

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._watch()
            except _Stopped:
                break
            except Exception:
                logger.exception("the file watcher failed, and begins anew in %.0f s", _RETRY_SECONDS)
                self._count_failure("unexpected")
                self._stopping.wait(_RETRY_SECONDS)
        self._save()

    def _watch(self) -> None:
        """Watch the folders that exist, until those are others than they were or the watcher is to stop."""
        folders = self._present()
        missing: set[str] = set()
        look_at = 0.0
        for changed in self._changes(list(folders)):
            now = time.monotonic()
            files = {file for path in changed for file in self._point_files(path)}
            files.update(file for file, retry in self._retries.items() if retry.due <= now)
            if now >= look_at or any(map(self._exists, missing)):
                if self._present() != folders:
                    return
                files |= self._look()
                missing.clear()
                look_at = now + self._look_seconds
            for file in sorted(files):
                if self._exists(file.parent.name):
                    self._load(file)
                else:
                    missing.add(file.parent.name)
            self._tell_missing(missing)
            self._between_batches()

    def _changes(self, folders: list[Path]) -> Iterator[Iterable[Path]]:
        """What has changed, or nothing, several times a second until the watcher is to stop."""
        try:
            for changes in watch(
                *folders,
                watch_filter=None,
                debounce=_GROUP_MS,
                step=_QUIET_MS,
                rust_timeout=_TICK_MS,
                yield_on_timeout=True,
                stop_event=self._stopping,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                yield [Path(path) for _, path in changes]
        except OSError as error:
            self._tell(
                "no notifications",
                f"the system does not tell of changes in the watched folders ({error}): looking every "
                f"{self._look_seconds:.0f} s instead",
            )
            while not self._stopping.wait(_TICK_MS / 1000):
                yield ()

    # --- which files there are -------------------------------------------------------------------------

    def _present(self) -> dict[Path, tuple[int, int]]:
        """The folders that exist, each with what tells it from another one in its place."""
        present = {}
        for folder in self._folders:
            try:
                found = folder.stat()
                reason = "" if stat.S_ISDIR(found.st_mode) else "it is no folder"
            except OSError as error:
                reason = str(error.strerror)
            if reason:
                self._tell(f"no {folder}", f"file_watcher.paths: {folder} cannot be watched: {reason}")
            else:
                present[folder] = (found.st_dev, found.st_ino)
                self._told.discard(f"no {folder}")
        return present

    def _point_files(self, path: Path) -> Iterator[Path]:
        """The files of points that *path* is or, as a collection's folder, holds."""
        if path.parent.parent in self._folders:
            if _is_point_file(path):
                yield path
        elif path.parent in self._folders:
            if _is_point_file(path):
                self._tell(
                    f"outside {path.parent}",
                    f"{path} is not loaded: move it into a folder that is named after its collection",
                )
            elif not path.name.startswith("."):
                yield from filter(_is_point_file, _children(path))

    def _look(self) -> set[Path]:
        """Every file that seems to have something new. What is said of others that are gone is forgotten."""
        files = {
            file for folder in self._folders for path in _children(folder) for file in self._point_files(path)
        }
        self._loaded.keep_only(files)
        for kept in (self._retries, self._given_up):
            for gone in kept.keys() - files:
                del kept[gone]
        return {file for file in files if file not in self._retries and self._looks_new(file)}

    def _looks_new(self, file: Path) -> bool:
        try:
            found = Stat.of(file.stat())
        except OSError:
            return True  # opening it will say why
        return self._given_up.get(file) != found and self._loader.looks_new(file, found)

    def _exists(self, collection: str) -> bool:
        """Whether there is such a collection. One that is damaged counts: loading says what is wrong with it."""
        try:
            self._store.collection(collection)
        except CollectionNotFound:
            return False
        except EngineError:
            return True
        return True

    # --- loading them ----------------------------------------------------------------------------------

    def _load(self, file: Path) -> None:
        """Load what is new in *file*, or see to it that it is tried again. Raises _Stopped, and nothing else."""
        before = self._retries.pop(file, None)
        self._given_up.pop(file, None)
        try:
            found = Stat.of(file.stat())
            self._loader.load(file)
        except _Stopped:
            raise
        except FileNotFoundError:
            pass  # it went away meanwhile
        except FileUnsettled:
            self._retry(file, _MOMENT_SECONDS, "")
        except FileIncomplete as error:
            reason = f"{file} is incomplete: {error}: the rest is loaded when it comes"
            if before is None or before.reason != reason:
                self._retry(file, _MOMENT_SECONDS, reason)  # its writer may be at it: say nothing yet
            else:
                self._give_up(file, found, "incomplete", reason)
        except FileRefused as error:
            self._give_up(file, found, "bad_file", f"{file} is not loaded: it {error}")
        except (OSError, EngineError) as error:
            reason = f"{file} is tried again: {error}"
            if before is None or before.reason != reason:
                logger.warning("%s", reason)
            self._count_failure("unreadable" if isinstance(error, OSError) else "storage")
            self._retry(file, _RETRY_SECONDS, reason)
        except Exception:
            logger.exception("loading %s failed for a reason that is a bug", file)
            self._give_up(file, found, "unexpected", f"{file} is left alone until it changes")

    def _retry(self, file: Path, seconds: float, reason: str) -> None:
        self._retries[file] = _Retry(time.monotonic() + seconds, reason)

    def _give_up(self, file: Path, found: Stat, failure: str, message: str) -> None:
        logger.warning("%s", message)
        self._count_failure(failure)
        self._given_up[file] = found

    def _between_batches(self) -> None:
        """Raises _Stopped."""
        if time.monotonic() - self._saved_at >= _SAVE_SECONDS:
            self._saved_at = time.monotonic()
            self._save()
        if self._stopping.is_set():
            raise _Stopped

    def _save(self) -> None:
        try:
            self._loaded.save()
            self._told.discard("not saved")
        except EngineError as error:
            self._tell("not saved", f"what is loaded now would be loaded again after a restart: {error}")

    # --- telling ---------------------------------------------------------------------------------------

    def _tell_missing(self, missing: set[str]) -> None:
        """Name the collections that files wait for, each once."""
        for name in missing:
            if self._tell(
                f"collection {name}", f"files wait in a watched folder: {CollectionNotFound(name)}"
            ):
                self._count_failure("collection_missing")
        self._told -= {
            told
            for told in self._told
            if told.startswith("collection ") and told.removeprefix("collection ") not in missing
        }

    def _tell(self, condition: str, message: str) -> bool:
        """Log a condition once while it lasts. Returns whether it was new."""
        if condition in self._told:
            return False
        self._told.add(condition)
        logger.warning("%s", message)
        return True

    def _count_failure(self, reason: str) -> None:
        self._metrics.watcher_failures.labels(reason).inc()


def _is_point_file(path: Path) -> bool:
    """Whether it is a regular file of points. One that begins with a dot is somebody's unfinished one."""
    if path.suffix not in FORMATS or path.name.startswith("."):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # opening it will say why


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []  # not there, or no folder: `_present` tells
