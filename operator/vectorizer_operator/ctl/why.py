"""`vectorizerctl why`: what keeps a cluster from being as its spec wishes, since when, and what to do.

It reads the VectorizerCluster and nothing else: what the operator knows, it has written there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from vectorizer_operator.api.status import ConditionType
from vectorizer_operator.ctl.live import ask, asks_kubernetes
from vectorizer_operator.kube.resources import CLUSTERS
from vectorizer_operator.plan.reasons import REASONS

_WANTED = {
    ConditionType.STALLED: "False",
    ConditionType.RULES_HONOURED: "True",
    ConditionType.READY: "True",
    ConditionType.RECONCILING: "False",
    ConditionType.MEMORY_BUDGET_HONOURED: "True",
}
"""What each condition is where nothing is in the way; the one that tells most comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """One thing in the way. `conditions` are those that name it; `kind` is rule, predicate or state."""

    reason: str
    kind: str
    conditions: tuple[str, ...]
    since: str
    message: str
    meaning: str
    advice: str


@click.command("why")
@click.argument("name")
@asks_kubernetes
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def why_command(name: str, namespace: str | None, context: str | None, output: str) -> None:
    """Say what keeps the cluster NAME from being as its spec wishes: which rule or predicate, since when, what to do.

    Needs the right to get vectorizerclusters. Exit status: 0 nothing is in the way, 1 something is, 2 the question has
    no answer.
    """
    cluster = ask(
        lambda client, default: client.get(CLUSTERS, name, namespace=namespace or default), context=context
    )
    now = datetime.now(UTC)
    found = list(obstacles(cluster))
    if output == "json":
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        title = f"{cluster['metadata']['namespace']}/{name}"
        click.echo(
            "\n\n".join(_text(each, title, now) for each in found) or f"{title}: nothing is in the way"
        )
    sys.exit(1 if found else 0)


def obstacles(cluster: Mapping[str, Any]) -> Iterator[Obstacle]:
    """What *cluster*'s status says is in the way; conditions that say the same are one obstacle."""
    metadata, status = cluster["metadata"], cluster.get("status") or {}
    if status.get("observedGeneration", -1) < metadata["generation"]:
        yield _unseen(metadata)
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    wrong = [
        conditions[kind]
        for kind, wanted in _WANTED.items()
        if conditions.get(kind, {}).get("status") not in (None, wanted)
    ]
    for message in dict.fromkeys(condition["message"] for condition in wrong):
        same = [condition for condition in wrong if condition["message"] == message]
        reason = same[0]["reason"]
        known = REASONS.get(reason)
        yield Obstacle(
            reason=reason,
            kind=known.kind if known else "state",
            conditions=tuple(f"{each['type']}={each['status']}" for each in same),
            since=min(each["lastTransitionTime"] for each in same),
            message=message,
            meaning=known.meaning if known else "An operator of another release says so.",
            advice=known.advice if known else "Use the vectorizerctl of the operator's release.",
        )


def _unseen(metadata: Mapping[str, Any]) -> Obstacle:
    edits = [each["time"] for each in metadata.get("managedFields") or () if "subresource" not in each]
    return Obstacle(
        reason="NotSeenYet",
        kind="state",
        conditions=(),
        since=max(edits, default=metadata["creationTimestamp"]),
        message=f"the operator has not looked at generation {metadata['generation']} of the spec",
        meaning="The status is about an older spec, or there is none.",
        advice="Within a second the operator looks at every edit. If it does not: kubectl get pods "
        "--all-namespaces --selector app.kubernetes.io/name=vectorizer-operator, and their logs.",
    )


def _text(each: Obstacle, title: str, now: datetime) -> str:
    since = datetime.fromisoformat(each.since)
    age = timedelta(seconds=max(0, int((now - since).total_seconds())))
    lines = [
        f"{title}: {each.kind} {each.reason}, for {age} (since {each.since})",
        f"  says:  {each.message}",
        f"  means: {each.meaning}",
        f"  do:    {each.advice}",
    ]
    if each.conditions:
        lines.insert(1, f"  in:    {', '.join(each.conditions)}")
    return "\n".join(lines)
