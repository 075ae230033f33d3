"""Child processes of tests, as they are without coverage: what it keeps is memory, and it makes them slower."""

from __future__ import annotations

import os
import subprocess
import sys

UNCOVERED = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
"""What a child is told, on top of its environment, whose coverage is not measured."""


def uncovered() -> dict[str, str]:
    """The environment of a child whose coverage is not measured."""
    return {**os.environ, **UNCOVERED}


def output_of(program: str, *arguments: str, seconds: float) -> str:
    """What the Python *program* prints, which has to end well in time."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=uncovered(),
    ).stdout
