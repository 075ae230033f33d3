"""The status of a cluster, and its conditions as kstatus wants them.

lastTransitionTime moves when a condition's status changes and at no other time, so that a status which says nothing new
is equal to the one before, and is not written.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from vectorizer_operator.api.status import ConditionType

Verdict = tuple[bool | None, str, str]
"""A condition's status (None: unknown), reason and message."""


def conditions(
    verdicts: Mapping[ConditionType, Verdict],
    *,
    before: Mapping[str, Any],
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """One condition for each verdict; `before` is the status up to now."""
    previous = {condition["type"]: condition for condition in before.get("conditions") or ()}
    made = []
    for kind, (verdict, reason, message) in verdicts.items():
        status = "Unknown" if verdict is None else str(verdict)
        old = previous.get(kind.value, {})
        unchanged = old.get("status") == status
        made.append(
            {
                "type": kind.value,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if unchanged else timestamp(now),
                "reason": reason,
                "message": message,
            }
        )
    return made


def timestamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
