"""Kubernetes Events on a cluster, for `kubectl describe`: one whenever the reason of its Ready condition changes.

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
    """Write an Event if the Ready condition's reason changed. Failing to is logged, and no failure of the round."""
    old, new = _condition(before, "Ready"), _condition(after, "Ready")
    if not new or new["reason"] == old.get("reason"):
        return
    metadata = cluster["metadata"]
    stalled = _condition(after, "Stalled").get("status") == "True"
    now = datetime.now(UTC)
    event = {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {
            "name": f"{metadata['name']}.{int(now.timestamp() * 1e6):x}",
            "namespace": metadata["namespace"],
        },
        "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": "Warning" if stalled else "Normal",
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


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = status.get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {})
