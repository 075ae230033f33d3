"""The webhook's HTTP side: `POST /validate` over TLS. Stateless, so that every replica answers."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterable

from aiohttp import web

from vectorizer_operator.webhook.review import NotAReview, review, verdict

PATH = "/validate"

LARGEST_REVIEW = 8 * 1024**2
"""Bytes: an object of etcd's limit (1.5 MiB) twice, old and new, and what JSON adds to it."""

Count = Callable[[Iterable[str]], None]
"""Told the verdict of each review: `allowed`, `malformed`, or the codes of the rules that were broken."""


def application(count: Count) -> web.Application:
    """The webhook, to be served behind any site."""

    async def validate(request: web.Request) -> web.Response:
        try:
            admission = json.loads(await request.read())
            if not isinstance(admission, dict):
                raise NotAReview(f"expected an AdmissionReview, found a JSON {type(admission).__name__}")
            answer = review(admission)
        except (ValueError, NotAReview) as error:
            count(["malformed"])
            return web.Response(status=400, text=f"{error}\n")
        count(verdict(answer, admission))
        return web.Response(body=json.dumps(answer).encode(), content_type="application/json")

    app = web.Application(client_max_size=LARGEST_REVIEW)
    app.router.add_post(PATH, validate)
    return app


async def serve(
    app: web.Application, *, host: str, port: int, tls: ssl.SSLContext | None = None
) -> web.AppRunner:
    """Serve *app* until the runner's `cleanup()`, which lets requests in flight finish. OSError: port taken."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=5.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
