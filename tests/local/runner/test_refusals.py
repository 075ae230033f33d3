"""Pods that the local runner cannot honour are refused by name."""

from typing import Any

import pytest

from tests.local.runner.pods import Runner, pod, server
from vectorizer_operator.local.runner import Inputs, PodError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": []}, "container server: has no command; a local process cannot ask the image"),
        ({"command": ["no-such-program"]}, "command 'no-such-program' is neither beside .* nor on PATH"),
        ({"lifecycle": {}, "envFrom": []}, "envFrom, lifecycle cannot be honoured by a local process"),
        (
            {"volumeMounts": [{"name": "x", "mountPath": "/x"}]},
            "mounts volume 'x', which the pod does not have",
        ),
        ({"livenessProbe": {"exec": {}}}, "livenessProbe: only httpGet probes can be asked here, not exec"),
        (
            {"startupProbe": {"httpGet": {"port": "no"}}},
            "startupProbe: probes port 'no', which the container",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.x"}}}]},
            "fieldPath 'status.x' is unknown here; known are metadata.name, ",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {}}}]},
            "valueFrom resourceFieldRef cannot be honoured",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            "needs key 'k' of the secret 's': not found",
        ),
    ],
)
async def test_a_container_that_cannot_be_honoured_is_refused_by_name(
    runner: Runner, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PodError, match=f"^pod web-0, {'.*' if 'Probe' in message else ''}.*{message}"):
        await runner.start(pod(server(**change)))


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (
            {"hostPath": {"path": "/"}},
            "volume 'data' is of kind hostPath; a local process can have configMap, ",
        ),
        ({"persistentVolumeClaim": {"claimName": "no"}}, "needs the persistent volume claim 'no': not found"),
        ({"configMap": {"name": "no"}}, "needs the config map 'no': not found"),
        ({"projected": {"sources": [{"secret": {"name": "no"}}]}}, "needs the secret 'no': not found"),
        ({"projected": {"sources": [{"downwardAPI": {}}]}}, "volume 'data' is of kind projected"),
        (
            {"secret": {"secretName": "s", "items": [{"key": "no", "path": "p"}]}},
            "needs key 'no' of the secret 's', which it does not have",
        ),
    ],
)
async def test_a_volume_that_cannot_be_made_is_refused_by_name(
    runner: Runner, volume: dict[str, Any], message: str
) -> None:
    spec = pod(volumes=[{"name": "data", **volume}])
    with pytest.raises(PodError, match=message):
        await runner.start(spec, inputs=Inputs(secrets={"s": {"k": "v"}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initContainers": [{}]}, "initContainers cannot be run as local processes"),
        ({"restartPolicy": "Once"}, "restartPolicy is 'Once'; expected Always, OnFailure, Never"),
    ],
)
async def test_a_pod_that_cannot_be_honoured_is_refused_before_anything_starts(
    runner: Runner, change: dict[str, Any], message: str
) -> None:
    refused = runner.pod(pod(**change))
    with pytest.raises(PodError, match=message):
        await refused.start()
    state = refused.state
    assert (state.phase, state.ready, state.pid) == ("Pending", False, None)
    await refused.stop()
