"""The short form of `make soak`: the same program and the same goals, for a minute instead of hours.

Its users rest between requests, so that a minute costs the other tests little; so the cache limit is small enough that
their few requests fill it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
MINUTE = 1 / 60
"""In hours."""


def test_ten_users_under_a_small_limit_see_no_error_and_memory_stays_within_bounds(tmp_path: Path) -> None:
    load = ["--hours", str(MINUTE), "--limit", "1", "--think", "0.5"]
    soak = [sys.executable, ROOT / "benchmarks/soak.py", *load, "--report", tmp_path]
    done = subprocess.run(soak, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong or failed 0" in done.stdout
    assert re.search(r"p99 [\d.]+ ms", done.stdout)
    assert re.search(r"evictions [1-9]", done.stdout), done.stdout
    plot = ElementTree.parse(tmp_path / "memory.svg").getroot()
    assert len(plot.findall("{http://www.w3.org/2000/svg}polyline")) == 4
    header, *samples = (tmp_path / "samples.csv").read_text().splitlines()
    assert header == "seconds,ledger,anonymous,mapped"
    assert len(samples) > 10
