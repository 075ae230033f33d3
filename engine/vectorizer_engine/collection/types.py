"""The vocabulary of collections: what a point is made of, and what describes a collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from vectorizer_engine.config import StorageType
from vectorizer_engine.errors import InvalidRequest
from vectorizer_engine.index.base import Distance
from vectorizer_engine.storage.keys import PointId
from vectorizer_engine.storage.payload_index import FieldType

__all__ = [
    "CollectionInfo",
    "CollectionParams",
    "CollectionStatus",
    "Distance",
    "IndexedField",
    "LayoutInfo",
    "Payload",
    "PointId",
    "Predicate",
    "StorageType",
]

MAX_DIMENSION = 65_536
"""As in Qdrant."""

Payload = dict[str, Any]

Predicate = Callable[[PointId, Mapping[str, Any]], bool]
"""Whether a point belongs to a selection, by its id and payload. Compiled from a filter; must not raise."""


@dataclass(frozen=True, slots=True)
class CollectionParams:
    """What a collection is created with. It never changes afterwards."""

    dimension: int
    distance: Distance
    storage: StorageType = StorageType.MMAP
    vector_name: str = ""
    """By which clients name the one vector of each point. Empty: by none."""

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= MAX_DIMENSION:
            raise InvalidRequest(
                f"vector size is {self.dimension}: expected a whole number from 1 to {MAX_DIMENSION}"
            )


class CollectionStatus(StrEnum):
    """As in Qdrant: green serves all and is at rest, yellow is merging or indexing, red has lost data."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


class LayoutInfo(NamedTuple):
    """How one sealed segment is searched at present, and the planner's reason for it in words."""

    points: int
    layout: str
    reason: str


class IndexedField(NamedTuple):
    """A payload index, and how many points have a value that is in it."""

    type: FieldType
    points: int


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection at a moment. `problems` says in words why the status is red.

    `segments` counts the heads too, which take what is written and have no layout to choose.
    """

    name: str
    params: CollectionParams
    status: CollectionStatus
    points: int
    indexed_vectors: int
    segments: int
    layouts: tuple[LayoutInfo, ...]
    disk_bytes: int
    problems: tuple[str, ...]
    shards: int = 1
    copies: int = 1
