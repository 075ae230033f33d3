"""Which index a sealed segment gets, and why: a pure function of its size and of the memory there is.

It looks at no ledger and reserves nothing; whoever builds the index does both, and asks again when a
reservation was refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vectorizer_engine.index import quantized, rabitq
from vectorizer_engine.index.base import Distance

WORTH_INDEXING = 4096
"""Vectors below which there is no index: a scan of 4,000 (d = 384) takes 0.22 ms, and their index saves a third of
that for the 0.4 s of a core that building it takes."""

OPEN_SHARE = 1 / 8
"""The share of the cache limit that one open index may hold, so that there is room for caches and for others."""


class SegmentLayout(StrEnum):
    """How a sealed segment is searched, by the names that the API shows."""

    EXACT = "exact"
    HNSW_SQ8 = "hnsw-sq8"
    IVF_RABITQ = "ivf-rabitq"


@dataclass(frozen=True, slots=True)
class LayoutPlan:
    """A layout and the reason for it in words. *build_bytes* are held while building, *open_bytes* from then
    on; both are to be reserved."""

    layout: SegmentLayout
    reason: str
    build_bytes: int = 0
    open_bytes: int = 0


def plan_layout(
    count: int, dimension: int, distance: Distance, *, limit: int, available: int, threads: int
) -> LayoutPlan:
    """The best layout for *count* vectors that the memory allows.

    *limit* is the cache limit in bytes, *available* what could be reserved of it now, evictable entries
    included; *threads* is how many would build.
    """
    if count < WORTH_INDEXING:
        return _exact(
            f"{count} vectors are scanned faster than an index would repay: fewer than {WORTH_INDEXING}"
        )
    if not quantized.supports(distance):
        return _exact(f"no index compares by {distance.value}: HNSW and RaBitQ know inner product and Euclid")
    best = LayoutPlan(
        SegmentLayout.HNSW_SQ8,
        f"the index of {count} vectors fits into the memory there is",
        quantized.build_bytes(count, dimension, threads=threads),
        quantized.open_bytes(count),
    )
    obstacle = _obstacle(best, limit=limit, available=available)
    if obstacle is None:
        return best
    smaller = LayoutPlan(
        SegmentLayout.IVF_RABITQ,
        f"{best.layout.value} {obstacle}",
        rabitq.build_bytes(count, dimension),
        rabitq.open_bytes(count),
    )
    too_much = _obstacle(smaller, limit=limit, available=available)
    if too_much is None:
        return smaller
    return _exact(f"{best.layout.value} {obstacle}; {smaller.layout.value} {too_much}")


def _exact(reason: str) -> LayoutPlan:
    return LayoutPlan(SegmentLayout.EXACT, reason)


def _obstacle(plan: LayoutPlan, *, limit: int, available: int) -> str | None:
    """Why *plan* cannot be had, or None."""
    if plan.open_bytes > limit * OPEN_SHARE:
        return (
            f"would hold {plan.open_bytes} bytes while open, more than an eighth of the cache limit of "
            f"{limit} bytes"
        )
    if plan.build_bytes > limit:
        return f"needs {plan.build_bytes} bytes to be built, more than the cache limit of {limit} bytes"
    if plan.build_bytes > available:
        return f"needs {plan.build_bytes} bytes to be built, of which {available} are free now"
    return None
