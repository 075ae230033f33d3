"""A proxy in front of an S3 server that fails as stores do: it refuses, is slow, or obeys and says nothing."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_SECONDS = 0.4


class StoreProxy:
    """`fault` is what happens to a share of the requests: "refuse" (503), "lose" the answer, "slow", or "cut" (all)."""

    def __init__(self, endpoint: str, *, share: float = 0.15, seed: int = 1) -> None:
        self.fault = ""
        self._share = share
        self._chosen = random.Random(seed)
        self._target = urlsplit(endpoint).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        fault = self.fault
        if fault != "cut" and self._chosen.random() > self._share:
            fault = ""
        match fault:
            case "cut":
                request.close_connection = True
                return
            case "refuse":
                request.send_response(503)
                request.send_header("content-length", "0")
                request.end_headers()
                return
            case "slow":
                time.sleep(SLOW_SECONDS)
        status, headers, content = self._forward(request, body)
        if fault == "lose":
            request.close_connection = True
            return
        request.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "content-length"}:
                request.send_header(name, value)
        length = dict(headers).get("Content-Length") if request.command == "HEAD" else None
        request.send_header("content-length", length or str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _forward(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """As it came, Host included: it is signed."""
        connection = http.client.HTTPConnection(self._target, timeout=30)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[StoreProxy]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
