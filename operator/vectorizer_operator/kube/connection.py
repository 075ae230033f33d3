"""Where the API server is and who we are there: sessions that sign every request.

Configuration is found as kubectl finds it (`KUBECONFIG`, a mounted ServiceAccount, `~/.kube/config`) by the
official client, of which nothing else is used: its models would cost memory and give nothing to objects that we
render ourselves. A ServiceAccount's token is read again each minute, since the kubelet rotates it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
DEFAULT_NAMESPACE = "default"

KEEP_ALIVE = 75.0
"""Seconds for which an idle connection is kept: less than the API server's 90, and no handshakes before most edits."""


class NoConnectionConfigured(Exception):
    """There is neither a kubeconfig nor a ServiceAccount to connect with."""


class Connection:
    """The API server's address and our credentials there."""

    def __init__(
        self, configuration: Configuration, *, user_agent: str, namespace: str = DEFAULT_NAMESPACE
    ) -> None:
        self.namespace = namespace
        """The one that a user means who names none."""
        self._configuration = configuration
        self._user_agent = user_agent
        self._tls = _tls_context(configuration)

    @classmethod
    async def load(cls, *, user_agent: str, context: str | None = None) -> Connection:
        """As the mounted ServiceAccount, or as the kubeconfig's current (or the named) *context*.

        Raises NoConnectionConfigured with what was looked for.
        """
        configuration, namespace = Configuration(), DEFAULT_NAMESPACE
        named = context or os.environ.get("KUBECONFIG")
        try:
            if not named and await asyncio.to_thread(SERVICE_ACCOUNT_TOKEN.exists):
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                loader = await load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=os.environ.get("KUBECONFIG"),
                    context=context,
                    client_configuration=configuration,
                )
                namespace = loader.current_context["context"].get("namespace") or namespace
            return cls(configuration, user_agent=user_agent, namespace=namespace)
        except Exception as error:  # noqa: BLE001  the client stumbles over a malformed file in many ways
            said = " ".join(str(error).split())
            raise NoConnectionConfigured(
                f"no API server to connect to: {said} (looked at $KUBECONFIG, {SERVICE_ACCOUNT_TOKEN} and "
                "~/.kube/config)"
            ) from None

    @property
    def server(self) -> str:
        """The API server's URL, without a slash at its end."""
        return str(self._configuration.host).rstrip("/")

    def session(self, *traces: aiohttp.TraceConfig, connections: int = 0) -> aiohttp.ClientSession:
        """A new session, the caller's to close, of at most so many *connections* (0: no limit).

        Every request of it carries the credentials of its moment.
        """
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=self._tls, keepalive_timeout=KEEP_ALIVE),
            headers={"User-Agent": self._user_agent},
            middlewares=(self._authorize,),
            proxy=self._configuration.proxy,
            trace_configs=list(traces),
        )

    async def _authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            request.headers["Authorization"] = token
        elif self._configuration.username:
            request.headers["Authorization"] = str(self._configuration.get_basic_auth_token())
        return await handler(request)


def _tls_context(configuration: Configuration) -> ssl.SSLContext | bool:
    if not str(configuration.host).startswith("https:"):
        return True
    context = ssl.create_default_context(
        cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data or None
    )
    # Clusters older than RFC 5280's strict reading have CAs without a key usage extension.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
