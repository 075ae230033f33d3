"""Clock jumps: the engine decides nothing by the time of day, so setting the clock changes nothing.

Every wait, retry, age and deadline is measured by the monotonic clock. The sources are searched for every way to ask
for the time of day; where it is asked, the table says what for.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vectorizer_engine

ROOT = Path(vectorizer_engine.__file__).parent

WALL_CLOCK = {
    "time": {"time", "time_ns", "ctime", "gmtime", "localtime", "strftime", "asctime", "mktime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}

ALLOWED = {
    ("logs.py", "time.gmtime"): "the time in front of each line of the log",
    (
        "api/distribution.py",
        "datetime.now",
    ): "when GET /cluster was asked, which Qdrant's clients expect to be told",
    ("ingest/loader.py", "time.time_ns"): (
        "how old a watched file is, by the clock that its own times are of; a file from the future counts as settled"
    ),
}


def uses(source: str) -> set[str]:
    """The ways in which a module asks for the time of day."""
    tree = ast.parse(source)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            of = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if node.attr in WALL_CLOCK.get(of, ()):
                found.add(f"{of}.{node.attr}")
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{name.name}" for name in node.names if name.name in WALL_CLOCK["time"]}
        if isinstance(node, ast.Attribute) and node.attr == "CLOCK_REALTIME":
            found.add("CLOCK_REALTIME")
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\ntime.time()", {"time.time"}),
        ("from time import time_ns as now\nnow()", {"time.time_ns"}),
        ("import datetime\ndatetime.datetime.now()", {"datetime.now"}),
        ("from datetime import datetime\nf = datetime.utcnow", {"datetime.utcnow"}),
        ("import time\ntime.clock_gettime(time.CLOCK_REALTIME)", {"CLOCK_REALTIME"}),
        ("import time\ntime.monotonic()", set()),
    ],
)
def test_every_way_to_ask_for_the_time_of_day_is_found(source: str, found: set[str]) -> None:
    assert uses(source) == found


def test_no_module_of_the_engine_decides_anything_by_the_time_of_day() -> None:
    asked = {
        (str(path.relative_to(ROOT)), use) for path in ROOT.rglob("*.py") for use in uses(path.read_text())
    }
    assert asked == set(ALLOWED)
