"""How much memory a pod needs: the sum that the engine promises to keep.

Anonymous memory <= idle process + cache limit + request budget + 5 %. Mapped pages of data files are not part of it:
the kernel takes them back when the pod's limit is reached. Nothing here is about CPU or disk.
"""

from vectorizer_engine.config import ServerConfig

IDLE_BYTES = 80 * 1024**2
"""An engine without data, every library loaded: the ceiling that its benchmark holds it to."""

REQUEST_BUDGET_BYTES: int = ServerConfig().request_memory_bytes
"""Bodies of all requests in flight; the operator leaves the engine's default."""

SLACK_PERCENT = 5
"""Allocator overhead and fragmentation."""

_MIB = 1024**2


def pod_memory_bytes(cache_limit_bytes: int) -> int:
    """The memory limit in bytes, a whole number of MiB, of a pod whose caches may hold *cache_limit_bytes*."""
    need = (IDLE_BYTES + cache_limit_bytes + REQUEST_BUDGET_BYTES) * (100 + SLACK_PERCENT)
    return -(-need // (100 * _MIB)) * _MIB
