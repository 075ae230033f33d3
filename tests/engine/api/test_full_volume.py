"""A full disk: writes get 507, reads go on, and freed space is used without a restart.

The first test tells the engine so and runs everywhere; the others fill a real volume, which not every user may mount.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.fixtures import EngineProcess, StartEngine

VOLUME_BYTES = 48 * 1024**2
SPARE_BYTES = 1024**2
HEAD_POINTS = 16_384
BATCH = 1024
TEXT = "x" * 500


# An engine whose every write is refused while the file that its first argument names is there.
ON_A_DISK_THAT_FILLS_UP = """
import errno, os, sys
from vectorizer_engine import cli
from vectorizer_engine.storage.files import Files

full = sys.argv[1]
write = Files.write

def refused(self, descriptor, data, position):
    if os.path.exists(full):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(self, descriptor, data, position)

Files.write = refused
del sys.argv[:2]
cli.main()
"""


def test_a_disk_that_says_it_is_full_refuses_writes_and_no_reads_until_it_no_longer_does(
    make_engine: StartEngine, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    engine = make_engine(run_by=(sys.executable, "-c", ON_A_DISK_THAT_FILLS_UP, str(full)))
    with engine.start().http() as http:
        http.put("/collections/c", json={"vectors": {"size": 4, "distance": "Dot"}}).raise_for_status()
        upsert(http, 0, 10).raise_for_status()
        full.touch()
        for refused in (
            upsert(http, 5, 10),
            http.post("/collections/c/points/delete", json={"points": [1]}),
            http.put("/collections/d", json={"vectors": {"size": 4, "distance": "Dot"}}),
        ):
            assert refused.status_code == 507
            assert "the disk is full" in refused.json()["status"]["error"]
        assert 'vectorizer_write_failures_total{status="507"} 3.0' in http.get("/metrics").text
        assert count(http) == 10
        assert nearest(http) == 9
        assert http.get("/readyz").is_success

        full.unlink()
        upsert(http, 5, 10).raise_for_status()
        assert count(http) == 15
    engine.kill()
    with engine.start().http() as http:
        assert count(http) == 15
        assert nearest(http) == 14
        assert [each["name"] for each in http.get("/collections").json()["result"]["collections"]] == ["c"]


class Volume:
    """A tmpfs of its own size that only processes see which are started by `enter`. It outlives them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        mount = f"mount -t tmpfs -o size={VOLUME_BYTES} volume '{folder}' && echo mounted && exec sleep 600"
        self._folder = folder
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def mounted(self) -> bool:
        assert self._holder.stdout is not None
        return self._holder.stdout.readline() == "mounted\n"

    @property
    def enter(self) -> tuple[str, ...]:
        target = ("--target", str(self._holder.pid))
        return ("nsenter", *target, "--user", "--preserve-credentials", "--mount")

    def run(self, command: str) -> None:
        subprocess.run([*self.enter, "sh", "-c", f"cd '{self._folder}' && {command}"], check=True)

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    try:
        made = Volume(tmp_path / "volume")
    except FileNotFoundError:
        pytest.skip("needs util-linux")
    if not made.mounted:
        made.close()
        pytest.skip("this user may not mount a volume, not even for itself")
    yield made
    made.close()


@pytest.fixture
def engine(volume: Volume, tmp_path: Path) -> Iterator[EngineProcess]:
    data = {"storage": {"path": str(tmp_path / "volume" / "data")}}
    made = EngineProcess(tmp_path / "engine", data, run_by=volume.enter)
    yield made
    made.close()


def upsert(http: httpx.Client, first: int, count: int = BATCH) -> httpx.Response:
    ids = list(range(first, first + count))
    batch: dict[str, Any] = {
        "ids": ids,
        "vectors": [[number, 1, 2, 3] for number in ids],
        "payloads": [{"n": number, "text": TEXT} for number in ids],
    }
    return http.put("/collections/c/points", json={"batch": batch})


def count(http: httpx.Client) -> int:
    found: int = http.post("/collections/c/points/count", json={}).json()["result"]["count"]
    return found


def nearest(http: httpx.Client) -> int:
    """The point with the largest number."""
    query = {"query": [1, 0, 0, 0], "limit": 1}
    [best] = http.post("/collections/c/points/query", json=query).json()["result"]["points"]
    found: int = best["id"]
    return found


def test_a_full_volume_refuses_writes_and_no_reads_until_space_is_freed(
    engine: EngineProcess, volume: Volume
) -> None:
    engine.start()
    with engine.http() as http:
        http.put("/collections/c", json={"vectors": {"size": 4, "distance": "Dot"}}).raise_for_status()
        written = 0
        while written < HEAD_POINTS - BATCH:
            upsert(http, written).raise_for_status()
            written += BATCH
        # So much is left that writes go on for a while, and that the head's segment does not fit.
        volume.run(
            f"head -c $(($(df --output=avail -B1 . | tail -1) - {4 * SPARE_BYTES})) /dev/zero > filler"
        )
        while (answer := upsert(http, written)).is_success:
            written += BATCH
        assert answer.status_code == 507
        assert 'vectorizer_write_failures_total{status="507"} 1.0' in http.get("/metrics").text
        assert "the disk is full" in answer.json()["status"]["error"]
        assert written >= HEAD_POINTS
        engine.wait_until(lambda: "cannot seal a segment" in engine.log, "sealing")
        assert count(http) == written
        assert nearest(http) == written - 1
        assert http.get("/readyz").is_success

        volume.run("rm filler")
        engine.wait_until(lambda: upsert(http, written).is_success, "writable")
        written += BATCH
        engine.wait_until(lambda: status(http) == "green", "sealed")
        assert count(http) == written
    engine.kill()
    with engine.start().http() as http:
        assert count(http) == written
        assert status(http) in ("green", "yellow")


def test_deleting_a_collection_makes_room_on_a_full_volume(engine: EngineProcess, volume: Volume) -> None:
    engine.start()
    with engine.http() as http:
        for name in ("spare", "c"):
            shape = {"vectors": {"size": 4, "distance": "Dot"}}
            http.put(f"/collections/{name}", json=shape).raise_for_status()
        spare = {"points": [{"id": n, "vector": [1, 2, 3, 4], "payload": {"text": TEXT}} for n in range(500)]}
        http.put("/collections/spare/points", json=spare).raise_for_status()
        volume.run("cat /dev/zero > filler || true")
        assert upsert(http, 0, 50).status_code == 507
        assert http.delete("/collections/spare").is_success
        engine.wait_until(lambda: upsert(http, 0, 50).is_success, "writable")


def status(http: httpx.Client) -> str:
    found: str = http.get("/collections/c").json()["result"]["status"]
    return found
