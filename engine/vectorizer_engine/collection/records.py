"""Points as they are read: id and version are there at once, payload and vector are read when they are asked for.

So what nobody asks for is not read, and a long answer can be given out point by point. A record belongs to the
view it was found in: it stays as it was, whatever is written meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, overload

import numpy as np

from vectorizer_engine.collection.payloads import decode_payload
from vectorizer_engine.collection.types import Payload
from vectorizer_engine.collection.view import Place, Ranking
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.keys import PointId, decode_id
from vectorizer_engine.storage.segment import Segment, Stamp


class Wanted(NamedTuple):
    """What of each point will be looked at. Who has to fetch the points from elsewhere fetches that along with them."""

    payload: bool
    vector: bool


EVERYTHING = Wanted(payload=True, vector=True)


class Content(Protocol):
    """Where payload and vector of a point are read: see `Place`."""

    @property
    def payload_size(self) -> int: ...

    def payload(self, start: int = 0, end: int | None = None) -> bytes: ...

    @property
    def vector(self) -> Vectors: ...


class Record:
    """A point. `version` is the operation that last changed it."""

    __slots__ = ("place", "stamp")

    def __init__(self, place: Content, stamp: Stamp) -> None:
        self.place = place
        self.stamp = stamp

    @property
    def id(self) -> PointId:
        return decode_id(self.stamp.key)

    @property
    def version(self) -> int:
        return self.stamp.version

    @property
    def payload(self) -> Payload:
        """Read and decoded each time; empty where there is none."""
        return decode_payload(self.place.payload())

    @property
    def vector(self) -> Vectors:
        """float32 of shape [d], as the client sent it; with cosine it is stored, and given back, with length 1."""
        return self.place.vector


class Scored(Record):
    """A point that a search found, and its score in Qdrant's sense."""

    __slots__ = ("score",)

    def __init__(self, place: Content, stamp: Stamp, score: float) -> None:
        self.place = place  # not by the other's, which would take as long again for each hit of a search
        self.stamp = stamp
        self.score = score


def records(places: Sequence[Place]) -> list[Record]:
    """The points at *places*, in their order."""
    return [Record(place, stamp) for place, stamp in zip(places, _stamps(places), strict=True)]


class Answer(Sequence[Scored]):
    """The points that a search found, closest first. They are made when they are looked at."""

    __slots__ = ("_points", "_ranking", "text")

    def __init__(self, ranking: Ranking, text: bytes | None) -> None:
        self._ranking = ranking
        self._points: list[Scored] | None = None
        self.text = text
        """Ids, versions and scores as a JSON list; None where more is wanted, or that is not made so easily."""

    def __len__(self) -> int:
        return len(self._ranking.offsets)

    @overload
    def __getitem__(self, index: int) -> Scored: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scored]: ...
    def __getitem__(self, index: int | slice) -> Scored | list[Scored]:
        return self._all[index]

    def __iter__(self) -> Iterator[Scored]:
        return iter(self._all)

    @property
    def _all(self) -> list[Scored]:
        if self._points is None:
            places = self._ranking.places()
            scores = self._ranking.scores.tolist()
            self._points = [
                Scored(place, stamp, score)
                for place, stamp, score in zip(places, _stamps(places), scores, strict=True)
            ]
        return self._points


def answers(rankings: Sequence[Ranking], *, wanted: Wanted) -> list[Answer]:
    """The points of each of *rankings*."""
    texts = None if wanted.payload or wanted.vector else _texts(rankings)
    return [Answer(*each) for each in zip(rankings, texts or itertools.repeat(None), strict=False)]


def _texts(rankings: Sequence[Ranking]) -> list[bytes] | None:
    """Nearly always all are in one segment: where nothing is written."""
    sources = {ranking.only_source for ranking in rankings}
    source = sources.pop()
    if sources or not isinstance(source, Segment):
        return None
    if len(rankings) == 1:
        [(_, _, offsets, scores)] = rankings
        return source.hits(offsets, scores, np.array([len(offsets)]))
    return source.hits(
        np.concatenate([ranking.offsets for ranking in rankings]),
        np.concatenate([ranking.scores for ranking in rankings]),
        np.array([len(ranking.offsets) for ranking in rankings]),
    )


def _stamps(places: Sequence[Place]) -> Iterable[Stamp]:
    """The stamp of each place, with one read of each part."""
    if len({id(place.part) for place in places}) == 1:  # nearly always so where nothing is written
        return places[0].part.source.stamps([place.offset for place in places])
    by_part: dict[int, list[Place]] = {}
    for place in places:
        by_part.setdefault(id(place.part), []).append(place)
    stamps = {
        part: iter(those[0].part.source.stamps([place.offset for place in those]))
        for part, those in by_part.items()
    }
    return [next(stamps[id(place.part)]) for place in places]
