"""The calls about collections: list, create, describe, update, delete."""

from __future__ import annotations

from typing import Any

import msgspec

from vectorizer_engine.api.call import Call
from vectorizer_engine.api.decoding import decode
from vectorizer_engine.api.errors import RuleViolated, ValidationFailed
from vectorizer_engine.api.requests import CreateCollection, UpdateCollection, VectorParams
from vectorizer_engine.cluster.validator import MMAP_STORAGE, Violation
from vectorizer_engine.collection.types import MAX_DIMENSION, CollectionParams, Distance
from vectorizer_engine.errors import CollectionNotFound, InvalidRequest
from vectorizer_engine.index.planner import WORTH_INDEXING
from vectorizer_engine.index.quantized import EF_CONSTRUCTION, M

_create = msgspec.json.Decoder(CreateCollection)
_update = msgspec.json.Decoder(UpdateCollection)
_vector_params = msgspec.json.Decoder(VectorParams)
_object = msgspec.json.Decoder(dict[str, Any])


def list_collections(call: Call) -> Any:
    return {"collections": [{"name": each.name} for each in call.engine.store.collections()]}


def collection_exists(call: Call) -> Any:
    try:
        call.collection  # noqa: B018
    except CollectionNotFound:
        return {"exists": False}
    return {"exists": True}


def create_collection(call: Call) -> Any:
    body = decode(_create, call.body)
    if isinstance(body.vectors, msgspec.UnsetType):
        raise InvalidRequest('vectors is missing: send {"vectors": {"size": 384, "distance": "Cosine"}}')
    named = decode(_object, body.vectors, where="vectors")
    if "size" not in named and any(isinstance(value, dict) for value in named.values()):
        raise InvalidRequest(
            "vectors: named vectors are not supported: describe the one vector of each point, "
            'as in {"vectors": {"size": 384, "distance": "Cosine"}}'
        )
    vectors = decode(_vector_params, body.vectors, where="vectors")
    _require_mapped_files(call, vectors.on_disk, vectors.memory, where="vectors")
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
    params = CollectionParams(dimension=vectors.size, distance=distance)
    call.engine.store.create_collection(call.path["collection"], params)
    return True


def update_collection(call: Call) -> Any:
    """A door of the rules. What it lets pass states how things are anyway, so nothing changes."""
    body = decode(_update, call.body)
    for name, vectors in (body.vectors or {}).items():
        if name:
            raise InvalidRequest(f"vectors: named vectors are not supported, found {name!r}")
        _require_mapped_files(call, vectors.on_disk, vectors.memory, where="vectors")
    call.collection  # noqa: B018
    return True


def delete_collection(call: Call) -> Any:
    return call.engine.store.delete_collection(call.path["collection"])


def describe_collection(call: Call) -> Any:
    """What Qdrant's clients expect, with this engine's truth: what has no counterpart here is 0 or left out.

    `layouts` is this engine's own: how each sealed segment is searched, and why.
    """
    info = call.collection.info()
    return {
        "status": info.status,
        "optimizer_status": "ok",
        "warnings": [{"message": problem} for problem in info.problems],
        "indexed_vectors_count": info.indexed_vectors,
        "points_count": info.points,
        "segments_count": info.segments,
        "config": {
            "params": {
                "vectors": {"size": info.params.dimension, "distance": info.params.distance, "on_disk": True},
                "shard_number": 1,
                "replication_factor": 1,
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
        "payload_schema": {},
        "layouts": [layout._asdict() for layout in info.layouts],
    }


def _require_mapped_files(call: Call, on_disk: bool | None, memory: str | None, *, where: str) -> None:
    """CLUSTER_001 at the door of a request: vectors that are to live in memory only."""
    if memory not in (None, "cold", "cached", "pinned"):
        raise InvalidRequest(f"{where}.memory: {memory!r} is not known: expected cold, or leave it out")
    if on_disk is not False and memory in (None, "cold"):
        return
    path, value, required = (
        (f"{where}.memory", memory, "cold")
        if memory not in (None, "cold")
        else (f"{where}.on_disk", False, True)
    )
    if not call.engine.config.cluster.enabled:
        raise InvalidRequest(
            f"{path} is {_json(value)}: this release keeps vectors in memory-mapped files only: "
            f"set it to {_json(required)} or leave it out"
        )
    raise RuleViolated(
        [
            Violation(
                code=MMAP_STORAGE.code,
                rule=MMAP_STORAGE.name,
                error_type=MMAP_STORAGE.error_type,
                path=path,
                current_value=value,
                required_value=required,
                fix=f"set {path} to {_json(required)} or leave it out",
            )
        ]
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
