"""Which segments to merge next: a pure function of their sizes.

Segments are sorted into tiers, each four times the size of the one below; four of a tier become one of the
next. So a point is rewritten once a tier, and a search looks at a handful of segments. A segment that has
lost much of what it held is rewritten by itself, which gives its disk space back.

Where nothing is written any more, merging goes further: a search takes about as long for each segment, and the fewer
there are the better. Writes may come again, in bursts, each of them followed by a rest. So then too, what is rewritten
is bounded by what is new: for a point that is merged into a larger segment at most `REST_SHARE` of that segment's are
written again, and a point finds itself in one of at least twice the size, which it can no more often than sizes double.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

FANOUT = 4
DELETED_SHARE = 0.3
"""A segment is rewritten when so much of it is deleted."""


REST_SHARE = 32
"""At rest, what is merged into a segment is at least a 32nd of it. 4,000 points beside 64,000 are: by themselves they
take as much of a search as the 64,000 do (0.2 ms), with them next to nothing, for 9 s of indexing."""


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


def choose_merge_at_rest(sizes: Sequence[Size], *, largest: int) -> list[int]:
    """Indexes of the segments to make one of where nothing is written any more, or none.

    The smallest, and as many of the larger ones as are worth it; nothing is merged beyond *largest* rows.
    """
    ascending = sorted(range(len(sizes)), key=lambda index: sizes[index].live)
    worth_it = 0
    total = 0
    for place, index in enumerate(ascending):
        live = sizes[index].live
        if total + live > largest:
            break
        if place and total * REST_SHARE >= live:
            worth_it = place + 1
        total += live
    return ascending[:worth_it]


def _tier(live: int, unit: int) -> int:
    tier = 0
    while live > unit:
        live //= FANOUT
        tier += 1
    return tier
