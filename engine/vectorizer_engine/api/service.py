"""The calls about the process itself: version, health, metrics, and where its memory is."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from vectorizer_engine import __version__
from vectorizer_engine.api.answers import encode
from vectorizer_engine.api.call import Call, Engine, Plain
from vectorizer_engine.api.member_metrics import membership
from vectorizer_engine.cache.memory_manager import AccountSnapshot, CacheType, EvictionReason, MemorySnapshot
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.data_folder import collection_path
from vectorizer_engine.collection.types import LayoutInfo
from vectorizer_engine.distributed.parked_collection import ParkedCollection
from vectorizer_engine.distributed.store import DistributedStore
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.metrics import process_memory
from vectorizer_engine.tenants import NO_TENANT

T = TypeVar("T")

QDRANT_VERSION = "1.20.0"
"""The version of Qdrant whose REST API is spoken: clients compare it with their own."""

MOST_SEGMENTS = 10
"""So many of the segments of one layout are told one by one: an engine may have thousands."""


def version(call: Call) -> Any:
    return Plain(
        encode({"title": f"vectorizer engine {__version__}", "version": QDRANT_VERSION}),
        content_type=b"application/json",
    )


def healthz(call: Call) -> Any:
    return Plain(b"healthz check passed")


def livez(call: Call) -> Any:
    return Plain(b"livez check passed")


def readyz(call: Call) -> Any:
    """Ready once the data is recovered, and no longer as soon as the process is told to stop."""
    if call.engine.stopping:
        return Plain(b"not ready: stopping", status=503)
    if call.engine.recovered is None:
        return Plain(b"not ready: recovering the data", status=503)
    if reason := call.engine.recovered.not_ready:
        return Plain(f"not ready: {reason}".encode(), status=503)
    return Plain(b"all shards are ready")


def metrics(call: Call) -> Any:
    return Plain(generate_latest(call.engine.metrics.registry), content_type=CONTENT_TYPE_LATEST.encode())


def cluster_memory(call: Call) -> Any:
    """Three figures that must not be mixed: the ledger, the process's own memory, pages that can be taken back.

    And what indexes the memory was enough for, which is how fast searches are. A tenant is told of its own part of the
    ledger, and of its own segments, only.
    """
    ledger = call.engine.memory.snapshot()
    if call.tenant != NO_TENANT:
        own = _describe(
            call.engine, lambda each: (each.name, each.layouts()) if each.tenant == call.tenant else None
        )
        return {
            **_account(ledger.tenants[call.tenant]),
            "layouts": _layouts(each for each in own if each is not None),
        }
    process = process_memory()
    return {
        "ledger": {
            "limit_bytes": ledger.limit,
            "used_bytes": ledger.used,
            "peak_bytes": ledger.peak,
            "by_cache": ledger.by_cache,
            **_by_tenant(call.engine, ledger),
            "over_warning_threshold": ledger.over_warning_threshold,
            "refused_reservations": ledger.refusals,
            "evictions": [
                {"type": cache, "reason": reason, "count": count}
                for (cache, reason), count in sorted(ledger.evictions.items())
            ],
        },
        # Of memory storage, which a cluster does not have: on the heap, no cache, and not under the limit.
        "memory_storage_bytes": _memory_storage_bytes(call.engine),
        "anonymous_rss_bytes": process.anonymous if process else None,
        "reclaimable_mapped_bytes": process.mapped if process else None,
        "request_bodies": {
            "limit_bytes": call.engine.request_memory.limit,
            "used_bytes": call.engine.request_memory.used,
        },
        "layouts": _layouts(
            _describe(call.engine, lambda each: (collection_path(each.name, each.tenant), each.layouts()))
        ),
    }


def _layouts(collections: Iterable[tuple[str, Iterable[LayoutInfo]]]) -> dict[str, Any]:
    """For each layout, how much is searched by it, and why the largest segments are.

    Those are what memory matters to: a small one is searched as fast without an index.
    """
    segments = [(name, each) for name, layouts in collections for each in layouts]
    found: dict[str, Any] = {}
    for layout in SegmentLayout:
        members = [(name, each) for name, each in segments if each.layout == layout]
        largest = heapq.nlargest(MOST_SEGMENTS, members, key=lambda member: member[1].points)
        found[layout] = {
            "segments": len(members),
            "points": sum(each.points for _, each in members),
            "largest": [
                {"collection": name, "points": each.points, "reason": each.reason} for name, each in largest
            ],
        }
    return found


def _by_tenant(engine: Engine, ledger: MemorySnapshot) -> dict[str, Any]:
    if not engine.config.tenants.enabled:
        return {}
    return {"by_tenant": {tenant: _account(held) for tenant, held in ledger.tenants.items() if tenant}}


def _account(held: AccountSnapshot) -> dict[str, Any]:
    return {"quota_bytes": held.quota, "used_bytes": held.used, "by_cache": held.by_cache}


def _tenant_memory(ledger: MemorySnapshot) -> Metric:
    """By configured tenant, so that nobody can add a series. What is left of the sum belongs to none."""
    usage = GaugeMetricFamily(
        "vectorizer_cluster_tenant_memory_bytes", "Charged in the ledger, by tenant.", labels=("tenant",)
    )
    for tenant, held in ledger.tenants.items():
        if tenant != NO_TENANT:
            usage.add_metric((tenant,), held.used)
    return usage


def _memory_storage_bytes(engine: Engine) -> int:
    return sum(_describe(engine, lambda collection: collection.heap_vector_bytes))


def _describe(engine: Engine, what: Callable[[Collection | ParkedCollection], T]) -> list[T]:
    """*what* of each collection that is served in this process; nothing while it is being recovered."""
    return [] if engine.recovered is None else engine.recovered.describe(what)


class EngineCollector(Collector):
    """Reads the ledger, the process and the collections whenever somebody scrapes.

    A member of a cluster knows all collections, and has of each what is in the shards that it serves.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        yield from self._memory()
        if self._engine.recovered is not None:
            yield from self._collections()

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not collect."""
        return ()

    def _memory(self) -> Iterable[Metric]:
        ledger = self._engine.memory.snapshot()
        process = process_memory()
        metadata = ledger.by_cache[CacheType.METADATA]
        components = {"cache": ledger.used - metadata, "metadata": metadata}
        if process is not None:
            components["mmap"] = process.mapped
            yield GaugeMetricFamily(
                "vectorizer_process_anonymous_bytes", "The process's own resident memory.", process.anonymous
            )
        usage = GaugeMetricFamily(
            "vectorizer_cluster_memory_usage_bytes",
            "Ledger of the caches and of metadata, and mapped pages that the kernel may take back.",
            labels=("component",),
        )
        for component, nbytes in components.items():
            usage.add_metric((component,), nbytes)
        yield usage
        caches = GaugeMetricFamily(
            "vectorizer_cluster_cache_usage_bytes", "Charged in the ledger, by cache.", labels=("type",)
        )
        for cache, nbytes in ledger.by_cache.items():
            caches.add_metric((cache,), nbytes)
        yield caches
        if self._engine.config.tenants.enabled:
            yield _tenant_memory(ledger)
        yield GaugeMetricFamily(
            "vectorizer_cluster_cache_limit_bytes", "The one limit over every cache.", ledger.limit
        )
        evictions = CounterMetricFamily(
            "vectorizer_cluster_cache_evictions",
            "Entries that left a cache, by cache and reason.",
            labels=("type", "reason"),
        )
        # All of them from the start, or the first eviction would be no increase.
        for cache, reason in itertools.product(CacheType, EvictionReason):
            evictions.add_metric((cache, reason), ledger.evictions.get((cache, reason), 0))
        yield evictions
        watermarks = CounterMetricFamily(
            "vectorizer_cluster_cache_watermarks_reached",
            "Times that usage rose above a watermark; for the limit itself, reservations that had to evict.",
            labels=("watermark",),
        )
        for watermark, times in ledger.watermarks.items():
            watermarks.add_metric((watermark,), times)
        yield watermarks
        lookups = CounterMetricFamily(
            "vectorizer_cluster_cache_lookups",
            "Lookups in caches, by whether they had it. query: answers of searches without a filter; hnsw: the "
            "open index of a segment; metadata: what a filter takes of a segment.",
            labels=("type", "result"),
        )
        for (cache, result), times in ledger.lookups.items():
            lookups.add_metric((cache, result), times)
        yield lookups
        yield GaugeMetricFamily(
            "vectorizer_request_bodies_bytes",
            "Bodies of requests in flight.",
            self._engine.request_memory.used,
        )

    def _collections(self) -> Iterable[Metric]:
        store = self._engine.store
        if isinstance(store, DistributedStore):
            yield from membership(store)
        infos = store.describe(lambda collection: collection.info())
        for name, documentation, value in (
            (
                "vectorizer_collections",
                "Collections. Each member of a cluster counts all of them.",
                len(store.collections()),
            ),
            ("vectorizer_points", "Points that are served here.", sum(info.points for info in infos)),
            ("vectorizer_segments", "Segments that are served here.", sum(info.segments for info in infos)),
            (
                "vectorizer_storage_bytes",
                "Disk space of what is served here and open.",
                sum(info.disk_bytes for info in infos),
            ),
            (
                "vectorizer_memory_storage_bytes",
                "Vectors of memory storage: on the heap, and not under the cache limit.",
                _memory_storage_bytes(self._engine),
            ),
            (
                "vectorizer_damaged_collections",
                "Collections that cannot be opened; of a member of a cluster, shards.",
                len(store.damaged),
            ),
            (
                "vectorizer_quarantined_segments",
                "Segments that failed their checksum and were set aside.",
                sum(len(info.problems) for info in infos),
            ),
        ):
            yield GaugeMetricFamily(name, documentation, value)
