"""The operator's own figures, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vectorizer_operator.kube.errors import ApiError

PREFIX = "vectorizer_operator"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class Metrics:
    """Counts what happens; what only has a present value is asked for when it is scraped."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.reconcile_seconds = Histogram(
            f"{PREFIX}_reconcile_duration_seconds",
            "Duration of one round of one cluster, from reading it to its status being written.",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._errors = Counter(
            f"{PREFIX}_reconcile_errors_total",
            "Rounds that failed and will be tried again, by the API server's reason or the error's type.",
            ["reason"],
            registry=self._registry,
        )
        self.actions = Counter(
            f"{PREFIX}_actions_total",
            "Changes made to children, by action and kind.",
            ["action", "kind"],
            registry=self._registry,
        )
        self._verdicts = Counter(
            f"{PREFIX}_webhook_verdicts_total",
            "Answers of the webhook: allowed, malformed, or the code of each rule that was broken.",
            ["verdict"],
            registry=self._registry,
        )

        self._ready = Gauge(
            f"{PREFIX}_cluster_ready",
            "1 where a cluster's condition Ready is True, else 0; only on the replica that leads.",
            ["namespace", "vectorizer_cluster"],
            registry=self._registry,
        )

    def failed(self, key: object, error: BaseException) -> None:
        """A round of *key* failed."""
        reason = error.reason if isinstance(error, ApiError) else ""
        self._errors.labels(reason or type(error).__name__).inc()

    def reported(self, cluster: tuple[str, str], status: Mapping[str, Any]) -> None:
        """*status* is what *cluster*, a namespace and a name, has now."""
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status["conditions"])
        self._ready.labels(*cluster).set(ready)

    def gone(self, cluster: tuple[str, str]) -> None:
        """There is no such *cluster* any more."""
        with suppress(KeyError):
            self._ready.remove(*cluster)

    def not_leading(self) -> None:
        """What the clusters are like is for another replica to say."""
        self._ready.clear()

    def count_verdicts(self, verdicts: Iterable[str]) -> None:
        for verdict in verdicts:
            self._verdicts.labels(verdict).inc()

    def gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Register a figure that is asked for when it is scraped."""
        Gauge(f"{PREFIX}_{name}", documentation, registry=self._registry).set_function(value)

    def gauges(
        self, name: str, documentation: str, label: str, values: Callable[[], Mapping[str, float]]
    ) -> None:
        """Register figures that are asked for when they are scraped, one for each value of *label*."""
        self._registry.register(_Asked(f"{PREFIX}_{name}", documentation, label, values))

    def render(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Asked(Collector):
    def __init__(
        self, name: str, documentation: str, label: str, values: Callable[[], Mapping[str, float]]
    ) -> None:
        self._about = (name, documentation, label)
        self._values = values

    def collect(self) -> Iterator[GaugeMetricFamily]:
        name, documentation, label = self._about
        family = GaugeMetricFamily(name, documentation, labels=[label])
        for value, figure in self._values().items():
            family.add_metric([value], figure)
        yield family
