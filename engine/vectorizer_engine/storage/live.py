"""Which offsets of a head or segment still count: one bit each, never changed once others can see it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyroaring

from vectorizer_engine.index.base import Mask, Offsets


class LiveMask:
    """An immutable set of offsets below a capacity. Writers derive a new one; readers keep the one they have."""

    __slots__ = ("bits", "count")

    def __init__(self, bits: Mask, count: int) -> None:
        self.bits = bits
        self.count = count

    @classmethod
    def none(cls, capacity: int) -> LiveMask:
        return cls(np.zeros(mask_bytes(capacity), np.uint8), 0)

    @classmethod
    def from_deleted(cls, deleted: bytes, points: int) -> LiveMask:
        """All of *points* offsets but those in the serialised roaring bitmap *deleted*."""
        alive = np.ones(points, bool)
        if deleted:
            alive[np.array(pyroaring.BitMap.deserialize(deleted), np.int64)] = False
        return cls.from_booleans(alive)

    @classmethod
    def of(cls, rows: pyroaring.BitMap, capacity: int) -> LiveMask:
        """These *rows*, all of them below *capacity*."""
        chosen = np.zeros(8 * mask_bytes(capacity), bool)
        chosen[np.frombuffer(rows.to_array(), np.uint32)] = True
        return cls(np.packbits(chosen, bitorder="little"), len(rows))

    @classmethod
    def from_booleans(cls, alive: npt.NDArray[np.bool_]) -> LiveMask:
        return cls(np.packbits(alive, bitorder="little"), int(np.count_nonzero(alive)))

    def deleted(self, points: int) -> bytes:
        """What `from_deleted` takes: the offsets below *points* that do not count."""
        gone = np.flatnonzero(~self.booleans(points))
        return pyroaring.BitMap(gone.astype(np.uint32)).serialize()

    def booleans(self, points: int) -> npt.NDArray[np.bool_]:
        return np.unpackbits(self.bits, count=points, bitorder="little").view(bool)

    def offsets(self, start: int = 0, end: int | None = None) -> Offsets:
        """The offsets that count, ascending, from *start* to before *end*."""
        first = start >> 3
        bits = self.bits[first : None if end is None else (end + 7) >> 3]
        found = np.flatnonzero(np.unpackbits(bits, bitorder="little")) + 8 * first
        return found[np.searchsorted(found, start) : None if end is None else np.searchsorted(found, end)]

    def rows(self) -> pyroaring.BitMap:
        """The offsets that count, as a set of one's own."""
        return pyroaring.BitMap(array("I", self.offsets().astype(np.uint32).tobytes()))

    def among(self, rows: pyroaring.BitMap) -> LiveMask:
        """These, as far as they are in *rows*, all of which must be below the capacity."""
        bits = LiveMask.of(rows, 8 * len(self.bits)).bits & self.bits
        return LiveMask(bits, int(np.bitwise_count(bits).sum()))

    def __contains__(self, offset: int) -> bool:
        return bool(self.bits[offset >> 3] >> (offset & 7) & 1)

    def with_range(self, offsets: range) -> LiveMask:
        """These, and the consecutive *offsets*, none of which may be in it."""
        bits = self.bits.copy()
        start, stop = offsets.start, offsets.stop
        first, last = start >> 3, (stop + 7) >> 3
        window = np.unpackbits(bits[first:last], bitorder="little")
        window[start - first * 8 : stop - first * 8] = 1
        bits[first:last] = np.packbits(window, bitorder="little")
        return LiveMask(bits, self.count + len(offsets))

    def without(self, offsets: Sequence[int]) -> LiveMask:
        """These but for *offsets*, each of which must be in it once."""
        bits = self.bits.copy()
        gone = np.asarray(offsets, np.int64)
        np.bitwise_and.at(bits, gone >> 3, ~(1 << (gone & 7)).astype(np.uint8))
        return LiveMask(bits, self.count - len(offsets))


def mask_bytes(points: int) -> int:
    """Heap bytes of the bits of so many offsets."""
    return (points + 7) // 8
