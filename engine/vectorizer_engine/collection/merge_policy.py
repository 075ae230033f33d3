"""Which segments to merge next: a pure function of their sizes.

Segments are sorted into tiers, each four times the size of the one below; four of a tier become one of the
next. So a point is rewritten once a tier, and a search looks at a handful of segments. A segment that has
lost much of what it held is rewritten by itself, which gives its disk space back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

FANOUT = 4
DELETED_SHARE = 0.3
"""A segment is rewritten when so much of it is deleted."""


class Size(NamedTuple):
    """A segment's rows, and how many of them still count."""

    rows: int
    live: int


def choose_merge(sizes: Sequence[Size], *, unit: int, largest: int) -> list[int]:
    """Indexes of the segments to make one of, or none.

    *unit* is the size of a segment of the lowest tier; nothing is merged beyond *largest* rows.
    """
    for index, size in enumerate(sizes):
        if size.live <= size.rows * (1 - DELETED_SHARE):
            return [index]
    tiers: dict[int, list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        tiers[_tier(size.live, unit)].append(index)
    for _, members in sorted(tiers.items()):
        chosen: list[int] = []
        total = 0
        for index in sorted(members, key=lambda index: sizes[index].live):
            if total + sizes[index].live > largest:
                break
            chosen.append(index)
            total += sizes[index].live
        if len(chosen) >= FANOUT:
            return chosen
    return []


def _tier(live: int, unit: int) -> int:
    tier = 0
    while live > unit:
        live //= FANOUT
        tier += 1
    return tier
