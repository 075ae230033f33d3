"""The calls about collections: list, create, describe, update, delete."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from vectorizer_engine.api.call import Call
from vectorizer_engine.api.decoding import decode
from vectorizer_engine.api.errors import ValidationFailed
from vectorizer_engine.api.payload_index import describe_payload_schema
from vectorizer_engine.api.requests import (
    PLANNED,
    CreateCollection,
    UpdateCollection,
    VectorParams,
    VectorParamsDiff,
)
from vectorizer_engine.cluster.validator import MMAP_STORAGE, Violation
from vectorizer_engine.collection.types import MAX_DIMENSION, CollectionParams, Distance, StorageType
from vectorizer_engine.errors import ClusterConfigViolation, InvalidRequest
from vectorizer_engine.index.planner import WORTH_INDEXING
from vectorizer_engine.index.quantized import EF_CONSTRUCTION, M

logger = logging.getLogger(__name__)

_create = msgspec.json.Decoder(CreateCollection)
_update = msgspec.json.Decoder(UpdateCollection)
_vector_params = msgspec.json.Decoder(VectorParams)
_named = msgspec.json.Decoder(dict[str, msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, Any])

_STORAGE_OF_MEMORY = {
    "cold": StorageType.MMAP,
    "cached": StorageType.MEMORY,
    "pinned": StorageType.MEMORY,
}
"""Qdrant's newer way to say it. There is nothing between mapped and on the heap here."""

_REQUIRED: dict[str, Any] = {"vectors.on_disk": True, "vectors.memory": "cold"}
"""What a cluster needs these to be, where they are set."""


def list_collections(call: Call) -> Any:
    return {"collections": [{"name": each.name} for each in call.engine.store.collections_of(call.tenant)]}


def collection_exists(call: Call) -> Any:
    known = call.engine.store.collections_of(call.tenant)
    return {"exists": any(each.name == call.path["collection"] for each in known)}


def create_collection(call: Call) -> Any:
    body = decode(_create, call.body)
    if isinstance(body.vectors, msgspec.UnsetType):
        raise InvalidRequest('vectors is missing: send {"vectors": {"size": 384, "distance": "Cosine"}}')
    if body.sparse_vectors:
        raise InvalidRequest("sparse_vectors: not supported: leave it out")
    name, vectors = _one_vector(body.vectors)
    storage = _wanted_storage(call, vectors) or _default_storage(call)
    if body.on_disk_payload is False:
        raise InvalidRequest("on_disk_payload is false: payloads are always kept on disk: leave it out")
    if not 1 <= vectors.size <= MAX_DIMENSION:
        raise ValidationFailed(
            f"Validation error in JSON body: [vectors.size: value {vectors.size} invalid, "
            f"must be from 1 to {MAX_DIMENSION}]"
        )
    try:
        distance = Distance(vectors.distance)
    except ValueError:
        raise InvalidRequest(
            f"vectors.distance: {vectors.distance!r} is no distance: expected {', '.join(Distance)}"
        ) from None
    params = CollectionParams(dimension=vectors.size, distance=distance, storage=storage, vector_name=name)
    _tell_what_is_not_used(call, ("vectors.", vectors), ("", body))
    call.engine.store.create_collection(
        call.path["collection"],
        params,
        tenant=call.tenant,
        shards=body.shard_number,
        copies=body.replication_factor or 1,
    )
    return True


def update_collection(call: Call) -> Any:
    """What it lets pass states how things are anyway, so nothing changes."""
    body = decode(_update, call.body)
    if body.sparse_vectors:
        raise InvalidRequest("sparse_vectors: not supported: leave it out")
    for name, vectors in (body.vectors or {}).items():
        if name != call.collection.params.vector_name:
            raise InvalidRequest(f"vectors: collection '{call.collection.name}' has no vector {name!r}")
        wanted = _wanted_storage(call, vectors)
        if wanted not in (None, call.collection.params.storage):
            raise InvalidRequest(
                f"vectors.on_disk: collection '{call.collection.name}' keeps its vectors in "
                f"{call.collection.params.storage} storage, which an update cannot change: create another collection, "
                "or convert all of them with vectorizer --migrate-to-cluster"
            )
    call.collection  # noqa: B018
    _tell_what_is_not_used(call, *(("vectors.", each) for each in (body.vectors or {}).values()), ("", body))
    return True


def delete_collection(call: Call) -> Any:
    return call.engine.store.delete_collection(call.path["collection"], tenant=call.tenant)


