"""What a handler is called with, and what it may answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vectorizer_engine.api.answers import Fragments
from vectorizer_engine.api.bodies import RequestBudget
from vectorizer_engine.api.errors import RETRY_SOON, HttpError
from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.config import Config
from vectorizer_engine.distributed.partial import SECONDS, Partial
from vectorizer_engine.distributed.spread import SpreadCollection
from vectorizer_engine.distributed.store import DistributedStore
from vectorizer_engine.metrics import Metrics

Store = VectorStore | DistributedStore
"""All collections of one engine, or of the cluster that it is a member of."""

AnyCollection = Collection | SpreadCollection


@dataclass(kw_only=True)
class Engine:
    """What the requests of one process share.

    `member_memory` is for the requests of other members of the cluster: were it that of the clients' requests, two
    members could wait for each other. `results` are by tenant, none where answers of searches are not kept;
    `recovered` is None until the data folder is open.
    """

    config: Config
    memory: CacheMemoryManager
    metrics: Metrics
    request_memory: RequestBudget
    member_memory: RequestBudget
    results: Mapping[str, AdvancedCache] = field(default_factory=dict)
    recovered: Store | None = None
    stopping: bool = False

    @property
    def store(self) -> Store:
        """Raises HttpError 503 while the data is being recovered."""
        if self.recovered is None:
            raise HttpError(503, "the engine is still recovering its data: try again soon", RETRY_SOON)
        return self.recovered


_SHARE_FOR_SHARDS = 0.8
"""Of the client's time-out: how long shards are waited for that the answer may go without."""


@dataclass(slots=True)
class Call:
    """One request: the engine, who asks, the path's parameters, the query's, and the body as it came.

    `tenant` is NO_TENANT for whoever runs the engine, which is everybody where tenants are not enabled.
    """

    engine: Engine
    tenant: str
    path: dict[str, str]
    query: dict[str, str]
    body: bytes | bytearray
    _collection: AnyCollection | None = None
    _partial: Partial | None = None

    @property
    def collection(self) -> AnyCollection:
        """The collection that the path names, the same one all the time. Raises CollectionNotFound.

        With `consistency=1`, which in Qdrant is whatever one replica has, reads may be of a moment ago. With
        `partial=true`, they go without shards that do not answer in time.
        """
        if self._collection is None:
            self._collection = self.engine.store.collection(self.path["collection"], tenant=self.tenant)
        found = self._collection
        if isinstance(found, SpreadCollection):
            if self.query.get("consistency") == "1":
                found = found.maybe_stale()
            if self.query.get("partial") == "true":
                if self._partial is None:
                    timeout = self.query.get("timeout")
                    self._partial = Partial(SECONDS if timeout is None else _SHARE_FOR_SHARDS * int(timeout))
                found = found.going_without(self._partial)
        return found

    @property
    def missing_shards(self) -> dict[int, str] | None:
        """The shards that the answer goes without, and why. None where it must be complete."""
        if self.query.get("partial") != "true":
            return None
        return self._partial.missing if self._partial is not None else {}

    def look_again(self) -> None:
        """Have `collection` be the one that has the name now: another member may have made a new one of it."""
        self._collection = None
        if isinstance(self.engine.store, DistributedStore):
            self.engine.store.refresh()

    @property
    def lost_its_collection(self) -> bool:
        """Whether the collection that the call worked on was deleted meanwhile."""
        used = self._collection
        if used is None or self.engine.stopping:
            return False
        return not self.engine.store.serves(used)

    @property
    def wait(self) -> bool:
        """Whether a write answers only when it can be read. Qdrant's default is not to wait."""
        return self.query.get("wait") == "true"


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer outside of Qdrant's envelope."""

    body: bytes
    content_type: bytes = b"text/plain; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


Answer = Any | Fragments | Plain
"""A handler's result: a value, or fragments of its JSON, that goes into the envelope; unless it is `Plain`."""
