"""The first reads of a process, by several threads at once: as shards are opened when an engine starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vectorizer_engine.collection.data_folder import Description, write_description
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.manifest import Manifest, write_manifest

READERS = {
    "manifests": "from vectorizer_engine.storage.manifest import read_manifest as read",
    "descriptions": "from vectorizer_engine.collection.data_folder import read_description as read",
}

SCRIPT = """
import sys
import threading
from pathlib import Path

sys.setswitchinterval(1e-6)  # threads meet in everything that is not one step
{imported}

folder = Path(sys.argv[1])
together = threading.Barrier(8)
seen = []

def begin():
    together.wait()
    seen.append(read(folder))

threads = [threading.Thread(target=begin) for _ in range(8)]
for each in threads:
    each.start()
for each in threads:
    each.join()
assert len(seen) == 8
assert all(each == seen[0] for each in seen)
"""


@pytest.mark.parametrize("kind", READERS)
def test_threads_that_are_the_first_to_read_do_not_meet_half_made_types(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "0123456789abcdef.collection"
    folder.mkdir()
    write_manifest(folder, Manifest(applied=3), files=Files())
    write_description(folder, Description("docs", CollectionParams(4, Distance.DOT)), files=Files())
    for _ in range(3):
        script = SCRIPT.format(imported=READERS[kind])
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
