"""The folder behind `vectorizerctl local`: what is to run, what runs, and the data.

    DIR/clusters/NAME/desired.json   what is to run: written by the commands, read by the supervisor
    DIR/clusters/NAME/data/CLAIM/    the volumes of its claims, kept when the cluster goes down
    DIR/clusters/NAME/pods/POD/      the pods' other volumes and their logs
    DIR/status.json                  what runs: written by the supervisor, read by the commands
    DIR/wake                         a named pipe; a byte in it tells the supervisor to look at desired.json
    DIR/supervisor.lock, .log        held as long as a supervisor lives; what it has to say
    DIR/lock                         held for moments, by whoever changes what is to run or asks who is alive

Commands and supervisor speak through these files only, so nothing is lost when either of them dies. Not for
starting or stopping anything: that is the supervisor's.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel


class Desired(BaseModel):
    """What is to run for one cluster. `generation` counts its changes; `number` is its own in this folder."""

    name: str
    generation: int
    number: int
    up: bool
    cluster: dict[str, Any] = {}  # as its user wrote it; nothing where an older vectorizerctl brought it up
    objects: list[dict[str, Any]]  # what the operator would apply
    # What the user's file brought along, and the engines' key, by name and key.
    secrets: dict[str, dict[str, str]] = {}
    config_maps: dict[str, dict[str, str]] = {}


class PodStatus(BaseModel):
    """A pod as the supervisor sees it; `address` is host:port of its HTTP API, once it has one."""

    name: str
    address: str | None = None
    pid: int | None = None
    ready: bool = False
    restarts: int = 0
    message: str = ""
    failing: bool = False  # made as now wanted, it ends on its own or cannot start: waiting will hardly help


class TopologyStatus(BaseModel):
    """Which pods serve the shards; `moving` says in words what is missing until each shard is where it belongs."""

    version: int
    members: list[str]
    moving: list[str]


class ClusterStatus(BaseModel):
    """A cluster as the supervisor sees it, which has read generation `observed` and brought about `settled`.

    `topology` is there where its pods share a store.
    """

    name: str
    observed: int = 0
    settled: int = 0
    endpoint: str | None = None
    ready: bool = False
    pods: list[PodStatus] = []
    topology: TopologyStatus | None = None


class Status(BaseModel):
    """Everything the supervisor runs, and the generation of each desired.json that it has acted on."""

    clusters: list[ClusterStatus] = []
    seen: dict[str, int] = {}


class StateFolder:
    """The files of one state folder, which is its owner's alone: it may hold Secrets."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.supervisor_lock = self.path / "supervisor.lock"
        self.supervisor_log = self.path / "supervisor.log"
        self.wake_pipe = self.path / "wake"

    def create(self) -> None:
        """Raises OSError where the folder cannot be made or written."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def cluster(self, name: str) -> Path:
        return self.path / "clusters" / name

    def data(self, name: str) -> Path:
        return self.cluster(name) / "data"

    def pods(self, name: str) -> Path:
        return self.cluster(name) / "pods"

    def lock(self) -> int:
        """Hold the lock until the file descriptor is closed. Waits for whoever holds it, which is never long."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        descriptor = self.lock()
        try:
            yield
        finally:
            os.close(descriptor)

    def take_supervisor_lock(self) -> int | None:
        """An open file descriptor that holds the supervisor's lock; None while a supervisor lives.

        Call it under `locked()`, so that nobody takes a mere look for a supervisor.
        """
        descriptor = os.open(self.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def supervised(self) -> bool:
        """Whether a supervisor lives."""
        with self.locked():
            descriptor = self.take_supervisor_lock()
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def wake(self) -> None:
        """Tell the supervisor, if there is one, that what is to run has changed."""
        with contextlib.suppress(
            OSError
        ):  # no pipe or no reader: a supervisor looks for itself when it starts
            descriptor = os.open(self.wake_pipe, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(descriptor, b"!")
            finally:
                os.close(descriptor)

    def desired(self) -> dict[str, Desired]:
        """Every cluster that has been up and whose data was not deleted, by name."""
        found = {}
        for path in sorted(self.path.glob("clusters/*/desired.json")):
            desired = Desired.model_validate_json(path.read_bytes())
            found[desired.name] = desired
        return found

    def write_desired(self, desired: Desired) -> None:
        self.cluster(desired.name).mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(self.cluster(desired.name) / "desired.json", desired.model_dump(mode="json"))

    def forget(self, name: str) -> None:
        """Delete a cluster that is down, with its data."""
        shutil.rmtree(self.cluster(name))

    def status(self) -> Status:
        """As last published: worth something only while a supervisor lives."""
        return Status.model_validate_json((self.path / "status.json").read_bytes())

    def write_status(self, status: Status) -> None:
        _replace(self.path / "status.json", status.model_dump(mode="json"))


def default_folder() -> Path:
    """Where a user's data belongs: $XDG_DATA_HOME/vectorizer/local. Raises OSError for a user without a home."""
    try:
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:  # as in a container with any user id
        raise OSError("you have no home folder: set HOME, or name a folder with --dir") from None
    return Path(home) / "vectorizer" / "local"


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Whoever reads `path` sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)
