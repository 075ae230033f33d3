"""What a pod's object says about it, in the words of a rollout."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vectorizer_operator.api.constants import CONTAINER, PORT_NAME
from vectorizer_operator.plan.model import Object

REVISION_LABEL = "controller-revision-hash"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the cluster. `revision` names the pod template that it was made from."""

    object: Object

    @property
    def name(self) -> str:
        name: str = self.object["metadata"]["name"]
        return name

    @property
    def ordinal(self) -> int:
        tail = self.name.rpartition("-")[2]
        return int(tail) if tail.isdecimal() else -1

    @property
    def revision(self) -> str | None:
        revision: str | None = self.object["metadata"].get("labels", {}).get(REVISION_LABEL)
        return revision

    @property
    def terminating(self) -> bool:
        return "deletionTimestamp" in self.object["metadata"]

    @property
    def ready(self) -> bool:
        """Whether it answers requests, and is to go on doing so."""
        return not self.terminating and self._condition("Ready").get("status") == "True"

    @property
    def image(self) -> str | None:
        for container in self.object["spec"]["containers"]:
            if container["name"] == CONTAINER:
                image: str = container["image"]
                return image
        return None

    @property
    def port(self) -> int | None:
        """Where the engine listens."""
        for container in self.object["spec"]["containers"]:
            for port in container.get("ports", ()):
                if container["name"] == CONTAINER and port.get("name") == PORT_NAME:
                    number: int = port["containerPort"]
                    return number
        return None

    @property
    def ip(self) -> str | None:
        """Its address, once it has one."""
        ip: str | None = self.object.get("status", {}).get("podIP")
        return ip

    @property
    def address(self) -> str:
        """HOST:PORT of its engine."""
        host = f"[{self.ip}]" if self.ip and ":" in self.ip else self.ip
        return f"{host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether its engine's process runs."""
        statuses = self.object.get("status", {}).get("containerStatuses", ())
        return any(each["name"] == CONTAINER and "running" in each.get("state", {}) for each in statuses)

    @property
    def changed(self) -> datetime:
        """When it began or ceased to answer, was made, or has to be gone."""
        metadata = self.object["metadata"]
        answered = self._condition("Ready").get("lastTransitionTime")
        since = metadata.get("deletionTimestamp") or answered or metadata["creationTimestamp"]
        return datetime.fromisoformat(since)

    def trouble(self) -> str:
        """Why it is not ready, as far as its status tells."""
        if self.terminating:
            return "is stopping"
        scheduled = self._condition("PodScheduled")
        if scheduled.get("status") == "False":
            return (
                f"cannot be scheduled: {scheduled.get('message', scheduled.get('reason', 'no reason given'))}"
            )
        for status in self.object.get("status", {}).get("containerStatuses", ()):
            waiting = status.get("state", {}).get("waiting")
            if waiting:
                detail = waiting.get("message")
                return f"waits: {waiting.get('reason')}" + (f": {detail}" if detail else "")
            terminated = status.get("state", {}).get("terminated")
            if terminated:
                return f"stopped with exit code {terminated.get('exitCode')}"
        return "does not answer its readiness probe yet"

    def _condition(self, kind: str) -> dict[str, Any]:
        conditions = self.object.get("status", {}).get("conditions", ())
        return next((condition for condition in conditions if condition["type"] == kind), {})
