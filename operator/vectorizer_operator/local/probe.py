"""HTTP probes of a container, asked the way the kubelet asks them.

Not for what follows from an answer: `runner.py` decides about readiness and restarts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from vectorizer_operator.local.launch import PodError


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An `httpGet` probe with Kubernetes' defaults filled in; times in seconds."""

    url: str
    headers: Mapping[str, str]
    initial_delay: float
    period: float
    timeout: float
    success_threshold: int
    failure_threshold: int

    @classmethod
    def parse(
        cls, spec: Mapping[str, Any], *, address: str, ports: Mapping[str | int, int], where: str
    ) -> "Probe":
        """Read a probe of a container's spec. Raises PodError when it is not httpGet or its port is unknown."""
        get = spec.get("httpGet")
        if get is None:
            raise PodError(f"{where}: only httpGet probes can be asked here, not {', '.join(spec)}")
        # An undeclared number is a port all the same; an undeclared name is nothing.
        port = ports.get(get["port"], get["port"])
        if not isinstance(port, int):
            raise PodError(f"{where}: probes port {port!r}, which the container does not declare")
        scheme = get.get("scheme", "HTTP").lower()
        return cls(
            url=f"{scheme}://{get.get('host', address)}:{port}{get.get('path', '/')}",
            headers={header["name"]: header["value"] for header in get.get("httpHeaders", ())},
            initial_delay=spec.get("initialDelaySeconds", 0),
            period=spec.get("periodSeconds", 10),
            timeout=spec.get("timeoutSeconds", 1),
            success_threshold=spec.get("successThreshold", 1),
            failure_threshold=spec.get("failureThreshold", 3),
        )

    async def ask(self, session: aiohttp.ClientSession) -> str | None:
        """None when the container is well, else what is wrong. Certificates are not checked, as in Kubernetes."""
        try:
            async with session.get(
                self.url,
                headers=self.headers,
                ssl=False,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self.timeout),
            ) as response:
                return None if response.status < 400 else f"GET {self.url} answered {response.status}"
        except TimeoutError:
            return f"GET {self.url} did not answer within {self.timeout:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return f"GET {self.url} failed: {error}"


def probing_session() -> aiohttp.ClientSession:
    """A session for probes: a connection each, so that none is open when the container wants to stop."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
