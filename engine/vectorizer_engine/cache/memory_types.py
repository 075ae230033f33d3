"""The vocabulary of the ledger: what memory is for, why it was taken back, and how things stand."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CacheType(StrEnum):
    """What a charge is for: the `type` label of the metrics."""

    QUERY = "query"
    HNSW = "hnsw"
    METADATA = "metadata"


class EvictionReason(StrEnum):
    """Why something left a cache: the `reason` label of the metrics."""

    MEMORY_LIMIT = "memory_limit"
    SIZE_LIMIT = "size_limit"
    TTL = "ttl"


class LookupResult(StrEnum):
    """Whether a cache had what was asked of it: the `result` label of the metrics."""

    HIT = "hit"
    MISS = "miss"


class Watermark(StrEnum):
    """A level of usage at which something happens: the `watermark` label of the metrics."""

    WARNING = "warning"
    BACKGROUND = "background"
    FORCED = "forced"


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """What one tenant holds at one moment, in bytes. `quota` None: no more than the limit for all."""

    quota: int | None
    used: int
    by_cache: dict[CacheType, int]


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """The ledger at one moment. Sizes are bytes.

    `peak` is the most that was used since the limit was last set. `watermarks` counts how often usage rose above the
    first and the second, and how many reservations evicted. `tenants` has NO_TENANT too.
    """

    limit: int
    used: int
    peak: int
    warning_threshold: int
    by_cache: dict[CacheType, int]
    tenants: dict[str, AccountSnapshot]
    evictions: dict[tuple[CacheType, EvictionReason], int]
    lookups: dict[tuple[CacheType, LookupResult], int]
    watermarks: dict[Watermark, int]
    refusals: int

    @property
    def over_warning_threshold(self) -> bool:
        return self.used * 100 > self.limit * self.warning_threshold
