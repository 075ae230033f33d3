"""Stopping, killing and starting an engine that watches a folder; and when it does not watch at all."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.engine.fixtures import StartEngine
from tests.engine.watcher.inbox import Inbox, append, line, lines, watching
from vectorizer_engine.ingest.loaded_files import FILE_NAME


def test_a_restart_loads_what_is_new_and_nothing_twice(own_inbox: Inbox) -> None:
    folder = own_inbox.create("docs")
    (folder / "a.jsonl").write_text(lines(0, 5))
    np.save(folder / "b.npy", np.ones((3, 4), np.float32))
    own_inbox.wait_for_log("loaded 5 points")
    own_inbox.wait_for_log("loaded 3 points")
    own_inbox.delete_point("docs", 4)
    assert own_inbox.engine.stop() == 0
    append(folder / "a.jsonl", line(5))
    (folder / "c.jsonl").write_text(line(6))
    own_inbox.engine.start()
    own_inbox.wait_for("docs", 6)
    assert 4 not in own_inbox.points("docs")
    assert own_inbox.metric("points_upserted_total") == 2


def test_a_killed_engine_loads_the_rest_of_a_file(own_inbox: Inbox) -> None:
    file = own_inbox.create("docs") / "a.jsonl"
    file.write_text(lines(0, 30_000))
    own_inbox.engine.wait_until(lambda: own_inbox.count("docs") > 0, "loading")
    own_inbox.engine.kill()
    own_inbox.engine.start()
    own_inbox.wait_for("docs", 30_000)


def test_a_stop_in_the_middle_of_a_file_is_quick_and_the_rest_is_loaded_later(own_inbox: Inbox) -> None:
    folder, total = own_inbox.create("docs"), 0
    for count in (40_000, 80_000, 160_000):  # on a busy machine one may be loaded before that is seen
        file = folder / f"{count}.jsonl"
        # Ten batches or more: the stop comes between two.
        file.write_text(lines(total, total + count, text="x" * 800))
        own_inbox.engine.wait_until(lambda total=total: own_inbox.count("docs") > total, "loading")  # type: ignore[misc]
        total += count
        own_inbox.engine.signal(signal.SIGTERM)
        own_inbox.engine.signal(signal.SIGTERM)  # skips the moment that is for load balancers
        began = time.monotonic()
        assert own_inbox.engine.wait() == 0
        assert time.monotonic() - began < 5  # a second, on a machine that does nothing else
        loaded_files = json.loads((own_inbox.engine.data / FILE_NAME).read_text())
        loaded = loaded_files[str(file)]["progress"]["position"]
        own_inbox.engine.start()
        if loaded < file.stat().st_size:
            break
    assert 0 < loaded < file.stat().st_size
    assert "not waiting for it" not in own_inbox.engine.log
    own_inbox.wait_for("docs", total)
    assert own_inbox.metric("points_upserted_total") < count


def test_files_are_loaded_again_where_it_is_forgotten_which_were(own_inbox: Inbox) -> None:
    folder = own_inbox.create("docs")
    (folder / "a.jsonl").write_text(lines(0, 5))
    own_inbox.wait_for_log("loaded 5 points")
    own_inbox.engine.stop()
    (own_inbox.engine.data / FILE_NAME).write_text("[]")
    own_inbox.engine.start()
    own_inbox.wait_for_log("loaded 5 points", times=2)
    assert own_inbox.count("docs") == 5
    assert f"{FILE_NAME} cannot be read, so every watched file is loaded again" in own_inbox.engine.log


def test_a_table_without_pyarrow_is_refused_by_name(tmp_path: Path, make_engine: StartEngine) -> None:
    (tmp_path / "without" / "pyarrow").mkdir(parents=True)
    (tmp_path / "without" / "pyarrow" / "__init__.py").write_text("raise ImportError")
    (tmp_path / "inbox").mkdir()
    engine = make_engine(
        watching(tmp_path / "inbox"), environment={"PYTHONPATH": str(tmp_path / "without")}
    ).start()
    inbox = Inbox(engine, tmp_path / "inbox")
    folder = inbox.create("docs")
    (folder / "a.parquet").write_bytes(b"PAR1")
    inbox.wait_for_log(f"{folder / 'a.parquet'} is not loaded: it needs pyarrow, which is not installed")
    (folder / "b.jsonl").write_text(line(1))
    inbox.wait_for("docs", 1)
    assert inbox.metric('failures_total{reason="bad_file"}') == 1


def test_a_folder_that_is_missing_keeps_the_engine_from_nothing(
    tmp_path: Path, make_engine: StartEngine
) -> None:
    engine = make_engine(watching(tmp_path / "inbox")).start()
    engine.wait_until(
        lambda: f"file_watcher.paths: {tmp_path / 'inbox'} cannot be watched: No such file" in engine.log,
        "naming the folder",
    )
    assert engine.answers("/readyz")


@pytest.mark.parametrize("arguments", [(), ("--skip-cluster-validation",)])
def test_a_cluster_never_starts_a_file_watcher(
    tmp_path: Path, make_engine: StartEngine, arguments: tuple[str, ...]
) -> None:
    config = {**watching(tmp_path), "cluster": {"enabled": True}}
    engine = make_engine(config, arguments=arguments, covered=True)
    if arguments:
        inbox = Inbox(engine.start(), tmp_path)
        (inbox.create("docs") / "a.jsonl").write_text(line(1))
        inbox.wait_for_log("the file watcher is not started: CLUSTER_002: file_watcher.enabled is true")
        assert "send it to the REST API (PUT /collections/NAME/points)" in engine.log
        threads = [path.read_text() for path in Path(f"/proc/{engine.pid}/task").glob("*/comm")]
        assert "file-watcher\n" not in threads and "notify-rs inoti\n" not in threads
        assert inbox.count("docs") == 0
    else:
        engine.launch()
        assert engine.wait() == 1
        assert "CLUSTER_002: file_watcher.enabled is true" in engine.log
