"""One round of one cluster: observe, plan, act, report. Holds nothing from one round to the next."""

from __future__ import annotations

import logging
import random
import textwrap
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from vectorizer_operator.controller.events import announce
from vectorizer_operator.controller.metrics import Metrics
from vectorizer_operator.controller.watches import ClusterKey
from vectorizer_operator.engines import Engines
from vectorizer_operator.kube.act import act, write_status
from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.errors import ApiError
from vectorizer_operator.kube.observe import internal_key, labelled_pods, observe
from vectorizer_operator.kube.resources import CLAIMS, SECRETS
from vectorizer_operator.plan import (
    Action,
    Apply,
    CreateSecret,
    Delete,
    ExpandVolume,
    Observed,
    PublishTopology,
    plan,
    pods_left_behind,
    with_failure,
)

logger = logging.getLogger(__name__)

RESYNC_EVERY = 600.0
"""Seconds after which a cluster is looked at even if nothing was heard of it: a watch that broke and was listed
again tells nothing about what was deleted meanwhile."""


LONGEST_WHY = 300
"""Characters of a reason in the log: a difference may show a whole file."""


class Reconciler:
    """Brings clusters to what they wish for. *fence* raises when this replica must not write any more."""

    def __init__(
        self,
        client: KubeClient,
        engines: Engines,
        *,
        default_image: str,
        fence: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._engines = engines
        self._default_image = default_image
        self._fence = fence
        self._metrics = metrics

    async def reconcile(self, key: ClusterKey) -> float | None:
        """One round. Returns the seconds after which the next one is due, None for a cluster that is gone."""
        with self._metrics.reconcile_seconds.time():
            observed = await observe(
                self._client, namespace=key.namespace, name=key.name, engines=self._engines
            )
            if observed is None:
                pods = await labelled_pods(self._client, namespace=key.namespace, cluster=key.name)
                await self._act(key, pods_left_behind(key.name, pods))
            if observed is None or "deletionTimestamp" in observed.cluster["metadata"]:
                self._metrics.gone(key)
                return None  # its children are the garbage collector's
            now = datetime.now(UTC)
            planned = plan(observed, now=now, default_image=self._default_image)
            try:
                await self._act(key, planned.actions, observed)
            except ApiError as error:
                if error.is_final:
                    failed = with_failure(planned, observed, message=str(error), now=now)
                    await self._report(key, observed, failed.status)
                raise
            await self._report(key, observed, planned.status)
        resync = RESYNC_EVERY * random.uniform(0.9, 1.1)
        return resync if planned.requeue_after is None else min(planned.requeue_after, resync)

    async def _act(self, key: ClusterKey, wanted: Iterable[Action], observed: Observed | None = None) -> None:
        """*observed* is needed for topologies only."""
        actions = tuple(wanted)
        for action in actions:
            kind, name = _target(action)
            why = textwrap.shorten(action.why, LONGEST_WHY)
            logger.info("%s: %s %s %s: %s", key, type(action).__name__, kind, name, why)
            self._metrics.actions.labels(type(action).__name__, kind).inc()

        async def tell(topology: PublishTopology) -> None:
            assert observed is not None, "only the engines of a cluster that is there are told"
            await self._engines.publish(topology, key=internal_key(observed))

        await act(self._client, actions, namespace=key.namespace, fence=self._fence, tell=tell)

    async def _report(self, key: ClusterKey, observed: Observed, status: dict[str, Any]) -> None:
        before = observed.cluster.get("status") or {}
        if status != before:
            self._fence()
            await write_status(self._client, observed.cluster, status)
            await announce(self._client, observed.cluster, before=before, after=status)
        self._metrics.reported(key, status)


def _target(action: Action) -> tuple[str, str]:
    match action:
        case Apply():
            return action.manifest["kind"], action.manifest["metadata"]["name"]
        case Delete():
            return action.kind, action.name
        case ExpandVolume():
            return CLAIMS.kind, action.name
        case CreateSecret():
            return SECRETS.kind, action.manifest["metadata"]["name"]
        case PublishTopology():
            return "Topology", str(action.version)
