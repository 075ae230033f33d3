"""What a kubelet and Prometheus read: health, readiness and the operator's figures."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from vectorizer_operator.controller import health
from vectorizer_operator.controller.metrics import Metrics
from vectorizer_operator.kube.errors import Conflict
from vectorizer_operator.webhook import server


class Endpoints:
    """The endpoints of an operator whose problems the test decides."""

    def __init__(self) -> None:
        self.alive: list[str] = []
        self.ready: list[str] = []
        self.metrics = Metrics()
        self.url = ""

    async def ask(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    made = Endpoints()
    app = health.application(metrics=made.metrics, alive=lambda: made.alive, ready=lambda: made.ready)
    runner = await server.serve(app, host="127.0.0.1", port=0)
    made.url = "http://{}:{}".format(*runner.addresses[0])
    yield made
    await runner.cleanup()


async def test_without_a_problem_it_is_alive_and_ready(endpoints: Endpoints) -> None:
    assert await endpoints.ask("/healthz") == (200, "ok\n")
    assert await endpoints.ask("/readyz") == (200, "ok\n")


async def test_each_problem_is_said_and_health_is_not_readiness(endpoints: Endpoints) -> None:
    endpoints.alive = ["the watch of /api/v1/pods is dead", "a round has been running for 130 s"]
    assert await endpoints.ask("/healthz") == (503, "\n".join(endpoints.alive) + "\n")
    assert await endpoints.ask("/readyz") == (200, "ok\n")
    endpoints.ready = ["stopping"]
    assert await endpoints.ask("/readyz") == (503, "stopping\n")


async def test_the_operators_figures_are_scraped_as_they_are_at_that_moment(endpoints: Endpoints) -> None:
    depth = 0.0
    endpoints.metrics.gauge("queue_depth", "Due.", lambda: depth)
    endpoints.metrics.gauges("watch_age_seconds", "Age.", "path", lambda: {"/api/v1/pods": depth + 1})
    endpoints.metrics.failed("a/b", Conflict("PUT x", 409, "Conflict", "modified"))
    endpoints.metrics.failed("a/b", ValueError("a bug"))
    endpoints.metrics.count_verdicts(["CLUSTER_001", "CLUSTER_004"])
    depth = 3.0
    status, text = await endpoints.ask("/metrics")
    assert status == 200
    for line in (
        "vectorizer_operator_queue_depth 3.0",
        'vectorizer_operator_watch_age_seconds{path="/api/v1/pods"} 4.0',
        'vectorizer_operator_reconcile_errors_total{reason="Conflict"} 1.0',
        'vectorizer_operator_reconcile_errors_total{reason="ValueError"} 1.0',
        'vectorizer_operator_webhook_verdicts_total{verdict="CLUSTER_004"} 1.0',
        "vectorizer_operator_reconcile_duration_seconds_count 0.0",
    ):
        assert line in text.splitlines()
