"""Where the webhook's certificate comes from: a mounted folder (cert-manager's), or a Secret that we keep.

The lease holder makes and renews the Secret and writes the authorities into the ValidatingWebhookConfiguration,
first there and then into the Secret, so that the API server trusts a certificate before any replica shows it.
Every replica only reads.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from vectorizer_operator.kube.client import KubeClient, Object
from vectorizer_operator.kube.errors import ApiError, Conflict, NotFound
from vectorizer_operator.kube.resources import SECRETS, WEBHOOK_CONFIGURATIONS
from vectorizer_operator.webhook import certificates
from vectorizer_operator.webhook.tls import ServerCertificate

logger = logging.getLogger(__name__)

LOOK_EVERY = 30.0
"""Seconds between looks at a certificate that is there."""

LOOK_FOR_MISSING_EVERY = 0.5


class CertificateSource(Protocol):
    """Where a replica gets the certificate it shows."""

    async def read(self) -> tuple[bytes, bytes] | None:
        """Certificate chain and key (PEM), or None while there is none."""
        ...


class MountedCertificate:
    """`tls.crt` and `tls.key` of a folder, as the kubelet mounts a kubernetes.io/tls Secret."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read(self) -> tuple[bytes, bytes] | None:
        return await asyncio.to_thread(self._read)

    def _read(self) -> tuple[bytes, bytes] | None:
        try:
            return (
                (self._folder / certificates.CERTIFICATE).read_bytes(),
                (self._folder / certificates.KEY).read_bytes(),
            )
        except OSError as error:
            logger.warning("no certificate in %s: %s", self._folder, error)
            return None


class KeptSecret:
    """The Secret with our own certificate, and the webhook configuration that has to trust it."""

    def __init__(
        self, client: KubeClient, *, namespace: str, secret: str, configuration: str, hosts: Sequence[str]
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._secret = secret
        self._configuration = configuration
        self._hosts = hosts

    async def read(self) -> tuple[bytes, bytes] | None:
        try:
            data = _data(await self._client.get(SECRETS, self._secret, namespace=self._namespace))
        except NotFound:
            return None
        if not data.get(certificates.CERTIFICATE) or not data.get(certificates.KEY):
            return None
        return data[certificates.CERTIFICATE], data[certificates.KEY]

    async def ensure(self, fence: Callable[[], None]) -> None:
        """Make, renew and get trusted what needs it; no write if nothing does.

        *fence* is called before each write and raises if this replica must not write.
        """
        try:
            secret = await self._client.get(SECRETS, self._secret, namespace=self._namespace)
        except NotFound:
            secret = None
        data = _data(secret) if secret else {}
        now = datetime.now(UTC)
        reason = certificates.why_renew(data, self._hosts, now=now)
        if reason is None:
            await self._get_trusted(data[certificates.AUTHORITIES], fence)
            return
        logger.info("making a webhook certificate for %s: %s", ", ".join(self._hosts), reason)
        trusted = data.get(certificates.AUTHORITIES, b"")
        fresh = await asyncio.to_thread(certificates.make, self._hosts, now=now, trusted=trusted)
        await self._get_trusted(fresh[certificates.AUTHORITIES], fence)
        fence()
        await self._write(secret, fresh)

    async def _write(self, secret: Object | None, data: Mapping[str, bytes]) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        if secret is not None:
            await self._client.replace(SECRETS, {**secret, "data": encoded})
            return
        metadata = {"name": self._secret, "namespace": self._namespace}
        fresh = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata}
        await self._client.create(SECRETS, {**fresh, "data": encoded})

    async def _get_trusted(self, authorities: bytes, fence: Callable[[], None]) -> None:
        """Put *authorities* before those that the webhook configuration trusts already."""
        try:
            configuration = await self._client.get(WEBHOOK_CONFIGURATIONS, self._configuration)
        except NotFound:
            logger.warning(
                "there is no ValidatingWebhookConfiguration %s: the rules are enforced by CEL and the guard only",
                self._configuration,
            )
            return
        wanted = []
        for webhook in configuration.get("webhooks", []):
            current = _decoded(webhook["clientConfig"].get("caBundle", ""))
            bundle = certificates.trust(authorities, current, now=datetime.now(UTC))
            if bundle != current:
                encoded = base64.b64encode(bundle).decode()
                wanted.append({"name": webhook["name"], "clientConfig": {"caBundle": encoded}})
        if not wanted:
            return
        fence()
        await self._client.apply(
            WEBHOOK_CONFIGURATIONS,
            {
                "apiVersion": WEBHOOK_CONFIGURATIONS.api_version,
                "kind": WEBHOOK_CONFIGURATIONS.kind,
                "metadata": {
                    "name": self._configuration,
                    "resourceVersion": configuration["metadata"]["resourceVersion"],
                },
                "webhooks": wanted,
            },
        )
        logger.info("the API server now trusts the webhook's certificate")


async def keep(secret: KeptSecret, *, fence: Callable[[], None], written: asyncio.Event) -> None:
    """The lease holder's task: look after the Secret until cancelled; *written* is set after each good look."""
    while True:
        try:
            await secret.ensure(fence)
            written.set()
            pause = LOOK_EVERY
        except Conflict:
            pause = LOOK_FOR_MISSING_EVERY
        except ApiError as error:
            logger.warning("cannot look after the webhook's certificate: %s", error)
            pause = max(error.retry_after or 0.0, 5.0)
        await asyncio.sleep(pause)


async def show(source: CertificateSource, certificate: ServerCertificate, *, written: asyncio.Event) -> None:
    """Every replica's task: show what *source* has, looking again when *written* is set and now and then."""
    while True:
        written.clear()
        try:
            pair = await source.read()
            if pair is not None:
                await certificate.load(*pair)
        except ApiError as error:
            logger.warning("cannot read the webhook's certificate: %s", error)
        except ssl.SSLError as error:
            logger.error("the webhook's certificate is unusable, the last good one stays: %s", error)
        pause = LOOK_EVERY if certificate.loaded.is_set() else LOOK_FOR_MISSING_EVERY
        try:
            async with asyncio.timeout(pause):
                await written.wait()
        except TimeoutError:
            pass


def _data(secret: Mapping[str, Any]) -> dict[str, bytes]:
    return {key: _decoded(value) for key, value in (secret.get("data") or {}).items()}


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value)
    except binascii.Error:
        return b""
