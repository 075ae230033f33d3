"""`examples/demo.py`, as `make demo` runs it: it ends by itself, and nothing is left, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.local.processes import mentioning

ROOT = Path(__file__).parents[2]


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, ROOT / "examples" / "demo.py"],
        env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_demo_answers_its_questions_and_leaves_nothing(tmp_path: Path) -> None:
    demo = start(tmp_path)
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    assert "4800/4800" in said
    answers = {line.split("  ")[0]: line for line in said.splitlines()}
    assert "gnuchess 0.73" in answers["play a chess game against the computer"]
    assert "tmux 0.79" in answers["a terminal multiplexer"]
    assert "of 256.0 MiB" in said
    assert "CLUSTER_001: spec.storage.type" in said
    assert mentioning(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_demo_stops_on_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    demo = start(tmp_path)
    assert demo.stdout
    assert any("ready at http" in line for line in demo.stdout)
    assert mentioning(tmp_path)
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert said.splitlines()[-1] == "The demo was interrupted; nothing is left running."
    assert mentioning(tmp_path) == []


def test_a_demo_that_cannot_start_its_cluster_says_why(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)  # a Python with no vectorizerctl beside it
    demo = subprocess.run(
        [tmp_path / "bin" / "python", ROOT / "examples" / "demo.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert demo.returncode == 1
    assert "The demo failed: " in demo.stdout
    assert "vectorizerctl" in demo.stdout
    assert "Traceback" not in demo.stdout + demo.stderr
