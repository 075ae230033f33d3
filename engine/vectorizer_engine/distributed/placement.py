"""Which token a new collection gets, so that its shards are spread evenly.

Owners are found by rendezvous hashing, which moves as little as can be and spreads a handful of shards badly: of six,
one of three members gets four every now and then. But they are found from the collection's token, which is drawn at
random. So several are drawn, and the one is taken that spreads best, over the members of now and those that there would
be after scaling (docs/decisions/0012-a-token-is-drawn-for-its-spread.md).
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Sequence

from vectorizer_engine.distributed.topology import weight

MOST_MEMBERS = 8
"""Clusters of up to so many members are thought of."""

_DRAWS = 64
_SHARDS_DRAWN = 400
"""The draws for a collection of more shards are fewer, which spread better anyway: it takes some 20 ms."""

_NOW = 4
"""So much more the members of now count than those that there may be."""

_ORDINAL = re.compile(r"(.*)-(\d+)")


def draw_token(members: Sequence[str], shards: int) -> str:
    """A token that no collection had, for one of so many *shards* that *members*, by their names, are to serve."""
    groups = _groups(members)
    draws = max(1, min(_DRAWS, _SHARDS_DRAWN // shards))
    return min(
        (secrets.token_hex(8) for _ in range(draws)), key=lambda token: _crowding(token, shards, groups)
    )


def _groups(members: Sequence[str]) -> list[tuple[int, Sequence[str]]]:
    """The sets of members that may come to serve, and how much each counts. Pods are numbered from 0 on."""
    bases = {match[1] if (match := _ORDINAL.fullmatch(member)) else None for member in members}
    groups = [(_NOW, members)] if members else []
    if len(bases) == 1 and (base := bases.pop()) is not None:
        numbered = [f"{base}-{number}" for number in range(MOST_MEMBERS)]
        groups += [(1, numbered[:size]) for size in range(2, MOST_MEMBERS + 1)]
    return groups


def _crowding(token: str, shards: int, groups: Sequence[tuple[int, Sequence[str]]]) -> int:
    """How far from even the fullest and the emptiest member of each group are, in shards, altogether."""
    names = {name for _, members in groups for name in members}
    weights = [{name: weight(name, token, shard) for name in names} for shard in range(shards)]
    crowding = 0
    for importance, members in groups:
        owned = Counter(max(members, key=each.__getitem__) for each in weights)
        counts = [owned[member] for member in members]
        too_many = max(counts) - -(-shards // len(members))
        too_few = shards // len(members) - min(counts)
        crowding += importance * (too_many + too_few)
    return crowding
