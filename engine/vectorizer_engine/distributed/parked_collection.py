"""What is told of a shard that is served and not open: what it had when it was closed."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import pyroaring

from vectorizer_engine.collection.collection_reader import CollectionReader
from vectorizer_engine.collection.types import (
    CollectionInfo,
    CollectionParams,
    CollectionStatus,
    IndexedField,
    LayoutInfo,
)
from vectorizer_engine.storage.manifest import Manifest


class ParkedCollection:
    """In the place of a `Collection`, for those who describe it."""

    heap_vector_bytes = 0

    def __init__(
        self,
        tenant: str,
        info: CollectionInfo,
        *,
        fields: dict[str, IndexedField],
        last_operation: int,
        is_exact: bool,
    ) -> None:
        """*is_exact* says whether the shard has what *info* says, or writes besides that are only in its log."""
        self.name = info.name
        self.tenant = tenant
        self.params = info.params
        self.is_exact = is_exact
        self.last_operation = last_operation
        self._info = info
        self._fields = fields

    @classmethod
    def of(cls, collection: CollectionReader) -> Self:
        """What *collection* has now. It takes no disk space when it is closed, and nothing goes on there."""
        info = collection.info()
        status = CollectionStatus.RED if info.problems else CollectionStatus.GREEN
        return cls(
            collection.tenant,
            replace(info, disk_bytes=0, status=status),
            fields=collection.payload_schema(),
            last_operation=collection.last_operation,
            is_exact=True,
        )

    @classmethod
    def unopened(
        cls, name: str, tenant: str, params: CollectionParams, manifest: Manifest, *, last_operation: int
    ) -> Self:
        """What the *manifest* of a shard says that was never open here."""
        points = sum(
            entry.points - (len(pyroaring.BitMap.deserialize(entry.deleted)) if entry.deleted else 0)
            for entry in manifest.segments
        )
        info = CollectionInfo(
            name=name,
            params=params,
            status=CollectionStatus.RED if manifest.quarantined else CollectionStatus.GREEN,
            points=points,
            indexed_vectors=0,
            segments=len(manifest.segments),
            layouts=(),
            disk_bytes=0,
            problems=tuple(each.reason for each in manifest.quarantined),
        )
        fields = {path: IndexedField(type, 0) for path, type in manifest.payload_schema.items()}
        exact = manifest.applied == last_operation and not fields
        return cls(tenant, info, fields=fields, last_operation=last_operation, is_exact=exact)

    def info(self) -> CollectionInfo:
        return self._info

    def layouts(self) -> tuple[LayoutInfo, ...]:
        """How each segment was searched."""
        return self._info.layouts

    def payload_schema(self) -> dict[str, IndexedField]:
        return self._fields
