"""Waiting for what another process does, with a deadline."""

import time
from collections.abc import Callable
from typing import Any


def eventually(condition: Callable[[], Any], *, seconds: float = 30.0, why: Callable[[], str] = str) -> Any:
    """The first true value of `condition()`. AssertionError with `why()` when that takes longer than `seconds`.

    At most a quarter of the time goes into asking, so that kubectl leaves the processors to what is waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        assert now < deadline, f"it did not come to that in {seconds:g} s: {why()}"
        time.sleep(min(max(0.02, 3 * (now - began)), 0.5))
