"""Leader election: of all replicas, the holder of one Lease works.

What must stay true:
- The holder stops at once when it has not renewed for `RENEW_DEADLINE`, which is shorter than the Lease, so that
  it has stopped before another replica may take over. `still_held` answers by the clock, so that a process that
  was frozen for a minute does not write when it wakes up, before the task that renews has run.
- Nobody's wall clock matters: a replica judges a Lease by how long *it* has seen it unchanged.
- A clean stop releases the Lease, after the work has stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vectorizer_operator.kube.client import KubeClient, Object
from vectorizer_operator.kube.errors import ApiError, Conflict, NotFound
from vectorizer_operator.kube.resources import LEASES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Seconds. A Lease that nobody renewed for `duration` is free."""

    duration: int = 30
    renew_every: float = 10.0
    renew_deadline: float = 20.0
    retry_every: float = 2.0


class NotLeading(Exception):
    """Something was to be written after the Lease was lost."""


class Lease:
    """One replica's part in the election for the Lease *name*."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes = LeaseTimes(),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._clock = clock or asyncio.get_running_loop().time
        self._held: Object | None = None
        self._renewed_at = 0.0
        self._seen_version: str | None = None
        self._seen_at = 0.0

    @property
    def still_held(self) -> bool:
        """Whether this replica may write now."""
        return self._held is not None and self._clock() < self._renewed_at + self._times.renew_deadline

    def fence(self) -> None:
        """Raises NotLeading unless this replica may write now: to be called right before each write."""
        if not self.still_held:
            raise NotLeading(f"{self._identity} does not hold the Lease {self._namespace}/{self._name}")

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Compete for the Lease until cancelled, and run *work* whenever it is held.

        *work* is cancelled when the Lease is lost. If it ends by itself, it failed: what it raised is raised here.
        """
        try:
            while True:
                await self._acquire()
                logger.info("leading: %s holds the Lease %s/%s", self._identity, self._namespace, self._name)
                working = asyncio.ensure_future(work())
                renewing = asyncio.ensure_future(self._renew_while_possible())
                try:
                    await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    renewing.cancel()
                    working.cancel()
                    await asyncio.wait({working})
                if not working.cancelled():
                    working.result()
                logger.warning("no longer leading: lost the Lease %s/%s", self._namespace, self._name)
        finally:
            await self._release()

    async def _acquire(self) -> None:
        while True:
            started = self._clock()
            try:
                self._held = await self._try_to_take()
            except ApiError as error:
                logger.warning("cannot read or take the Lease: %s", error)
            if self._held is not None:
                self._renewed_at = started
                return
            await asyncio.sleep(self._times.retry_every)

    async def _try_to_take(self) -> Object | None:
        try:
            lease = await self._client.get(LEASES, self._name, namespace=self._namespace)
        except NotFound:
            metadata = {"name": self._name, "namespace": self._namespace}
            fresh = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": {}}
            with suppress(Conflict):  # another replica was faster
                return await self._client.create(LEASES, self._record(fresh, transitions=0))
            return None
        if not self._is_free(lease):
            return None
        transitions = int(lease["spec"].get("leaseTransitions") or 0) + 1
        with suppress(Conflict):
            return await self._client.replace(LEASES, self._record(lease, transitions=transitions))
        return None

    def _is_free(self, lease: Object) -> bool:
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen_version:
            self._seen_version, self._seen_at = version, self._clock()
        if not lease["spec"].get("holderIdentity"):
            return True
        duration = lease["spec"].get("leaseDurationSeconds") or self._times.duration
        return self._clock() - self._seen_at > duration

    async def _renew_while_possible(self) -> None:
        """Returns when the Lease is lost."""
        try:
            while True:
                # No answer by the deadline is as good as a lost Lease, however long the request may still take.
                async with asyncio.timeout(self._renewed_at + self._times.renew_deadline - self._clock()):
                    await asyncio.sleep(self._times.renew_every)
                    renewed = await self._renew()
                    while not renewed:
                        await asyncio.sleep(self._times.retry_every)
                        renewed = await self._renew()
        except TimeoutError:
            logger.error("the Lease could not be renewed for %g s", self._times.renew_deadline)
        except Conflict as error:
            logger.error("the Lease was taken: %s", error)
        self._held = None

    async def _renew(self) -> bool:
        """Whether it went well. Raises Conflict when somebody else holds the Lease."""
        assert self._held is not None
        started = self._clock()
        try:
            self._held = await self._client.replace(LEASES, self._record(self._held))
        except (Conflict, NotFound) as error:
            lease = await self._reread()
            if lease is None or lease["spec"].get("holderIdentity") != self._identity:
                raise Conflict("Lease", 409, "Lost", str(error)) from error
            self._held = lease
            return False
        except ApiError as error:
            logger.warning("cannot renew the Lease: %s", error)
            return False
        self._renewed_at = started
        return True

    async def _reread(self) -> Object | None:
        with suppress(ApiError):
            return await self._client.get(LEASES, self._name, namespace=self._namespace)
        return None

    async def _release(self) -> None:
        if self._held is None:
            return
        lease, self._held = self._held, None
        lease["spec"]["holderIdentity"] = ""
        lease["spec"]["leaseDurationSeconds"] = 1
        try:
            await self._client.replace(LEASES, lease)
        except ApiError as error:
            logger.warning("cannot release the Lease, it will run out: %s", error)
        else:
            logger.info("released the Lease")

    def _record(self, lease: Object, *, transitions: int | None = None) -> Object:
        """*lease* as held by us from now on; with *transitions*, as newly acquired."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec: dict[str, Any] = {
            **lease["spec"],
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._times.duration,
            "renewTime": now,
        }
        if transitions is not None:
            spec |= {"acquireTime": now, "leaseTransitions": transitions}
        return {**lease, "spec": spec}
