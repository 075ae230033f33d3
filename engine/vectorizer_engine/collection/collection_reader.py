"""The reads of a collection, whoever writes it.

Every method is synchronous and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.collection.cached_search import search_with_cache
from vectorizer_engine.collection.incoming import checked_vectors
from vectorizer_engine.collection.readable_shard import ReadableShard
from vectorizer_engine.collection.records import (
    EVERYTHING,
    Answer,
    Record,
    Wanted,
    answers,
    records,
)
from vectorizer_engine.collection.selection import Selector, indexed_points
from vectorizer_engine.collection.types import (
    CollectionInfo,
    CollectionParams,
    CollectionStatus,
    Distance,
    IndexedField,
    LayoutInfo,
    PointId,
    Predicate,
)
from vectorizer_engine.collection.view import Chosen, Ranking, SearchMode
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.storage.keys import decode_id, encode_id


class CollectionReader:
    """Points of one dimension and distance, as *shard* has them at present."""

    def __init__(
        self,
        name: str,
        params: CollectionParams,
        shard: ReadableShard,
        *,
        tenant: str,
        results: AdvancedCache | None,
    ) -> None:
        """*results* keeps answers of searches, if any are to be kept."""
        self.name = name
        self.tenant = tenant
        self.params = params
        self._shard = shard
        self._results = results

    def info(self) -> CollectionInfo:
        view = self._shard.view
        problems = tuple(
            f"segment {segment.id} with {segment.points} points was set aside: {segment.reason}"
            for segment in self._shard.quarantined
        )
        layouts = self.layouts()
        busy = CollectionStatus.YELLOW if self._shard.busy else CollectionStatus.GREEN
        return CollectionInfo(
            name=self.name,
            params=self.params,
            status=CollectionStatus.RED if problems else busy,
            points=view.points,
            indexed_vectors=sum(layout.points for layout in layouts if layout.layout != SegmentLayout.EXACT),
            segments=len(view.parts),
            layouts=layouts,
            disk_bytes=self._shard.disk_bytes,
            problems=problems,
        )

    def layouts(self) -> tuple[LayoutInfo, ...]:
        """How each sealed segment is searched at present. Looks at no file, unlike `info`."""
        return tuple(self._shard.layouts())

    @property
    def heap_vector_bytes(self) -> int:
        """What memory storage keeps on the heap, outside of the cache limit. 0 where vectors are mapped."""
        return sum(segment.heap_bytes for segment, _ in self._shard.view.segments())

    def retrieve(self, ids: Iterable[PointId], *, wanted: Wanted = EVERYTHING) -> list[Record]:
        """The points of *ids* that exist, in the order asked for.

        *wanted* says what of them will be looked at. Here it is read only then, whatever it says.
        """
        keys = [encode_id(point) for point in ids]
        places = [place for place in self._shard.find(keys) if place is not None]
        return records(places)

    def scroll(
        self,
        *,
        start: PointId | None = None,
        limit: int,
        predicate: Predicate | None = None,
        wanted: Wanted = EVERYTHING,
    ) -> tuple[list[Record], PointId | None]:
        """Up to *limit* points in id order from *start* on, and the id to go on with (None at the end).

        For *wanted* see `retrieve`.
        """
        scan = self._shard.view.scan_keys(
            b"" if start is None else encode_id(start), selector=self._selector(predicate)
        )
        page = list(islice(scan, limit + 1))
        following = decode_id(page[limit][0]) if len(page) > limit else None
        return records([place for _, place in page[:limit]]), following

    def count(self, predicate: Predicate | None = None) -> int:
        """How many points there are, or how many of them *predicate* takes. Exact."""
        view = self._shard.view
        return view.points if predicate is None else view.count(self._shard.selector(predicate))

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
        wanted: Wanted = EVERYTHING,
    ) -> list[Answer]:
        """For each row of *queries* (float32 [q, d]) the nearest points, closest first.

        *offset* skips that many of the best. *score_threshold* leaves out what is worse, by the distance's own
        order. *exact* compares every vector; *ef* is how many candidates an HNSW index keeps while it looks.
        For *wanted* see `retrieve`.
        """
        rows = checked_vectors(self.name, self.params, queries)
        distance = self.params.distance
        how = SearchMode(distance, exact, ef)
        view = self._shard.view

        def finish(rankings: list[Ranking]) -> list[Answer]:
            if offset:
                rankings = [each.chosen(slice(offset, None)) for each in rankings]
            if score_threshold is not None:
                rankings = [each.chosen(_reach(each.scores, score_threshold, distance)) for each in rankings]
            return answers(rankings, wanted=wanted)

        if predicate is None and self._results is not None:
            return search_with_cache(view, rows, offset + limit, how, results=self._results, finish=finish)
        selector = self._selector(predicate)
        return view.search(rows, offset + limit, how, selector=selector, finish=finish)

    def payload_schema(self) -> dict[str, IndexedField]:
        """The indexed fields, and how many points have a value there that the index holds. Reads the heads."""
        view = self._shard.view
        return {
            path: IndexedField(type, sum(indexed_points(part, path, type) for part in view.parts))
            for path, type in self._shard.payload_schema.items()
        }

    @property
    def last_operation(self) -> int:
        """The number of the last write."""
        return self._shard.last_number

    def _selector(self, predicate: Predicate | None) -> Selector | None:
        return None if predicate is None else self._shard.selector(predicate)


def _reach(scores: Vectors, threshold: float, distance: Distance) -> Chosen:
    """Which of *scores* are as good as *threshold* by the distance's own order."""
    exact = scores.astype(np.float64)
    return exact >= threshold if distance.larger_is_closer else exact <= threshold
