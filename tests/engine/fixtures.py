"""Real engine processes for tests: `vectorizer serve` on a free loopback port with a folder of its own."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from qdrant_client import QdrantClient

from tests.engine.children import uncovered

VECTORIZER = Path(sys.executable).parent / "vectorizer"

START_SECONDS = 30.0
STOP_SECONDS = 10.0

ask = functools.partial(httpx.request, verify=False)
"""`httpx.request` to an engine, which speaks no TLS: httpx would read all certificates for each, 25 ms of a core."""


class EngineProcess:
    """One engine. It can be stopped, killed and started again on the same port and data."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        arguments: tuple[str, ...] = (),
        run_by: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        covered: bool = False,
    ) -> None:
        """*config* is laid over a configuration with a free port and `folder/data`.

        *run_by* is a command that becomes the engine, such as nsenter with its options. Only one whose code no
        smaller test covers has to be *covered*, which takes half as much again.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.data = folder / "data"
        self.config_file = folder / "config.yml"
        self.log_file = folder / "engine.log"
        sections: dict[str, dict[str, Any]] = {
            "server": {"port": self.port},
            "storage": {"path": str(self.data)},
        }
        for section, fields in (config or {}).items():
            sections.setdefault(section, {}).update(fields)
        self.config_file.write_text(yaml.safe_dump(sections))
        self._command = [*run_by, str(VECTORIZER), "serve", "--config", str(self.config_file), *arguments]
        self._environment = {**(os.environ if covered else uncovered()), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def anonymous_bytes(self) -> int:
        """Anonymous resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def client(self, **options: Any) -> QdrantClient:
        """The unmodified Qdrant client, its check of the server's version included."""
        return QdrantClient(url=self.url, timeout=60, verify=False, **options)

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **options)

    def start(self) -> EngineProcess:
        """Start it and wait until it is ready."""
        self.launch()
        self.wait_until(lambda: self.answers("/readyz"), "ready")
        return self

    def launch(self) -> None:
        """Start it without waiting."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                preexec_fn=die_with_the_tests,
            )

    def answers(self, path: str) -> bool:
        """Whether a GET of *path* is answered with 200 now."""
        try:
            return ask("GET", self.url + path, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def wait_until(self, holds: Callable[[], bool], what: str, *, seconds: float = START_SECONDS) -> None:
        """Wait for *holds*; fails with the engine's log if it does not come in time or the engine ends."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self._process is not None
            ended = self._process.poll()
            assert ended is None, f"the engine ended with {ended} and is not {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"the engine is not {what} in {seconds} s:\n{self.log}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit status, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL: what a crash leaves is what was on the disk."""
        self.signal(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Make sure that nothing is left running."""
        if self.is_running:
            try:
                # SIGINT skips the moment that a SIGTERM leaves to load balancers.
                self.signal(signal.SIGINT)
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()


StartEngine = Callable[..., EngineProcess]


@contextlib.contextmanager
def running_engine(
    folder: Path, config: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
) -> Iterator[EngineProcess]:
    """A ready engine, for scripts as well as for tests."""
    engine = EngineProcess(folder, config, **options)
    try:
        yield engine.start()
    finally:
        engine.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One ready engine for all tests of a module, which use collections of their own."""
    with running_engine(tmp_path_factory.mktemp("engine"), covered=True) as process:
        yield process


@pytest.fixture(scope="module")
def client(engine: EngineProcess) -> Iterator[QdrantClient]:
    client = engine.client()
    yield client
    client.close()


@pytest.fixture
def http(engine: EngineProcess) -> Iterator[httpx.Client]:
    with engine.http() as client:
        yield client


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[StartEngine]:
    """A function that makes engines with the arguments of `EngineProcess` after the folder, not yet started."""
    made: list[EngineProcess] = []

    def make(config: Mapping[str, Mapping[str, Any]] | None = None, **options: Any) -> EngineProcess:
        made.append(EngineProcess(tmp_path / f"engine-{len(made)}", config, **options))
        return made[-1]

    yield make
    for process in made:
        process.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_the_tests() -> None:
    """Linux ends the engine when the thread that started it ends, however the tests end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
