"""Clusters of small HTTP servers, for what the supervisor does with pods, whatever runs in them."""

import socket
from pathlib import Path
from typing import Any

from vectorizer_operator.local.control import Wish

SERVER = Path(__file__).parents[1] / "kube" / "httpd.py"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wish(name: str, *, port: int, replicas: int = 1, when_scaled: str = "Retain", **container: Any) -> Wish:
    """A StatefulSet of HTTP servers with a claim at /data, and one that all its pods share; `container` changes what
    runs in it."""
    server = {
        "name": "server",
        "command": ["python", "-I", "-S", str(SERVER)],
        "args": ["$(POD_IP)", str(port), "/data"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": port}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/etc/x"}],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 1,
            "timeoutSeconds": 10,
        },
        **container,
    }
    stateful_set = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": when_scaled},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [server],
                    "volumes": [
                        {"name": "config", "configMap": {"name": "config"}},
                        {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}},
                    ],
                },
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
        },
    }
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}, "data": {"a": "b"}}
    return Wish(name=name, objects=[config, stateful_set])
