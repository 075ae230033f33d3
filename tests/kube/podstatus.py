"""A pod's status as the kubelet would publish it, from the state of its processes."""

from datetime import UTC, datetime
from typing import Any

from tests.kube.api import Object
from vectorizer_operator.local.runner import ContainerState, PodState

HOST_IP = "127.0.0.1"


def pod_status(pod: Object, state: PodState) -> Object:
    """The status for `pod`, whose processes are in `state`; the time of a condition changes only with its status."""
    started = pod["status"].get("startTime", now())
    known = {condition["type"]: condition for condition in pod["status"].get("conditions") or ()}
    images = {container["name"]: container["image"] for container in pod["spec"]["containers"]}
    return {
        "phase": state.phase,
        "hostIP": HOST_IP,
        "podIP": state.address,
        "podIPs": [{"ip": state.address}],
        "startTime": started,
        "conditions": [
            _condition(known.get(name, {}), name, holds, reason)
            for name, holds, reason in (
                ("PodReadyToStartContainers", True, None),
                ("Initialized", True, None),
                ("ContainersReady", state.ready, "ContainersNotReady"),
                ("Ready", state.ready, "ContainersNotReady"),
            )
        ],
        "containerStatuses": [
            _container_status(container, images[container.name], ended=state.phase in ("Succeeded", "Failed"))
            for container in state.containers
        ],
    }


def waiting_status(pod: Object, *, address: str, reason: str, message: str) -> Object:
    """The status of a pod of which nothing could be started yet."""
    containers = tuple(
        ContainerState(name=container["name"], waiting=reason, message=message)
        for container in pod["spec"]["containers"]
    )
    return pod_status(pod, PodState(phase="Pending", address=address, ports={}, containers=containers))


def now() -> str:
    return _time(datetime.now(UTC).timestamp())


def _condition(known: Object, name: str, holds: bool, reason: str | None) -> Object:
    status = "True" if holds else "False"
    changed = known["lastTransitionTime"] if known.get("status") == status else now()
    return {
        "type": name,
        "status": status,
        "reason": None if holds else reason,
        "lastTransitionTime": changed,
    }


def _container_status(container: ContainerState, image: str, *, ended: bool) -> Object:
    status: dict[str, Any] = {
        "name": container.name,
        "image": image,
        "imageID": image,
        "ready": container.ready,
        "started": container.started,
        "restartCount": container.restarts,
    }
    terminated = {"terminated": _terminated(container)} if container.exit_code is not None else {}
    if container.running_since is not None:
        running = {"startedAt": _time(container.running_since)}
        return {**status, "state": {"running": running}, "lastState": terminated}
    if ended:
        return {**status, "state": terminated}
    waiting = {"reason": container.waiting or "ContainerCreating", "message": container.message}
    return {**status, "state": {"waiting": waiting}, "lastState": terminated}


def _terminated(container: ContainerState) -> Object:
    code = container.exit_code or 0
    # A shell and a container runtime report a signal as 128 and its number; Python as its negative.
    code = 128 - code if code < 0 else code
    return {"exitCode": code, "reason": "Error" if code else "Completed", "message": container.message}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
