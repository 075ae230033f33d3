"""The engine's Prometheus metrics: counters and timings of requests, and the process's memory.

What describes caches and collections is read from them when somebody scrapes (`api.service`). Label values
come from fixed sets, never from a request.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from vectorizer_engine.cluster.validator import RULES
from vectorizer_engine.storage.counted_store import CALLS

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64)

WRITE_FAILURES = (500, 507)
"""Status codes of writes that failed for a reason that is not the client's: the disk, its space, or a bug."""

_VIOLATIONS = sorted({rule.error_type for rule in RULES})
_WATCHER_FAILURES = (
    "bad_file", "bad_row", "collection_missing", "incomplete", "storage", "unexpected", "unreadable",
)  # fmt: skip


class Metrics:
    """The counters of one engine process, in a registry of their own.

    Counters by reason are all there from the start: one that appeared with its first event would have no increase.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "vectorizer_http_requests",
            "Requests answered, by route pattern and status code.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "vectorizer_http_request_duration_seconds",
            "From a request's headers to its answer, by route pattern.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._of_requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.append_seconds = Histogram(
            "vectorizer_log_append_duration_seconds",
            "From a group of writes to its durable place in the log.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.append_writes = Histogram(
            "vectorizer_log_append_writes",
            "Writes that shared one append to a log, and so one fsync.",
            buckets=_GROUP_SIZES,
            registry=self.registry,
        )
        self.store_calls = Counter(
            "vectorizer_object_store_calls",
            "Calls to the object store, by kind. A long upload or list is several requests there.",
            ("call",),
            registry=self.registry,
        )
        self.store_bytes = Counter(
            "vectorizer_object_store_bytes",
            "Bytes of objects that were sent to the object store, or received from it.",
            ("direction",),
            registry=self.registry,
        )
        self.write_failures = Counter(
            "vectorizer_write_failures",
            "Writes that failed for a reason that is not the client's, by status code; 507: the disk is full.",
            ("status",),
            registry=self.registry,
        )
        self.violations = Counter(
            "vectorizer_cluster_config_violations",
            "Cluster rules that a start or a request would have broken, by error type.",
            ("type",),
            registry=self.registry,
        )
        self.validation_skipped = Gauge(
            "vectorizer_cluster_validation_skipped",
            "1 where the engine was started with --skip-cluster-validation, which is unsafe.",
            registry=self.registry,
        )
        self.watched_files = Counter(
            "vectorizer_file_watcher_files_loaded",
            "Files that the file watcher read to their end, again or for the first time.",
            registry=self.registry,
        )
        self.watched_points = Counter(
            "vectorizer_file_watcher_points_upserted",
            "Points that the file watcher upserted.",
            registry=self.registry,
        )
        self.watcher_failures = Counter(
            "vectorizer_file_watcher_failures",
            "What the file watcher could not load: rows it skipped, and attempts at files that it gave up.",
            ("reason",),
            registry=self.registry,
        )
        for call in CALLS:
            self.store_calls.labels(call)
        for direction in ("sent", "received"):
            self.store_bytes.labels(direction)
        for status in WRITE_FAILURES:
            self.write_failures.labels(status)
        for error_type in _VIOLATIONS:
            self.violations.labels(error_type)
        for reason in _WATCHER_FAILURES:
            self.watcher_failures.labels(reason)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note that a request was answered, and how long that took."""
        series = self._of_requests.get((method, route, status))
        if series is None:  # to find them by their labels takes as long as a tenth of a search
            series = self._requests.labels(method, route, status), self._request_seconds.labels(method, route)
            self._of_requests[method, route, status] = series
        count, timing = series
        count.inc()
        timing.observe(seconds)

    def observe_append(self, writes: int, seconds: float) -> None:
        """Note an append to a log: how many writes shared it, and how long it took."""
        self.append_writes.observe(writes)
        self.append_seconds.observe(seconds)

    def observe_store(self, call: str, sent: int, received: int) -> None:
        """Note a call to the object store, and the bytes of objects that it moved."""
        self.store_calls.labels(call).inc()
        self.store_bytes.labels("sent").inc(sent)
        self.store_bytes.labels("received").inc(received)


class ProcessMemory(NamedTuple):
    """Resident memory of this process in bytes: its own, and mapped pages that the kernel may take back."""

    anonymous: int
    mapped: int


def process_memory(status: Path = Path("/proc/self/status")) -> ProcessMemory | None:
    """Read from Linux's accounting, which costs microseconds. None on another system."""
    try:
        text = status.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    kilobytes = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in text.splitlines())
        if name in ("RssAnon", "RssFile", "RssShmem")
    }
    return ProcessMemory(
        anonymous=kilobytes["RssAnon"] * 1024,
        mapped=(kilobytes["RssFile"] + kilobytes["RssShmem"]) * 1024,
    )
