"""A small asynchronous client of the API server for the test node: plain dicts, one Mirror for each kind.

Tests themselves use kubectl; this is for `kubelet.py`, `serviceproxy.py` and `volumes.py`, which act on events.
"""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import aiohttp

Object = dict[str, Any]

STRATEGIC = "application/strategic-merge-patch+json"

GONE = frozenset({404, 409, 422})
"""What a write about one very object gets when there is no such object any more, or another of its name (by uid)."""

ENDING = 403
"""What a creation gets in a namespace that is being deleted."""

_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.2

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer other than success, with the API server's own message."""

    def __init__(self, request: str, status: int, message: str) -> None:
        super().__init__(f"{request}: {status} {message}")
        self.status = status


class Api:
    """Requests to the API server at `url`, in the name of whom `tls` has the certificate of."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> Object:
        return await self._request("GET", path)

    async def create(self, path: str, body: Object) -> Object:
        return await self._request("POST", path, body)

    async def patch(self, path: str, body: Object) -> Object:
        """A strategic merge: lists such as conditions are merged by their key."""
        return await self._request("PATCH", path, body, content_type=STRATEGIC)

    async def delete(self, path: str, **options: Any) -> None:
        """Delete; `options` as in DeleteOptions. What is gone already, or is another by now, is no error."""
        try:
            await self._request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except ApiError as error:
            if error.status not in GONE:
                raise

    async def watch(self, path: str, resource_version: str) -> AsyncIterator[Object]:
        """The events from `resource_version` on, until the server ends the stream. ApiError 410: too old."""
        url = f"{self._url}{path}?watch=true&allowWatchBookmarks=true&resourceVersion={resource_version}"
        async with self._session.get(url, read_bufsize=2**22) as response:
            await self._raise_for(response, f"WATCH {path}")
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(f"WATCH {path}", status.get("code", 0), status.get("message", ""))
                yield event

    async def _request(
        self, method: str, path: str, body: Object | None = None, *, content_type: str = "application/json"
    ) -> Object:
        """Ask, and ask again while the server is busy or the connection breaks: a machine under load does both."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while True:
            try:
                return await self._ask(method, path, body, content_type)
            except (ApiError, aiohttp.ClientError) as error:
                lasting = isinstance(error, ApiError) and error.status not in _TRANSIENT
                if lasting or asyncio.get_running_loop().time() > deadline:
                    raise
                logger.warning("%s %s: %s; asking again", method, path, error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask(self, method: str, path: str, body: Object | None, content_type: str) -> Object:
        async with self._session.request(
            method,
            self._url + path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
        ) as response:
            await self._raise_for(response, f"{method} {path}")
            answer: Object = await response.json()
            return answer

    async def _raise_for(self, response: aiohttp.ClientResponse, request: str) -> None:
        if response.status >= 400:
            text = await response.text()
            with contextlib.suppress(ValueError, KeyError):
                text = json.loads(text)["message"]
            raise ApiError(request, response.status, text)


class Mirror:
    """The objects of one kind as they are now, in `objects` by (namespace, name).

    `on_change` is called with (new, old) after each change, with None for what is not there.
    """

    def __init__(
        self, api: Api, path: str, on_change: Callable[[Object | None, Object | None], None]
    ) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self._api = api
        self._path = path
        self._on_change = on_change

    async def follow(self) -> None:
        """List, then watch; again whenever the server says that too much was missed, or goes away."""
        while True:
            try:
                listed = await self._api.get(self._path)
                self._replace(listed["items"])
                await self._follow_from(listed["metadata"]["resourceVersion"])
            except (ApiError, aiohttp.ClientError) as error:
                if isinstance(error, ApiError) and error.status not in {410, *_TRANSIENT}:
                    raise
                logger.warning("%s: %s; listing again", self._path, error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow_from(self, version: str) -> None:
        while True:
            async for event in self._api.watch(self._path, version):
                seen = event["object"]
                version = seen["metadata"]["resourceVersion"]
                if event["type"] == "DELETED":
                    self._set(_key(seen), None)
                elif event["type"] != "BOOKMARK":
                    self._set(_key(seen), seen)

    def _replace(self, items: list[Object]) -> None:
        listed = {_key(item): item for item in items}
        for key in self.objects.keys() - listed.keys():
            self._set(key, None)
        for key, item in listed.items():
            self._set(key, item)

    def _set(self, key: tuple[str, str], new: Object | None) -> None:
        old = self.objects.pop(key, None)
        if new is not None:
            self.objects[key] = new
        self._on_change(new, old)


def _key(thing: Object) -> tuple[str, str]:
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]
