"""No code path holds heap data that grows without the ledger: every growing container of the engine is in a table.

The sources are searched for classes that keep a list, a dictionary, an array and the like, and for caches on functions.
What is found has to be in `HELD` with what charges it, or in `BOUNDED` with what keeps it from growing with the data.
A new one fails here until somebody has decided which it is.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import vectorizer_engine
from vectorizer_engine import index
from vectorizer_engine.cache.memory_manager import CacheType
from vectorizer_engine.storage.live import LiveMask, mask_bytes

ROOT = Path(vectorizer_engine.__file__).parent

GROWING = {
    "OrderedDict", "SimpleQueue", "Queue", "WeakKeyDictionary", "WeakSet", "array", "bytearray", "defaultdict", "deque",
    "dict", "list", "set",
}  # fmt: skip

ARRAY_MAKERS = {
    "BitMap", "BytesIO", "arange", "asarray", "ascontiguousarray", "concatenate", "empty", "frombuffer", "fromiter",
    "full", "memmap", "mmap", "ones", "packbits", "stack", "tobytes", "zeros",
}  # fmt: skip
ARRAYS = {"Array", "BitMap", "Mask", "NDArray", "Offsets", "Vectors", "ndarray"}
"""How annotations call them. Byte strings are not among them: there are dozens, nearly all parts of messages."""

HELD = {
    "cache.advanced_cache._Block": CacheType.QUERY,
    "cache.advanced_cache.AdvancedCache._places": CacheType.QUERY,
    "storage.head.Head._keys": CacheType.METADATA,
    "storage.head.Head._offsets": CacheType.METADATA,
    "storage.head.Head._payload_ends": CacheType.METADATA,
    "storage.head.Head._versions": CacheType.METADATA,
    "storage.live.LiveMask.bits": CacheType.METADATA,
    "storage.payload_index_writer.TermWriter._run": CacheType.METADATA,
    "storage.payload_index_writer.ColumnWriter._rows": CacheType.METADATA,
    "storage.payload_index_writer.ColumnWriter._values": CacheType.METADATA,
    "storage.payload_index_writer.FieldWriter.flags": CacheType.METADATA,
}
"""What grows with the data, and the part of the ledger that its entries are charged to. Each has a test beside its
code that holds the charge against measured memory; of masks and indexes, which are arrays, see below."""

A_ROUTE = "one for each route of the API"
A_COLLECTION = "one for each collection: a few hundred bytes for files and threads that take far more"
A_SEGMENT = "one for each segment or head, of which merging leaves a few dozen"
A_TENANT = "one for each configured tenant, of which there are 64 at most"
A_REQUEST = "lives as long as one request, whose body the request budget holds"
A_FIELD = "one for each indexed field, of which a collection has a hundred at most"
AN_APPEND = "eight bytes for each append since the last checkpoint, of which there are a few thousand at most"
A_SHARD = "one for each shard of the catalog, of which a collection has 64 at most"
A_MEMBER = "one for each member of the cluster"
MAPPED = (
    "mapped from a file; of memory storage on the heap, which the limit does not cover and a cluster refuses"
)
HITS = "as many as a search asks for, which the request budget holds"
A_FILTER = "as long as one filter is looked at; what it came to is kept in the metadata cache"
A_BATCH = "one batch of rows"
A_FILE = "one for each file in the watched folders; standalone mode only"

BOUNDED = {
    "api.answers.Outgoing._held": "one for each kind of thing that is held",
    "api.answers.Outgoing._pending": "one piece of an answer, and the request budget holds the piece",
    "api.app.Application._pools": A_ROUTE,
    "api.auth.Authenticator._callers": A_TENANT,
    "api.call.Engine.results": A_TENANT,
    "api.router._Node.fixed": A_ROUTE,
    "api.router._Node.routes": A_ROUTE,
    "api.bodies.RequestMemory._waiting": A_REQUEST,
    "api.connection.Connection._unread": "what one read of a socket brought; nothing more is read meanwhile",
    "api.pace.Pace._seconds": A_COLLECTION,
    "api.rounds.Rounds._asked": "so many at a time, whose bodies the request budget holds",
    "api.search._Target.vector": A_REQUEST,
    "api.workers.Workers._tasks": A_REQUEST,
    "cache.advanced_cache.AdvancedCache._blocks": "in the overhead that each block is charged",
    "cache.memory_account.MemoryAccount._evictable": "in what each charge's owner reserves",
    "cache.memory_manager.CacheMemoryManager._accounts": A_TENANT,
    "cache.memory_manager.CacheMemoryManager._evictions": "one for each cache and reason",
    "api.search._Plan._vectors": A_REQUEST,
    "collection.records.Answer._points": HITS,
    "collection.view.Ranking.numbers": HITS,
    "collection.view.Ranking.offsets": HITS,
    "collection.view.Ranking.scores": HITS,
    "collection.conditions.Bounds.maybe": A_FILTER,
    "collection.conditions.Bounds.sure": A_FILTER,
    "collection.incoming.IncomingPoints.vectors": A_REQUEST,
    "collection.indexing.SegmentIndexes._held": A_SEGMENT,
    "collection.maintenance.Maintenance._holders": A_COLLECTION,
    "collection.maintenance._Worker._jobs": "one for each collection, and each index that is on its way to the store",
    "collection.operations.ChangePayload.vectors": A_REQUEST,
    "collection.operations.Delete.keys": A_REQUEST,
    "collection.operations.Upsert.vectors": A_REQUEST,
    "collection.payload_indexes.PayloadIndexes._segments": A_SEGMENT,
    "collection.sealing.Sealing._heads": A_SEGMENT,
    "collection.segment_index.SegmentIndex._vectors": MAPPED,
    "collection.shared_collections.CatalogChanges._perhaps_deleted": A_COLLECTION,
    "collection.shared_collections.CatalogChanges._perhaps_made": A_COLLECTION,
    "collection.store.VectorStore._damaged": A_COLLECTION,
    "collection.store.VectorStore._open": A_COLLECTION,
    "collection.shard_reader._Heads._full": A_SEGMENT,
    "distributed.announcer.Announcer._ends": A_SHARD,
    "distributed.announcer.Announcer._written": "eight bytes for each frame of the last second, at most",
    "distributed.copies.Copies._expected": A_SHARD,
    "distributed.copies.Copies._sizes": A_SHARD,
    "distributed.followed_shards.FollowedShards._followed": A_SHARD,
    "distributed.gossip.Gossip._heard": A_MEMBER,
    "distributed.held_shards.HeldShards._held": A_SHARD,
    "distributed.held_shards.HeldShards._leaving": A_SHARD,
    "distributed.held_shards.HeldShards._not_before": A_SHARD,
    "distributed.held_shards.HeldShards._with_former": A_SHARD,
    "distributed.messages._RawResponse.failed": "one for each shard, of which a collection has 64 at most",
    "distributed.partial.Partial.missing": "one for each shard, of which a collection has 64 at most",
    "distributed.peers.Peers._headers": "two of them",
    "distributed.peers.Peers._idle": "so many connections to each member",
    "distributed.silence.Silence._heard": A_MEMBER,
    "distributed.silence.Silence._waiting": A_MEMBER,
    "distributed.question.Question._results": A_REQUEST,
    "distributed.question.Question._why": A_REQUEST,
    "distributed.question.Question.crowded": A_REQUEST,
    "distributed.question.Question.pending": A_REQUEST,
    "distributed.question.Question.to_former": A_REQUEST,
    "distributed.store.DistributedStore._by_path": A_COLLECTION,
    "distributed.store.DistributedStore._collections": A_COLLECTION,
    "distributed.room.Room._told": A_SHARD,
    "distributed.topology.KnownTopology._listeners": "one",
    "distributed.volume.Volume._refused": A_SHARD,
    "index.base.Hits.offsets": HITS,
    "index.base.Hits.scores": HITS,
    "index.flat.FlatIndex._vectors": MAPPED,
    "index.quantized.QuantizedIndex._vectors": MAPPED,
    "index.rabitq.RabitqIndex._vectors": MAPPED,
    "storage.catalog.Catalog._entries": A_COLLECTION,
    "storage.commit.GroupCommit._waiting": A_REQUEST,
    "storage.folder_store.FolderStore._durable": "so many folders are remembered, then none",
    "storage.followed_segments.FollowedSegments._opened": A_SEGMENT,
    "storage.followed_segments.FollowedSegments._stored": A_SEGMENT,
    "storage.garbage.Garbage._waiting": "one for each checkpoint of the last minutes, and each segment it replaced",
    "storage.object_log.ObjectLog._claims": "one number for each time the log was ever opened",
    "metrics.Metrics._of_requests": "one for each route of the API and each status that it can have",
    "storage.object_log.ObjectLog._firsts": AN_APPEND,
    "storage.log_tail.LogTail._sizes": AN_APPEND,
    "storage.object_log.ObjectLog._sizes": AN_APPEND,
    "storage.object_segments.ObjectSegmentStore._checkpointed": A_SEGMENT,
    "storage.object_segments.ObjectSegmentStore._indexes": "one for each index of a segment: a name",
    "storage.object_segments.ObjectSegmentStore._leftovers": "what a crash left, until the first checkpoint",
    "storage.object_segments.ObjectSegmentStore._named": A_SEGMENT,
    "storage.object_segments.ObjectSegmentStore._stored": A_SEGMENT,
    "storage.log.FileLog._starts": "one for each file of the log, which sealing removes",
    "storage.manifest.Manifest.payload_schema": A_FIELD,
    "storage.payload_index.ColumnIndex._rows": MAPPED,
    "storage.payload_index.ColumnIndex._values": MAPPED,
    "storage.payload_index_writer.TermWriter._run_ends": "one for each run, in what the writer says it holds",
    "storage.section_file.SectionWriter._buffer": "what is written at once",
    "storage.section_file.SectionWriter._sections": A_FIELD,
    "storage.segment.Segment.fields": A_FIELD,
    "storage.segment_folder.SegmentFolder._charges": A_SEGMENT,
    "storage.segment_store.FileSegmentStore._in_doubt": A_SEGMENT,
    "ingest.batch.Batch.vectors": A_BATCH,
    "ingest.jsonl._Rows._bad": A_BATCH,
    "ingest.jsonl._Rows._ids": A_BATCH,
    "ingest.jsonl._Rows._numbers": A_BATCH,
    "ingest.jsonl._Rows._payloads": A_BATCH,
    "ingest.jsonl._Rows._vectors": A_BATCH,
    "ingest.loaded_files.LoadedFiles._entries": A_FILE,
    "watcher.FileWatcher._folders": A_FILE,
    "watcher.FileWatcher._given_up": A_FILE,
    "watcher.FileWatcher._retries": A_FILE,
    "watcher.FileWatcher._told": A_FILE,
}
"""What does not grow with the data, and why."""


def test_every_container_that_grows_is_charged_or_bounded() -> None:
    found = {name for path in ROOT.rglob("*.py") for name in containers(path)}
    assert found == HELD.keys() | BOUNDED.keys()


def test_the_search_for_containers_finds_each_way_of_having_one(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "class Base(OrderedDict[int, int]): pass\n"
        "class A:\n"
        "    kept: list[int] = field(default_factory=list)\n"
        "    def __init__(self):\n"
        "        self.a = {}\n"
        "        self.b: dict = collections.defaultdict(int)\n"
        "        self.c, self.d = 1, [x for x in ()]\n"
        "        local = []\n"
        "        self.e = np.zeros(1)\n"
        "class B:\n"
        "    rows: Vectors | None\n"
        "    make: Callable[[], Vectors]\n"
        "    def __init__(self, mask: Mask, name: str):\n"
        "        self.f = mask\n"
        "        self.name = name\n"
        "@functools.lru_cache(maxsize=None)\n"
        "def remembered(): ...\n"
    )
    assert {name.removeprefix("sample.") for name in containers(path, root=tmp_path)} == {
        "Base", "A.kept", "A.a", "A.b", "A.d", "A.e", "B.rows", "B.f", "remembered",
    }  # fmt: skip


def containers(path: Path, *, root: Path = ROOT) -> Iterator[str]:
    """The dotted names of the growing attributes, classes and caches in the module at *path*."""
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            if any(_name(base) in GROWING for base in node.bases):
                yield f"{module}.{node.name}"
            for attribute in (*_attributes(node), *_arrays(node)):
                yield f"{module}.{node.name}.{attribute}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            _name(decorator) in {"cache", "lru_cache"} for decorator in node.decorator_list
        ):
            yield f"{module}.{node.name}"


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    for statement in ast.walk(node):
        if isinstance(statement, ast.Assign):
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        pairs: list[tuple[ast.expr, ast.expr]] = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=True))
        for left, right in pairs:
            if not _grows(right):
                continue
            if isinstance(left, ast.Attribute) and _name(left.value) == "self":
                yield left.attr
            elif isinstance(left, ast.Name) and statement in node.body:
                yield left.id


def _arrays(node: ast.ClassDef) -> Iterator[str]:
    """The fields that are annotated as arrays, and the attributes that are made of such parameters."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if _is_array(statement.annotation):
                yield statement.target.id
        elif isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            parameters = (*statement.args.args, *statement.args.kwonlyargs)
            given = {each.arg for each in parameters if each.annotation and _is_array(each.annotation)}
            for inner in ast.walk(statement):
                if isinstance(inner, ast.Assign) and _name(inner.value) in given:
                    target = inner.targets[0]
                    if isinstance(target, ast.Attribute) and _name(target.value) == "self":
                        yield target.attr


