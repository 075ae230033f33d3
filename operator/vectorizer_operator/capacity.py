"""How much memory a pod needs: the sum that the engine promises to keep.

Anonymous memory <= idle process + cache limit + request budgets + 5 %. Mapped pages of data files are not part of it:
the kernel takes them back when the pod's limit is reached. Nothing here is about CPU or disk.
"""

from vectorizer_engine.config import ServerConfig

IDLE_BYTES = 80 * 1024**2
"""An engine without data, every library loaded: the ceiling that its benchmark holds it to."""

REQUEST_BUDGET_BYTES: int = ServerConfig().request_memory_bytes
"""Requests in flight: bodies, answers, and what writes make of theirs; the operator leaves the engine's default.

A pod that shares a store with others has as much again for what they ask of it, or two could wait for each other.
Measured on a pod alone with 64 MiB of caches, under 64 clients that wrote batches of 2,000 points (d = 384, bodies of
16 MiB), searched for 10,000 and sent 200 searches at a time: 100 MiB besides the idle process, 20 of them in caches.
"""

SLACK_PERCENT = 5
"""Allocator overhead and fragmentation."""

_MIB = 1024**2


def pod_memory_bytes(cache_limit_bytes: int, *, shares_store: bool) -> int:
    """The memory limit in bytes, a whole number of MiB, of a pod whose caches may hold *cache_limit_bytes*."""
    requests = REQUEST_BUDGET_BYTES * (2 if shares_store else 1)
    need = (IDLE_BYTES + cache_limit_bytes + requests) * (100 + SLACK_PERCENT)
    return -(-need // (100 * _MIB)) * _MIB
