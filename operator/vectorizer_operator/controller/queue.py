"""Works keys off, a bounded number at once, for as long as this replica leads.

Adding is possible at any time and from any watch; `run` is only running while the Lease is held, and stops at once
when it is cancelled: what was being worked is due again for whoever leads next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from vectorizer_operator.controller.schedule import Schedule
from vectorizer_operator.kube.errors import ApiError, Conflict

logger = logging.getLogger(__name__)

CONCURRENT_ROUNDS = 8
"""Rounds at once. A round waits for the API server nearly all of its time."""

K = TypeVar("K", bound=Hashable)

Work = Callable[[K], Awaitable[float | None]]
"""Works one key; returns the seconds after which it wants to be worked again, or None."""


class ReconcileQueue(Generic[K]):
    """A `Schedule` on the event loop's clock."""

    def __init__(self, *, on_failure: Callable[[K, BaseException], None] = lambda key, error: None) -> None:
        self._schedule: Schedule[K] = Schedule()
        self._wake = asyncio.Event()
        self._on_failure = on_failure

    def add(self, key: K) -> None:
        """Something happened to *key*."""
        self._schedule.add(key, self._now())
        self._wake.set()

    async def run(self, work: Work[K]) -> None:
        """Work keys until cancelled."""
        async with asyncio.TaskGroup() as rounds:
            while True:
                self._wake.clear()
                while self._schedule.working < CONCURRENT_ROUNDS:
                    key = self._schedule.take(self._now())
                    if key is None:
                        break
                    rounds.create_task(self._round(key, work), name=f"round of {key}")
                await self._something_due()

    async def _something_due(self) -> None:
        due = self._schedule.next_due()
        # With every round busy, only one that ends is worth waking up for.
        busy = self._schedule.working >= CONCURRENT_ROUNDS
        try:
            async with asyncio.timeout_at(None if busy else due):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _round(self, key: K, work: Work[K]) -> None:
        try:
            again_after = await work(key)
        except asyncio.CancelledError:
            self._schedule.interrupted(key, self._now())
            raise
        except Exception as error:  # noqa: BLE001  one cluster's trouble must not stop the others
            retry_after = error.retry_after if isinstance(error, ApiError) else None
            delay = self._schedule.failed(key, self._now(), retry_after=retry_after)
            self._log(key, error, delay)
            self._on_failure(key, error)
        else:
            self._schedule.done(key, self._now(), again_after=again_after)
        finally:
            self._wake.set()

    @staticmethod
    def _log(key: K, error: Exception, delay: float) -> None:
        if isinstance(error, Conflict):
            logger.info("%s changed meanwhile, observing again in %.1f s: %s", key, delay, error)
        elif isinstance(error, ApiError):
            logger.warning("%s failed, trying again in %.1f s: %s", key, delay, error)
        else:
            logger.exception("%s failed, trying again in %.1f s", key, delay, exc_info=error)

    @property
    def depth(self) -> int:
        """How many keys are due and not being worked."""
        return self._schedule.depth(self._now())

    @property
    def longest_round(self) -> float:
        """Seconds for which the oldest of the rounds at work has been running."""
        return self._schedule.longest_round(self._now())

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
