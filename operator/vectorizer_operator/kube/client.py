"""The few REST calls the operator makes, on plain dicts. No retries: who calls decides what a failure means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any
from urllib.parse import urlencode

import aiohttp

from vectorizer_operator.api import FIELD_MANAGER
from vectorizer_operator.kube.connection import Connection
from vectorizer_operator.kube.errors import Unreachable, error_of
from vectorizer_operator.kube.resources import PODS, Resource

REQUEST_TIMEOUT = 15.0
"""Seconds for one request: longer than any healthy answer, shorter than a Lease."""

CONNECTIONS = 32
"""At most: a round has ten requests at once, and each connection costs a TLS handshake and some 50 KiB."""

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

Object = dict[str, Any]


class KubeClient:
    """Reads and writes objects. Every call raises an `ApiError` for any answer but success."""

    def __init__(self, connection: Connection) -> None:
        self._server = connection.server
        self._session = connection.session(connections=CONNECTIONS)

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Object:
        return await self._request("GET", resource.path(namespace=namespace, name=name))

    async def list(
        self, resource: Resource, *, namespace: str | None = None, label_selector: str = ""
    ) -> list[Object]:
        """The objects as of now (not from a cache that may lag), each with its kind filled in."""
        answer = await self._request(
            "GET",
            resource.path(namespace=namespace),
            {"labelSelector": label_selector} if label_selector else {},
        )
        return [
            {"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in answer["items"]
        ]

    async def ask_pod(
        self, name: str, path: str, *, namespace: str, port: int, headers: Mapping[str, str]
    ) -> Object:
        """What a pod answers to GET *path*, asked by the API server in our name: the right is `get` on pods/proxy."""
        proxy = PODS.path(namespace=namespace, name=f"{name}:{port}", subresource="proxy")
        return await self._request("GET", proxy + path, headers=headers)

    async def create(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        namespace = manifest["metadata"].get("namespace")
        return await self._request("POST", resource.path(namespace=namespace), body=manifest)

    async def replace(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        """Put *manifest* in the place of what has its resourceVersion; Conflict if that is gone."""
        metadata = manifest["metadata"]
        path = resource.path(namespace=metadata.get("namespace"), name=metadata["name"])
        return await self._request("PUT", path, body=manifest)

    async def apply(
        self, resource: Resource, manifest: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """Server-side apply as the operator's field manager, taking over fields that others set."""
        metadata = manifest["metadata"]
        path = resource.path(
            namespace=metadata.get("namespace"), name=metadata["name"], subresource=subresource
        )
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path, query, body=manifest, content_type=APPLY)

    async def merge(
        self,
        resource: Resource,
        name: str,
        patch: Mapping[str, Any],
        *,
        namespace: str | None = None,
    ) -> Object:
        """JSON merge patch. A resourceVersion in the patch's metadata makes it a compare-and-set."""
        path = resource.path(namespace=namespace, name=name)
        return await self._request(
            "PATCH", path, {"fieldManager": FIELD_MANAGER}, body=patch, content_type=MERGE
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        propagation: str = "Background",
        uid: str | None = None,
    ) -> None:
        """Delete one object; with *uid*, that very one and not its successor of the same name (Conflict)."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        await self._request("DELETE", resource.path(namespace=namespace, name=name), body=body)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Object:
        url = f"{self._server}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            async with self._session.request(
                method,
                url,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Accept": "application/json", "Content-Type": content_type, **headers},
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"{method} {path}", 0, type(error).__name__, str(error)) from error
        if response.status >= 400:
            raise error_of(f"{method} {path}", response.status, content, response.headers.get("Retry-After"))
        answer: Object = json.loads(content)
        return answer
