"""A data folder: the collections in it, and who may work on it.

Opening takes a lock that lasts as long as the process, recovers every collection from its manifest and log,
and removes what a crash left half-made or half-deleted.
"""

from __future__ import annotations

from pathlib import Path

from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.types import CollectionParams


class VectorStore:
    """Every collection of one engine process. Methods may be called from any thread."""

    @classmethod
    def open(cls, path: Path, *, memory: CacheMemoryManager) -> VectorStore:
        """Take the folder (made where it is missing) and recover what it holds.

        Raises StoreLocked, StoreVersionError, StoreCorrupt, or StoreFailure where the folder cannot be used.
        """
        raise NotImplementedError

    def create_collection(self, name: str, params: CollectionParams) -> Collection:
        """Raises CollectionExists, InvalidRequest for a name that cannot be one."""
        raise NotImplementedError

    def delete_collection(self, name: str) -> bool:
        """Delete for good. False where there is no such collection."""
        raise NotImplementedError

    def collection(self, name: str) -> Collection:
        """Raises CollectionNotFound."""
        raise NotImplementedError

    def collections(self) -> list[Collection]:
        """All of them, by name."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish what is being written, stop the background work, let go of the folder."""
        raise NotImplementedError
