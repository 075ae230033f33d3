"""The server's certificate, exchanged in place: connections that are open keep the old one, new ones get the new."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from vectorizer_operator.webhook.certificates import expires_at

logger = logging.getLogger(__name__)


class ServerCertificate:
    """An SSLContext for servers, and the certificate in it."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.loaded = asyncio.Event()
        """Set once there is a certificate to show."""
        self._shown: tuple[bytes, bytes] | None = None

    async def load(self, certificate: bytes, key: bytes) -> None:
        """Show *certificate* (PEM, with its chain) from now on. ssl.SSLError if it and *key* do not fit."""
        if (certificate, key) == self._shown:
            return
        await asyncio.to_thread(self._load, certificate, key)
        self._shown = (certificate, key)
        self.loaded.set()
        logger.info("the webhook shows a certificate that expires at %s", expires_at(certificate))

    def _load(self, certificate: bytes, key: bytes) -> None:
        # The ssl module reads files only. A pair that does not fit must not spoil the context that serves.
        descriptor, name = tempfile.mkstemp()
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(certificate + b"\n" + key)
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(name)
            self.context.load_cert_chain(name)
        finally:
            Path(name).unlink()

    @property
    def seconds_left(self) -> float | None:
        """Until the certificate shown expires, or None while there is none."""
        expires = expires_at(self._shown[0]) if self._shown else None
        return None if expires is None else (expires - datetime.now(UTC)).total_seconds()
