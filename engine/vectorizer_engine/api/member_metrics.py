"""What Prometheus is told of a member of a cluster: the topology that it knows, its shards, its requests to others."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vectorizer_engine.distributed.router import ObserveRequest, Outcome
from vectorizer_engine.distributed.store import DistributedStore

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 45.0)
"""The last two are how long a read and a write wait for their answer."""


def request_observer(registry: CollectorRegistry) -> ObserveRequest:
    """Counts and times requests to other members from now on."""
    seconds = Histogram(
        "vectorizer_member_request_duration_seconds",
        "From sending a request for shards to another member to having read its answer, by what became of it.",
        ("outcome",),
        buckets=_SECONDS,
        registry=registry,
    )
    by_outcome = {outcome: seconds.labels(outcome) for outcome in Outcome}
    return lambda outcome, taken: by_outcome[outcome].observe(taken)


def membership(store: DistributedStore) -> Iterable[Metric]:
    """What is so at this moment."""
    topology, shards = store.topology.current, store.local_shards
    lag, parking = shards.followed.lag, shards.parking
    for name, documentation, value in (
        (
            "vectorizer_cluster_topology_version",
            "Version of the topology that this member knows. The same on all but for moments.",
            topology.version,
        ),
        ("vectorizer_cluster_members", "Members in that topology.", len(topology.members)),
        (
            "vectorizer_shards",
            "Shards of all collections, whichever member serves them.",
            sum(collection.shards for collection in store.collections()),
        ),
        ("vectorizer_shards_served", "Shards that this member serves, open or parked.", parking.served),
        (
            "vectorizer_shards_parked",
            "Shards that this member serves and that are closed until somebody asks for them.",
            parking.parked,
        ),
        ("vectorizer_copies_bytes", "Copies of shards on this member's volume.", parking.copies_bytes),
        ("vectorizer_shards_waiting", "Shards that this member is to serve and does not yet.", store.waiting),
        (
            "vectorizer_shards_leaving",
            "Shards that this member serves until others do, which are to.",
            store.leaving,
        ),
        ("vectorizer_shards_to_read", "Shards of other members that this one is to read along.", lag.wanted),
        ("vectorizer_shards_read", "Shards of other members that this one reads along.", lag.open),
        (
            "vectorizer_reader_lag_frames",
            "Frames of a log that its owner told of and that were not read here: of the shard with the most.",
            lag.frames,
        ),
        (
            "vectorizer_reader_lag_seconds",
            "For how long a shard that is read along has been behind what its owner told: of the one with the longest.",
            lag.seconds,
        ),
        (
            "vectorizer_copies_limit_bytes",
            "What copies may take; shards are parked for it.",
            parking.limit_bytes,
        ),
    ):
        yield GaugeMetricFamily(name, documentation, value)
    yield CounterMetricFamily(
        "vectorizer_shards_opened_again", "Times that a parked shard was opened.", parking.opened_again
    )
