"""The bodies of requests, in Qdrant's shapes.

A field typed `None` is one of Qdrant's that this engine does not support: null passes, anything else is
refused by name, so that nothing is silently ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

Whole = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
WithPayload = bool | list[str] | dict[str, list[str]] | None
"""Everything or nothing, the paths to include, or {"include": paths} or {"exclude": paths}."""

Filter = dict[str, Any] | None


class _Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    shard_key: None = None


# --- collections ---------------------------------------------------------------------------------------


PLANNED = ("hnsw_config", "optimizers_config", "wal_config", "quantization_config")
"""What the engine decides by itself: these are taken and do nothing."""


class VectorParams(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    size: int
    distance: str
    on_disk: bool | None = None
    memory: str | None = None
    datatype: Literal["float32"] | None = None
    hnsw_config: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    multivector_config: None = None


class CreateCollection(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    vectors: Raw | UnsetType = UNSET
    on_disk_payload: bool | None = None
    shard_number: Annotated[int, msgspec.Meta(ge=1)] | None = None
    replication_factor: Annotated[int, msgspec.Meta(ge=1)] | None = None
    write_consistency_factor: Literal[1] | None = None
    sharding_method: Literal["auto"] | None = None
    hnsw_config: dict[str, Any] | None = None
    optimizers_config: dict[str, Any] | None = None
    wal_config: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    sparse_vectors: dict[str, Any] | None = None
    strict_mode_config: None = None
    metadata: None = None
    payload: None = None
    id_tracker: None = None
    init_from: None = None


class VectorParamsDiff(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    on_disk: bool | None = None
    memory: str | None = None
    hnsw_config: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None


class UpdateCollection(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    vectors: dict[str, VectorParamsDiff] | None = None
    params: None = None
    hnsw_config: dict[str, Any] | None = None
    optimizers_config: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    sparse_vectors: dict[str, Any] | None = None
    strict_mode_config: None = None
    metadata: None = None


class CreateFieldIndex(_Body):
    field_name: str
    field_schema: Raw | UnsetType = UNSET


# --- points --------------------------------------------------------------------------------------------


class Point(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: int | str
    vector: Raw
    payload: Raw = Raw(b"null")


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[int | str]
    vectors: Raw
    payloads: list[Raw] | None = None


class UpsertPoints(_Body):
    points: list[Point] | None = None
    batch: Batch | None = None
    update_mode: Literal["upsert"] | None = None
    update_filter: None = None


class RetrievePoints(_Body):
    ids: list[int | str]
    with_payload: WithPayload = True
    with_vector: bool | list[str] | None = None
    with_vectors: bool | list[str] | None = None


class ScrollPoints(_Body):
    offset: int | str | None = None
    limit: Whole | None = None
    filter: Filter = None
    with_payload: WithPayload = True
    with_vector: bool | list[str] | None = None
    with_vectors: bool | list[str] | None = None
    order_by: None = None


class CountPoints(_Body):
    filter: Filter = None
    exact: bool = True  # False allows an estimate; an exact count is one too


class SelectPoints(_Body):
    """Exactly one of `points` and `filter`."""

    points: list[int | str] | None = None
    filter: Filter = None


class SetPayload(SelectPoints, kw_only=True):
    payload: dict[str, Any]
    key: None = None


class UpdateBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Each operation is an object with one key, its kind."""

    operations: list[dict[str, Raw]]


class DeletePayload(SelectPoints, kw_only=True):
    keys: list[str]


# --- search --------------------------------------------------------------------------------------------


class SearchParams(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    hnsw_ef: Whole | None = None
    exact: bool | None = None
    indexed_only: bool | None = None
    quantization: None = None
    acorn: None = None
    idf: None = None


class _Search(_Body):
    filter: Filter = None
    params: SearchParams | None = None
    score_threshold: float | None = None
    offset: Whole | None = None
    with_payload: WithPayload = None
    with_vector: bool | list[str] | None = None
    with_vectors: bool | list[str] | None = None


class SearchPoints(_Search, kw_only=True):
    vector: Raw
    limit: Whole


class NamedVector(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    vector: Raw


class SearchBatch(msgspec.Struct, forbid_unknown_fields=True):
    searches: list[SearchPoints]


class QueryPoints(_Search):
    query: Raw | UnsetType = UNSET
    limit: Whole | None = None
    using: str | None = None
    prefetch: list[Any] | None = None
    lookup_from: None = None


class QueryBatch(msgspec.Struct, forbid_unknown_fields=True):
    searches: list[QueryPoints]


class NearestQuery(msgspec.Struct, forbid_unknown_fields=True):
    nearest: Raw
    mmr: None = None
