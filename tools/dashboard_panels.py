"""What the Grafana dashboard shows: rows of panels, each of one or several Prometheus queries.

`dashboard` makes the JSON of it. What is worth waking somebody for is not here but in the alerts
(`helm/vectorizer-operator/monitoring/alerts.yaml`). A test runs every query over metrics that are really exported.
"""

from typing import NamedTuple

ENGINE = 'namespace=~"$namespace", vectorizer_cluster=~"$cluster", pod=~"$pod"'
"""The chosen engines."""

_CLUSTER_LABELS = ("namespace", "vectorizer_cluster")
_CLUSTER = 'namespace=~"$namespace", vectorizer_cluster=~"$cluster"'


class Query(NamedTuple):
    """An expression, and the legend of its lines."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """`unit` is one of Grafana's names; `levels` are colours from a value on."""

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    levels: tuple[tuple[float, str], ...] = ()


def _stat(title: str, about: str, unit: str, expression: str, *levels: tuple[float, str]) -> Panel:
    return Panel(title, about, unit, (Query(expression, title),), kind="stat", width=4, levels=levels)


def _graph(
    title: str, about: str, unit: str, *queries: Query, width: int = 8, stacked: bool = False
) -> Panel:
    return Panel(title, about, unit, queries, width=width, stacked=stacked)


def _engine(metric: str, where: str = "") -> str:
    return f"{metric}{{{where}{', ' if where else ''}{ENGINE}}}"


def _sum(series: str, *by: str, legend: str = "") -> Query:
    """The sum of *series* by some labels, whose values are the legend unless another is given."""
    grouping = f" by ({', '.join(by)}) " if by else ""
    return Query(f"sum{grouping}({series})", legend or _legend(*by))


def _rate(series: str, *by: str, legend: str = "") -> Query:
    return _sum(f"rate({series}[$__rate_interval])", *by, legend=legend)


def _share(part: str, whole: str, by: str) -> Query:
    return Query(f"{_rate(part, by).expression} / {_rate(whole, by).expression}", _legend(by))


def _quantile(quantile: float, histogram: str, *by: str, legend: str = "") -> Query:
    buckets = _rate(histogram, "le", *by).expression
    return Query(f"histogram_quantile({quantile}, {buckets})", legend or _legend(*by))


def _legend(*labels: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in labels)


def _of_cluster(series: str, of_its_pods: str = "max") -> str:
    """One value for each cluster, the greatest of its pods where all of them tell the same."""
    return f"{of_its_pods} by ({', '.join(_CLUSTER_LABELS)}) ({series})"


_LOOKUPS = "vectorizer_cluster_cache_lookups_total"
_REQUESTS = "vectorizer_http_requests_total"
_REQUEST_SECONDS = _engine("vectorizer_http_request_duration_seconds_bucket")
_APPEND_SECONDS = _engine("vectorizer_log_append_duration_seconds_bucket")
_MEMBER_SECONDS = "vectorizer_member_request_duration_seconds"
_ROUND_SECONDS = "vectorizer_operator_reconcile_duration_seconds"
_USED = _engine("vectorizer_cluster_cache_usage_bytes")
_LIMIT = _engine("vectorizer_cluster_cache_limit_bytes")
_QUARANTINED = _engine("vectorizer_quarantined_segments")
_DAMAGED = _engine("vectorizer_damaged_collections")

