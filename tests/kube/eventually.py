"""Waiting for what another process does, with a deadline."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], *, seconds: float = 20) -> None:
    """Return once `condition()` is true. AssertionError when that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to that within {seconds:g} s"
        time.sleep(0.02)