def _is_array(annotation: ast.expr) -> bool:
    names = {_name(each) for each in ast.walk(annotation) if isinstance(each, ast.expr)}
    return bool(names & ARRAYS) and "Callable" not in names


def _grows(value: ast.expr) -> bool:
    if isinstance(value, ast.Dict | ast.List | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
        return True
    if not isinstance(value, ast.Call):
        return False
    if _name(value.func) in ARRAY_MAKERS:
        return True
    factories = [each.value for each in value.keywords if each.arg == "default_factory"]
    return any(_name(each) in GROWING for each in (value.func, *factories))


def _name(expression: ast.expr) -> str:
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=inner) | ast.Call(func=inner):
            return _name(inner)
    return ""


def index_modules() -> Iterator[ModuleType]:
    """The modules that define a class whose objects search."""
    for found in pkgutil.iter_modules(index.__path__, f"{index.__name__}."):
        module = importlib.import_module(found.name)
        for each in vars(module).values():
            if isinstance(each, type) and each.__module__ == module.__name__ and hasattr(each, "search"):
                yield module
                break


def test_every_index_says_what_it_holds_or_holds_nothing() -> None:
    """`base` has the interface; `flat` compares mapped vectors in place. What the others say is measured in
    tests/engine/index/test_index_memory.py."""
    names = {module.__name__.rpartition(".")[2]: module for module in index_modules()}
    assert names.keys() == {"base", "flat", "quantized", "rabitq"}
    for name in ("quantized", "rabitq"):
        assert names[name].open_bytes(10_000) > 0
        assert callable(names[name].build_bytes)


def test_an_exact_search_holds_nothing_afterwards() -> None:
    from vectorizer_engine.index.base import Distance
    from vectorizer_engine.index.flat import FlatIndex

    vectors = np.random.default_rng(0).standard_normal((20_000, 16), np.float32)
    flat = FlatIndex(vectors, Distance.DOT)
    flat.search(vectors[:1], 10)
    tracemalloc.start()
    try:
        for _ in range(20):
            flat.search(vectors[:1], 10)
        assert tracemalloc.get_traced_memory()[0] < 16 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("points", [1_000_003, 4_000_000])
def test_the_rows_that_count_cost_two_bits_each_while_they_change(points: int) -> None:
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        before = LiveMask.from_deleted(b"", points)
        after = before.without([1, 5])
        measured = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert after.count == before.count - 2
    assert measured == pytest.approx(2 * mask_bytes(points), rel=0.05)