ROWS: dict[str, tuple[Panel, ...]] = {
    "At a glance": (
        _stat("Pods", "Engines that are scraped.", "short", f"count({_LIMIT})"),
        _stat(
            "Fullest cache",
            "The caches of one pod against their limit. They fill by and by, and are kept under 90 %.",
            "percentunit",
            f"max(sum by (namespace, pod) ({_USED}) / sum by (namespace, pod) ({_LIMIT}))",
            (0.8, "yellow"),
            (0.95, "red"),
        ),
        _stat("Points", "Points of all collections.", "short", f"sum({_engine('vectorizer_points')})"),
        _stat(
            "Disk",
            "Of all collections. Where there is an object store, of the pods' copies.",
            "bytes",
            f"sum({_engine('vectorizer_storage_bytes')})",
        ),
        _stat(
            "Damage",
            "Segments that were set aside, and collections or shards that cannot be opened.",
            "short",
            f"sum({_QUARANTINED} + {_DAMAGED})",
            (1.0, "red"),
        ),
        _stat(
            "Rules skipped",
            "Pods that run with --skip-cluster-validation.",
            "short",
            f"sum({_engine('vectorizer_cluster_validation_skipped')})",
            (1.0, "red"),
        ),
    ),
    "Memory": (
        _graph(
            "Caches against the limit",
            "All caches of a pod together never exceed the one limit.",
            "bytes",
            _sum(_USED, "pod"),
            Query(f"max({_LIMIT})", "limit"),
        ),
        _graph("By cache", "What the ledger has charged.", "bytes", _sum(_USED, "type"), stacked=True),
        _graph(
            "By component",
            "The ledger (cache and metadata), all of the process's own memory (anonymous, the ledger included), and "
            "mapped pages, which the kernel may take back.",
            "bytes",
            _sum(_engine("vectorizer_cluster_memory_usage_bytes"), "component"),
            _sum(_engine("vectorizer_process_anonymous_bytes"), legend="anonymous"),
            _sum(_engine("vectorizer_memory_storage_bytes"), legend="memory storage"),
            _sum(_engine("vectorizer_request_bodies_bytes"), legend="request bodies"),
        ),
        _graph(
            "Hit rates",
            "Query: searches without a filter whose answer was kept. Hnsw: segments whose index was open; others are "
            "searched exactly. Metadata: filters of which it was known what they take of a segment.",
            "percentunit",
            _share(_engine(_LOOKUPS, 'result="hit"'), _engine(_LOOKUPS), "type"),
        ),
        _graph(
            "Evictions by cache and reason",
            "Entries a second that left a cache.",
            "ops",
            _rate(_engine("vectorizer_cluster_cache_evictions_total"), "type", "reason"),
        ),
        _graph(
            "Watermarks reached",
            "Forced: a request had to evict before it could go on.",
            "ops",
            _rate(_engine("vectorizer_cluster_cache_watermarks_reached_total"), "watermark"),
        ),
    ),
    "Tenants": (
        _graph(
            "Memory by tenant",
            "What the ledger has charged to each; nothing where a cluster has no tenants.",
            "bytes",
            _sum(_engine("vectorizer_cluster_tenant_memory_bytes"), "tenant"),
            width=24,
            stacked=True,
        ),
    ),
    "Requests": (
        _graph("Requests by route", "Answered.", "reqps", _rate(_engine(_REQUESTS), "method", "route")),
        _graph(
            "Latency p50 by route",
            "From a request's headers to its answer.",
            "s",
            _quantile(0.5, _REQUEST_SECONDS, "method", "route"),
        ),
        _graph(
            "Latency p99 by route",
            "From a request's headers to its answer.",
            "s",
            _quantile(0.99, _REQUEST_SECONDS, "method", "route"),
        ),
        _graph(
            "Refusals and errors",
            "Answers of 400 and above.",
            "reqps",
            _rate(_engine(_REQUESTS, 'status=~"[45].."'), "status"),
            width=12,
        ),
        _graph(
            "Failed writes",
            "For a reason that is not the client's: 507 is a full disk, 500 a failing one or a bug.",
            "reqps",
            _rate(_engine("vectorizer_write_failures_total"), "status"),
            width=12,
        ),
    ),
    "Log and segments": (
        _graph(
            "Append to the log",
            "From a group of writes to its durable place, fsync included.",
            "s",
            _quantile(0.5, _APPEND_SECONDS, legend="p50"),
            _quantile(0.99, _APPEND_SECONDS, legend="p99"),
        ),
        _graph(
            "Writes that share an append",
            "The mean, and so writes per fsync.",
            "short",
            _share(
                _engine("vectorizer_log_append_writes_sum"),
                _engine("vectorizer_log_append_writes_count"),
                "pod",
            ),
        ),
        _graph("Points", "Points that each pod serves.", "short", _sum(_engine("vectorizer_points"), "pod")),
        _graph(
            "Segments and collections",
            "Segments grow with writes, and shrink as they are merged.",
            "short",
            _sum(_engine("vectorizer_segments"), legend="segments"),
            Query(f"sum({_of_cluster(_engine('vectorizer_collections'))})", "collections"),
        ),
        _graph("Disk", "Of what each pod serves.", "bytes", _sum(_engine("vectorizer_storage_bytes"), "pod")),
        _graph(
            "Damage",
            "Segments that failed their checksum and were set aside, and collections, or shards of them, that cannot "
            "be opened.",
            "short",
            _sum(_QUARANTINED, "pod", legend="{{pod}} segments"),
            _sum(_DAMAGED, "pod", legend="{{pod}} collections"),
        ),
    ),
    "Several pods": (
        _graph(
            "Shards by pod",
            "Of clusters whose pods share an object store: the shards that each pod serves.",
            "short",
            _sum(_engine("vectorizer_shards_served"), "pod"),
            stacked=True,
        ),
        _graph(
            "Shards not served",
            "Nobody serves them at present. Shards that move are served by the pod that gives them until the other is "
            "ready.",
            "short",
            Query(
                f"{_of_cluster(_engine('vectorizer_shards'))} "
                f"- {_of_cluster(_engine('vectorizer_shards_served'), 'sum')}",
                _legend(*_CLUSTER_LABELS),
            ),
        ),
        _graph(
            "Shards on the move",
            "Waiting: a pod is to serve them and does not yet. Leaving: a pod serves them until another does.",
            "short",
            _sum(_engine("vectorizer_shards_waiting"), "pod", legend="{{pod}} waiting"),
            _sum(_engine("vectorizer_shards_leaving"), "pod", legend="{{pod}} leaving"),
        ),
        _graph(
            "Copies behind",
            "For how long a pod has been behind what the owners of shards told it that it reads along: of the shard "
            "with the longest. Reads with consistency=1 may be as old.",
            "s",
            _sum(_engine("vectorizer_reader_lag_seconds"), "pod"),
        ),
        _graph(
            "Copies on the volume",
            "What copies of shards take of each pod's volume, and what they may take.",
            "bytes",
            _sum(_engine("vectorizer_copies_bytes"), "pod"),
            _sum(_engine("vectorizer_copies_limit_bytes"), "pod", legend="{{pod}} limit"),
        ),
        _graph(
            "Parked shards",
            "Served, but closed, as there is no room for their copies. One that is asked for is opened again, which "
            "takes a moment: where that goes on and on, the volumes are too small for what is in use.",
            "short",
            _sum(_engine("vectorizer_shards_parked"), "pod"),
            _rate(
                _engine("vectorizer_shards_opened_again_total"), "pod", legend="{{pod}} opened again a second"
            ),
        ),
        _graph(
            "Topology",
            "The newest version that each pod knows, and how many members it has. Lines that stay apart are pods that "
            "do not hear of each other.",
            "short",
            Query(f"max by (pod) ({_engine('vectorizer_cluster_topology_version')})", "{{pod}} version"),
            Query(f"max by (pod) ({_engine('vectorizer_cluster_members')})", "{{pod}} members"),
        ),
        _graph(
            "Requests between pods",
            "What became of requests for shards that another pod has. Moved: it was not there, and looked for again.",
            "reqps",
            _rate(_engine(f"{_MEMBER_SECONDS}_count"), "outcome"),
        ),
        _graph(
            "Latency between pods",
            "From sending such a request to having read its answer.",
            "s",
            _quantile(0.5, _engine(f"{_MEMBER_SECONDS}_bucket", 'outcome="done"'), legend="p50"),
            _quantile(0.99, _engine(f"{_MEMBER_SECONDS}_bucket", 'outcome="done"'), legend="p99"),
        ),
    ),
    "Rules": (
        _graph(
            "Violations",
            "Cluster rules that a start or a request would have broken, by error type.",
            "ops",
            _rate(_engine("vectorizer_cluster_config_violations_total"), "type"),
            width=12,
        ),
        _graph(
            "The webhook's verdicts",
            "Allowed, malformed, or the code of each rule that was broken.",
            "ops",
            _rate("vectorizer_operator_webhook_verdicts_total", "verdict"),
            width=12,
        ),
    ),
    "Operator": (
        _graph(
            "Ready",
            "1 where a cluster's condition Ready is True.",
            "short",
            Query(
                f"max by (namespace, vectorizer_cluster) (vectorizer_operator_cluster_ready{{{_CLUSTER}}})",
                "{{namespace}}/{{vectorizer_cluster}}",
            ),
        ),
        _graph(
            "Duration of rounds",
            "From reading a cluster to its status being written.",
            "s",
            _quantile(0.5, f"{_ROUND_SECONDS}_bucket", legend="p50"),
            _quantile(0.99, f"{_ROUND_SECONDS}_bucket", legend="p99"),
        ),
        _graph(
            "Rounds, changes and errors",
            "Rounds of all clusters, changes made to children, and rounds that failed.",
            "ops",
            _rate(f"{_ROUND_SECONDS}_count", legend="rounds"),
            _rate("vectorizer_operator_actions_total", "action", "kind"),
            _rate("vectorizer_operator_reconcile_errors_total", "reason", legend="failed: {{reason}}"),
        ),
        _graph(
            "Queue and leader",
            "Clusters that are due, and the replica that works on them.",
            "short",
            _sum("vectorizer_operator_queue_depth", legend="due"),
            _sum("vectorizer_operator_leader", "pod", legend="{{pod}} leads"),
        ),
        _graph(
            "Age of watches",
            "Since each was last opened. The API server ends one after 270 s; at 330 s it is dead.",
            "s",
            Query("max by (pod, path) (vectorizer_operator_watch_age_seconds)", "{{pod}} {{path}}"),
        ),
        _graph(
            "The webhook's certificate",
            "Until the one that it shows expires.",
            "s",
            Query("min by (pod) (vectorizer_operator_webhook_certificate_seconds_left)", "{{pod}}"),
        ),
    ),
}
