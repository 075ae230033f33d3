"""`/healthz`, `/readyz` and `/metrics`, for the kubelet and Prometheus.

Alive means that the operator would notice a change and work it off: no watch is dead and no round is stuck. An API
server that is down is no reason to be restarted, until the watches have missed it for longer than any of them lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from vectorizer_operator.controller.metrics import Metrics

Problems = Callable[[], Iterable[str]]
"""What is wrong at this moment; nothing if all is well."""


def application(*, metrics: Metrics, alive: Problems, ready: Problems) -> web.Application:
    """The endpoints, to be served behind any site."""

    def verdict(problems: Problems) -> web.Response:
        found = list(problems())
        if found:
            return web.Response(status=503, text="".join(f"{problem}\n" for problem in found))
        return web.Response(text="ok\n")

    async def healthz(_: web.Request) -> web.Response:
        return verdict(alive)

    async def readyz(_: web.Request) -> web.Response:
        return verdict(ready)

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    return app
