"""Every error that the engine raises on purpose. The HTTP API turns each class into one status code.

A message names the thing, the value, what was expected and what to do; it is written for whoever sent the
request or started the engine, and is safe to show them. Programming errors are not here.
"""

from __future__ import annotations

from typing import Any

from vectorizer_engine.cluster.validator import Violation


class EngineError(Exception):
    """Anything the engine refuses or fails at, with a message for its user."""


# --- requests that cannot be served as they are (HTTP 400) ---------------------------------------------


class InvalidRequest(EngineError):
    """The request itself is wrong: sending it again changes nothing."""


class DimensionMismatch(InvalidRequest):
    """A vector has another length than the collection's vectors."""

    def __init__(self, *, collection: str, expected: int, got: int) -> None:
        super().__init__(
            f"collection '{collection}' holds vectors of dimension {expected}, got one of dimension {got}: "
            f"send {expected} numbers for each vector"
        )


class InvalidVector(InvalidRequest):
    """A vector holds NaN or infinity, or is all zeros where the distance is cosine."""


class InvalidPoint(InvalidRequest):
    """An id or a payload that cannot be stored."""


# --- things that are not there, or already are (HTTP 404, 409) -----------------------------------------


class NotFound(EngineError):
    """What the request names does not exist."""


class CollectionNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"collection '{name}' does not exist: create it with PUT /collections/{name}")


class CollectionGone(NotFound):
    """Another member of the cluster asks for shards of a collection that has been deleted."""

    def __init__(self, token: str) -> None:
        super().__init__(f"there is no collection with token {token} any more")


class PointNotFound(NotFound):
    def __init__(self, *, collection: str, point: object) -> None:
        super().__init__(f"collection '{collection}' holds no point with id {point}: upsert it first")


class CollectionExists(EngineError):
    def __init__(self, name: str) -> None:
        super().__init__(f"collection '{name}' already exists: delete it first or choose another name")


# --- what the machine refuses (HTTP 507, 500, 503) -----------------------------------------------------


class StorageFull(EngineError):
    """The disk is full. Nothing of the write was kept; reads go on, and so do writes once space is freed."""


class StorageFailure(EngineError):
    """The disk refused to read or write for another reason than space."""


class WriteInDoubt(StorageFailure):
    """The shared store did not say whether it has the write. It counts wholly or not at all."""


class StoreClosed(EngineError):
    """The store is shutting down."""


class Fenced(StoreClosed):
    """Somebody else has begun to write here: what this process holds is no longer current."""


class ShardsUnavailable(StoreClosed):
    """Some shards of a collection could not be reached in time."""


class AnsweredElsewhere(EngineError):
    """Another member of the cluster has refused a request: *status* and *body* are its answer to the client."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body.get("status")))
        self.status = status
        self.body = body


class CacheMemoryLimitExceeded(EngineError):
    """CLUSTER_003 at run time: one reservation that can never fit under the cache limit."""

    code = "CLUSTER_003"

    def __init__(self, *, what: str, requested: int, limit: int, by_quota: bool = False) -> None:
        """*by_quota*: *limit* is that of one tenant."""
        self.requested = requested
        self.limit = limit
        self.setting = "tenants.members.memory_quota_bytes" if by_quota else "cluster.max_cache_memory_bytes"
        self.fix = f"send smaller batches or raise {self.setting}"
        whose = "this tenant" if by_quota else "all caches"
        super().__init__(
            f"{what} needs {requested} bytes of cache memory, the limit for {whose} is {limit} bytes: {self.fix}"
        )


# --- what the cluster rules forbid ---------------------------------------------------------------------


class ClusterConfigViolation(EngineError):
    """CLUSTER_001 at run time: a request, or the data folder, would break it in cluster mode."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(violation.message for violation in violations))
        self.violations = violations


class FileWatcherNotAllowedInCluster(EngineError):
    """CLUSTER_002 at run time: the file watcher was started in cluster mode."""

    def __init__(self, violation: Violation) -> None:
        self.violation = violation
        super().__init__(
            f"{violation.message}; to load data into a cluster, send it to the REST API "
            "(PUT /collections/NAME/points), for example from a Kubernetes Job"
        )


# --- data folders that cannot be opened (the process exits with the message) ---------------------------


class StoreError(EngineError):
    """The data folder cannot be opened as it is."""


class StoreLocked(StoreError):
    """Another process works on the data folder."""


class StoreVersionError(StoreError):
    """The data was written by a newer version than this one understands."""


class StoreUnsuitable(StoreError):
    """The shared store cannot be used: a setting is wrong, or it lacks what the engine relies on."""


class StoreCorrupt(StoreError):
    """What is on disk fails its checksum where nothing can stand in for it: the engine never guesses."""
