"""A real S3 server for tests and benchmarks: versitygw on loopback, over a folder."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.fixtures import die_with_the_tests, free_port
from tests.kube import binaries
from vectorizer_engine.storage.object_store import CloudStore, ObjectStore

_START_SECONDS = 30.0


@dataclass(frozen=True)
class S3Server:
    """`url` names the bucket that there is; `settings` are obstore's."""

    url: str
    settings: dict[str, str]

    def store(self, prefix: str) -> ObjectStore:
        return CloudStore(f"{self.url}/{prefix}", self.settings)


@contextlib.contextmanager
def running_s3(folder: Path, *, access_log: Path | None = None) -> Iterator[S3Server]:
    """A server over *folder*. Each request is a line of *access_log*, as S3 writes it."""
    (folder / "bucket").mkdir(parents=True)
    port = free_port()
    command = [str(binaries.find("versitygw")), "--access", "key", "--secret", "secret", "--quiet"]
    command += ["--port", f"127.0.0.1:{port}"]
    command += ["--access-log", str(access_log)] if access_log else []
    command += ["posix", str(folder)]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_the_tests)
    server = S3Server(
        "s3://bucket",
        {
            "endpoint": f"http://127.0.0.1:{port}",
            "region": "us-east-1",
            "access_key_id": "key",
            "secret_access_key": "secret",
        },
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(server.store("probe")):
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, f"versitygw does not answer in {_START_SECONDS} s"
            time.sleep(0.02)
        yield server
    finally:
        process.terminate()
        process.wait()


def _answers(store: ObjectStore) -> bool:
    try:
        list(store.list("nothing"))
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests, each of which uses a prefix of its own."""
    with running_s3(tmp_path_factory.mktemp("s3") / "root") as server:
        yield server
