"""What a read that need not be complete goes without.

Where a client asks for it, shards that do not answer in time are left out of the answer, which names them. A request
that reads several times, as a long scroll does, waits for a shard once.
"""

from __future__ import annotations

SECONDS = 2.0
"""How long the shards may take, where the client does not say."""


class Partial:
    """The shards that one request goes without, and why. One thread at a time may use it."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.missing: dict[int, str] = {}
