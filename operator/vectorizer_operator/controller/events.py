"""Kubernetes Events on a cluster, for `kubectl describe`: rolling out, ready, or held up and by what.

They follow a write of the status, so there are none while nothing happens, and none that repeats after a restart.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from vectorizer_operator.api import FIELD_MANAGER
from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.errors import ApiError
from vectorizer_operator.kube.resources import EVENTS

logger = logging.getLogger(__name__)

LONGEST_NOTE = 1024
"""Bytes that the API server takes."""


async def announce(
    client: KubeClient, cluster: Mapping[str, Any], *, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Write an Event if the cluster is in another state than before; failing to is no failure of the round."""
    state = _state(after)
    if state == _state(before):
        return
    metadata = cluster["metadata"]
    new = _condition(after, "Ready")
    now = datetime.now(UTC)
    event = {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {
            "name": f"{metadata['name']}.{int(now.timestamp() * 1e6):x}",
            "namespace": metadata["namespace"],
        },
        "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": "Warning" if state.startswith("Stalled") else "Normal",
        "reason": new["reason"][:128],
        "action": "Reconcile",
        "note": new["message"].encode()[:LONGEST_NOTE].decode(errors="ignore"),
        "regarding": {
            "apiVersion": cluster["apiVersion"],
            "kind": cluster["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "reportingController": f"vectorizer.io/{FIELD_MANAGER}",
        "reportingInstance": os.uname().nodename[:128],
    }
    try:
        await client.create(EVENTS, event)
    except ApiError as error:
        logger.warning("%s/%s: no Event written: %s", metadata["namespace"], metadata["name"], error)


def _state(status: Mapping[str, Any]) -> str:
    """What a person would call it: each step of a rollout is not another state, each reason to be stalled is."""
    ready, stalled = _condition(status, "Ready"), _condition(status, "Stalled")
    if stalled.get("status") == "True":
        return f"Stalled by {stalled['reason']}"
    return f"Ready {ready['status']}" if ready else ""


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = status.get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {})
