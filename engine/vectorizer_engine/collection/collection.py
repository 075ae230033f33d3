"""A collection: the schema that points are held against, and the operations on them.

Every method is synchronous and may be called from any thread. A write is in the log, fsynced, when it
returns; it is then also visible, unless `wait` is False.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vectorizer_engine.collection.types import (
    CollectionInfo,
    CollectionParams,
    Payload,
    PointId,
    Predicate,
    Record,
    Scored,
)
from vectorizer_engine.index.base import Vectors


class Collection:
    """Points of one dimension and distance. Made by `VectorStore`."""

    name: str
    params: CollectionParams

    def info(self) -> CollectionInfo:
        raise NotImplementedError

    def upsert(
        self,
        ids: Sequence[PointId],
        vectors: Vectors,
        payloads: Sequence[Mapping[str, Any] | None],
        *,
        wait: bool = True,
    ) -> int:
        """Insert or replace points, all or none. Returns the operation's number.

        *vectors* is float32 [n, d] in C order. Of an id that comes twice the last one wins.
        Raises DimensionMismatch, InvalidVector, InvalidPoint, StorageFull, StorageFailure.
        """
        raise NotImplementedError

    def delete(
        self, *, ids: Iterable[PointId] | None = None, predicate: Predicate | None = None, wait: bool = True
    ) -> int:
        """Delete points, chosen by exactly one of *ids* and *predicate*. Unknown ids are no error."""
        raise NotImplementedError

    def set_payload(
        self,
        payload: Payload,
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        """Set these top-level keys and keep the others. Raises PointNotFound for an unknown id."""
        raise NotImplementedError

    def overwrite_payload(
        self,
        payload: Payload,
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        """Replace the whole payload. Raises PointNotFound for an unknown id."""
        raise NotImplementedError

    def delete_payload(
        self,
        keys: Sequence[str],
        *,
        ids: Iterable[PointId] | None = None,
        predicate: Predicate | None = None,
        wait: bool = True,
    ) -> int:
        """Remove these top-level keys. Raises PointNotFound for an unknown id."""
        raise NotImplementedError

    def clear_payload(
        self, *, ids: Iterable[PointId] | None = None, predicate: Predicate | None = None, wait: bool = True
    ) -> int:
        """Remove the whole payload. Raises PointNotFound for an unknown id."""
        raise NotImplementedError

    def retrieve(
        self, ids: Iterable[PointId], *, with_payload: bool = True, with_vector: bool = False
    ) -> list[Record]:
        """The points of *ids* that exist, in the order asked for."""
        raise NotImplementedError

    def scroll(
        self,
        *,
        start: PointId | None = None,
        limit: int,
        predicate: Predicate | None = None,
        with_payload: bool = True,
        with_vector: bool = False,
    ) -> tuple[list[Record], PointId | None]:
        """Up to *limit* points in id order from *start* on, and the id to go on with (None at the end)."""
        raise NotImplementedError

    def count(self, predicate: Predicate | None = None) -> int:
        """How many points there are, or how many of them *predicate* takes. Exact."""
        raise NotImplementedError

    def search(
        self,
        queries: Vectors,
        *,
        limit: int,
        offset: int = 0,
        predicate: Predicate | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
        ef: int | None = None,
        with_payload: bool = False,
        with_vector: bool = False,
    ) -> list[list[Scored]]:
        """For each row of *queries* (float32 [q, d]) the nearest points, closest first.

        *offset* skips that many of the best. *score_threshold* leaves out what is worse, by the distance's own
        order. *exact* compares every vector; *ef* is how many candidates an HNSW index keeps while it looks.
        """
        raise NotImplementedError
