"""What every index backend shares: distances, their order, and the shape of an answer."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]
"""One bit an offset, least significant first: 1 where the offset may be in an answer."""


class Distance(StrEnum):
    """How two vectors are compared, by Qdrant's names."""

    COSINE = "Cosine"
    DOT = "Dot"
    EUCLID = "Euclid"
    MANHATTAN = "Manhattan"

    @property
    def larger_is_closer(self) -> bool:
        """Cosine and Dot score by similarity, Euclid and Manhattan by distance."""
        return self in (Distance.COSINE, Distance.DOT)


class Hits(NamedTuple):
    """The nearest offsets of one query, closest first, and their scores (float32) in Qdrant's sense."""

    offsets: Offsets
    scores: Vectors


class ApproximateIndex(Protocol):
    """What finds most of the nearest vectors without comparing all of them."""

    def search(self, queries: Vectors, limit: int, *, mask: Mask | None, ef: int | None) -> list[Hits]:
        """For each row of *queries* (float32 [q, d], C order) about the *limit* nearest of what *mask* allows.

        *ef* asks for more or less care than is usual, where the index knows such a thing.
        """
        ...