def describe_collection(call: Call) -> Any:
    """What Qdrant's clients expect, with this engine's truth: what has no counterpart here is 0 or left out.

    `layouts` is this engine's own: how each sealed segment is searched, and why.
    """
    info = call.collection.info()
    vectors = {
        "size": info.params.dimension,
        "distance": info.params.distance,
        "on_disk": info.params.storage is StorageType.MMAP,
    }
    return {
        "status": info.status,
        "optimizer_status": "ok",
        "warnings": [{"message": problem} for problem in info.problems],
        "indexed_vectors_count": info.indexed_vectors,
        "points_count": info.points,
        "segments_count": info.segments,
        "config": {
            "params": {
                "vectors": {info.params.vector_name: vectors} if info.params.vector_name else vectors,
                "shard_number": info.shards,
                "replication_factor": info.copies,
                "write_consistency_factor": 1,
                "on_disk_payload": True,
            },
            "hnsw_config": {
                "m": M,
                "ef_construct": EF_CONSTRUCTION,
                "full_scan_threshold": WORTH_INDEXING
                * info.params.dimension
                * 4
                // 1024,  # KiB, as in Qdrant
            },
            "optimizer_config": {"default_segment_number": 0, "flush_interval_sec": 0},
        },
        "payload_schema": describe_payload_schema(call.collection),
        "layouts": [layout._asdict() for layout in info.layouts],
    }


def _one_vector(raw: msgspec.Raw) -> tuple[str, VectorParams]:
    """The name and the parameters of the one vector of each point, which may be described with or without a name."""
    described = decode(_object, raw, where="vectors")
    name, where = "", "vectors"
    if "size" not in described and any(isinstance(value, dict) for value in described.values()):
        if len(described) > 1:
            raise InvalidRequest(
                f"vectors: found {len(described)} named vectors ({', '.join(map(repr, described))}): a collection has "
                "one vector for each point: make a collection of each"
            )
        [(name, raw)] = decode(_named, raw, where="vectors").items()
        where = f"vectors.{name}" if name else where
    return name, decode(_vector_params, raw, where=where)


def _tell_what_is_not_used(call: Call, *bodies: tuple[str, msgspec.Struct]) -> None:
    """Settings for what this engine plans by itself are taken, as clients' scripts set them, and said to do nothing."""
    unused = [where + name for where, body in bodies for name in PLANNED if getattr(body, name, None)]
    if unused:
        logger.warning(
            "collection '%s': %s: taken, and not used: indexes, quantization and merging are planned from the cache "
            "limit (GET /collections/%s shows how)",
            call.path["collection"],
            ", ".join(unused),
            call.path["collection"],
        )


def _default_storage(call: Call) -> StorageType:
    """Where the vectors of a collection are that does not say it."""
    config = call.engine.config
    return StorageType.MMAP if config.cluster.enabled else config.storage.type


def _wanted_storage(call: Call, vectors: VectorParams | VectorParamsDiff) -> StorageType | None:
    """What a request says about where its vectors are to be. None: nothing. Raises ClusterConfigViolation."""
    if vectors.memory not in (None, *_STORAGE_OF_MEMORY):
        raise InvalidRequest(
            f"vectors.memory: {vectors.memory!r} is not known: expected {' or '.join(_STORAGE_OF_MEMORY)}, "
            "or leave it out"
        )
    wanted: dict[str, tuple[Any, StorageType]] = {}
    if vectors.on_disk is not None:
        wanted["vectors.on_disk"] = (
            vectors.on_disk,
            StorageType.MMAP if vectors.on_disk else StorageType.MEMORY,
        )
    if vectors.memory is not None:
        wanted["vectors.memory"] = (vectors.memory, _STORAGE_OF_MEMORY[vectors.memory])
    storages = {storage for _, storage in wanted.values()}
    if StorageType.MEMORY in storages and call.engine.config.cluster.enabled:
        raise ClusterConfigViolation(
            [
                _memory_storage_asked_for(path, value)
                for path, (value, storage) in wanted.items()
                if storage is StorageType.MEMORY
            ]
        )
    if len(storages) > 1:
        raise InvalidRequest(
            f"vectors.on_disk is {_json(vectors.on_disk)} and vectors.memory is {_json(vectors.memory)}, which "
            "contradict each other: leave one of them out"
        )
    return next(iter(storages), None)


def _memory_storage_asked_for(path: str, value: object) -> Violation:
    """CLUSTER_001 at the door of a request."""
    required = _REQUIRED[path]
    return Violation(
        code=MMAP_STORAGE.code,
        rule=MMAP_STORAGE.name,
        error_type=MMAP_STORAGE.error_type,
        path=path,
        current_value=value,
        required_value=required,
        fix=f"set {path} to {_json(required)} or leave it out",
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
