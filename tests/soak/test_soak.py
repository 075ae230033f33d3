"""The short form of `make soak`: the same program and the same goals, for seconds instead of hours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def test_ten_users_under_a_small_limit_see_no_error_and_memory_stays_within_bounds(tmp_path: Path) -> None:
    soak = [sys.executable, ROOT / "benchmarks/soak.py", "--hours", "0.002", "--report", tmp_path]
    done = subprocess.run(soak, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong or failed 0" in done.stdout
    plot = ElementTree.parse(tmp_path / "memory.svg").getroot()
    assert len(plot.findall("{http://www.w3.org/2000/svg}polyline")) == 4
    header, *samples = (tmp_path / "samples.csv").read_text().splitlines()
    assert header == "seconds,ledger,anonymous,mapped"
    assert len(samples) > 10
