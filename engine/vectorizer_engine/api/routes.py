"""Every call of the API: path, handler, who may call it, which thread it runs on.

Authentication, the metrics' labels and the tests are made from this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vectorizer_engine.api import collections, distribution, internal, payload_index, points, search, service
from vectorizer_engine.api.auth import Access
from vectorizer_engine.api.call import Answer, Call
from vectorizer_engine.api.router import Route, Where
from vectorizer_engine.distributed.messages import (
    CATALOG_PATH,
    FRAMES_PATH,
    READ_PATH,
    RELEASE_PATH,
    SHARDS_PATH,
    TOPOLOGY_PATH,
    WRITE_PATH,
)

_Handler = Callable[[Call], Answer]

_C = "/collections/{collection}"
_P = f"{_C}/points"


_READ = frozenset({"timeout", "consistency"})
"""One member answers for a shard, and makes sure that it still may, so every read consistency that Qdrant knows holds.
With `consistency=1` it does not make sure, and readers may answer as well (`Call.collection`)."""

_ANY_SHARDS = _READ | {"partial"}
"""Of what is asked of several shards, and means something without some of them."""

_WRITE = frozenset({"timeout", "wait", "ordering"})
"""Writes of one node happen in one order, so every write ordering that Qdrant knows holds."""

_TIMEOUT = frozenset({"timeout"})


def _open(method: str, pattern: str, handler: _Handler) -> Route:
    return Route(method=method, pattern=pattern, handler=handler, access=Access.OPEN, where=Where.LOOP)


def _read(method: str, pattern: str, handler: _Handler, parameters: frozenset[str] = _READ) -> Route:
    return Route(
        method=method,
        pattern=pattern,
        handler=handler,
        access=Access.READ,
        where=Where.READERS,
        parameters=parameters,
    )


def _search(method: str, pattern: str, plan: Callable[[Call], search.Search]) -> Route:
    read = _read(method, pattern, lambda call: plan(call).fragments(), _ANY_SHARDS)
    return replace(read, where=Where.SEARCHERS, plan=plan)


def _write(method: str, pattern: str, handler: _Handler, parameters: frozenset[str] = _WRITE) -> Route:
    return Route(
        method=method,
        pattern=pattern,
        handler=handler,
        access=Access.WRITE,
        where=Where.WRITERS,
        parameters=parameters,
    )


def _door(method: str, pattern: str, handler: _Handler) -> Route:
    return replace(_write(method, pattern, handler, _TIMEOUT), makes_collections=True)


def _internal(method: str, pattern: str, handler: _Handler, where: Where) -> Route:
    return Route(method=method, pattern=pattern, handler=handler, access=Access.MEMBER, where=where)


ABSENT = (
    *(f"{_P}/{call}" for call in ("recommend", "discover", "vectors", "facet")),
    f"{_P}/search/groups",
)
"""Calls of Qdrant that are not served, and whose last word would be taken for a point's id."""

ROUTES: tuple[Route, ...] = (
    _open("GET", "/", service.version),
    _open("GET", "/healthz", service.healthz),
    _open("GET", "/livez", service.livez),
    _open("GET", "/readyz", service.readyz),
    replace(_read("GET", "/metrics", service.metrics, _TIMEOUT), access=Access.ENGINE),
    replace(_read("GET", "/cluster", distribution.describe_cluster, _TIMEOUT), access=Access.ENGINE),
    _read("GET", "/cluster/memory", service.cluster_memory, _TIMEOUT),
    _read("GET", "/collections", collections.list_collections, _TIMEOUT),
    _read("GET", _C, collections.describe_collection, _TIMEOUT),
    _read("GET", f"{_C}/cluster", distribution.describe_distribution, _TIMEOUT),
    _door("PUT", _C, collections.create_collection),
    _door("PATCH", _C, collections.update_collection),
    _write("DELETE", _C, collections.delete_collection, _TIMEOUT),
    _read("GET", f"{_C}/exists", collections.collection_exists, _TIMEOUT),
    _write("PUT", f"{_C}/index", payload_index.create_payload_index),
    _write("DELETE", f"{_C}/index/{{field}}", payload_index.delete_payload_index),
    _write("PUT", _P, points.operation("upsert")),
    _read("POST", _P, points.retrieve_points, _ANY_SHARDS),
    _read("GET", f"{_P}/{{id}}", points.get_point),
    _write("POST", f"{_P}/delete", points.operation("delete")),
    _write("POST", f"{_P}/payload", points.operation("set_payload")),
    _write("PUT", f"{_P}/payload", points.operation("overwrite_payload")),
    _write("POST", f"{_P}/payload/delete", points.operation("delete_payload")),
    _write("POST", f"{_P}/payload/clear", points.operation("clear_payload")),
    _write("POST", f"{_P}/batch", points.update_batch),
    _read("POST", f"{_P}/scroll", points.scroll_points, _ANY_SHARDS),
    _read("POST", f"{_P}/count", points.count_points, _ANY_SHARDS),
    _search("POST", f"{_P}/search", search.plan_search),
    _read("POST", f"{_P}/search/batch", search.search_batch, _ANY_SHARDS),
    _search("POST", f"{_P}/query", search.plan_query),
    _read("POST", f"{_P}/query/batch", search.query_batch, _ANY_SHARDS),
    _internal("POST", READ_PATH, internal.read, Where.READERS),
    _internal("POST", WRITE_PATH, internal.write, Where.WRITERS),
    _internal("POST", RELEASE_PATH, internal.release, Where.WRITERS),
    _internal("POST", CATALOG_PATH, internal.refresh_catalog, Where.WRITERS),
    _internal("POST", FRAMES_PATH, internal.announced, Where.READERS),
    _internal("POST", SHARDS_PATH, internal.shards_here, Where.READERS),
    _internal("GET", TOPOLOGY_PATH, internal.get_topology, Where.LOOP),
    _internal("PUT", TOPOLOGY_PATH, internal.put_topology, Where.WRITERS),
)
