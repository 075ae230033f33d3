"""`vectorizer-operator run` as a command: what it says when it cannot start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kube.controlplane import ControlPlane

PROGRAM = Path(sys.executable).with_name("vectorizer-operator")
REQUIRED = ("--operator-namespace=x", "--default-image=x", "--webhook-host=x.x.svc", "--listen=127.0.0.1")


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("KUBE", "POD"))}
    return subprocess.run(
        [str(PROGRAM), "run", *arguments], env=inherited | environ, capture_output=True, text=True, timeout=60
    )


def test_without_an_api_server_configured_it_says_where_it_looked(tmp_path: Path) -> None:
    done = run(*REQUIRED, KUBECONFIG=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no API server to connect to: ")
    assert "$KUBECONFIG" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["clusters: [", "text", "clusters: text", None])
def test_a_malformed_kubeconfig_is_one_clear_line(tmp_path: Path, content: str | None) -> None:
    kubeconfig = tmp_path / "config"
    if content is None:
        kubeconfig.mkdir()
    else:
        kubeconfig.write_text(content)
    done = run(*REQUIRED, KUBECONFIG=str(kubeconfig))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no API server to connect to: ")
    assert "$KUBECONFIG" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--health-port", "--webhook-port"])
def test_a_taken_port_is_one_clear_line(control_plane: ControlPlane, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        ports = {"--health-port": other.getsockname()[1], "--webhook-port": other.getsockname()[1]}
        other.close()
        ports[option] = taken.getsockname()[1]
        done = run(
            *REQUIRED,
            *(f"{name}={port}" for name, port in ports.items()),
            KUBECONFIG=str(control_plane.kubeconfig),
        )
    assert done.returncode == 1
    assert "Error: cannot listen: " in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["--operator-namespace", "--default-image", "--webhook-host"])
def test_what_it_cannot_do_without_is_asked_for(missing: str) -> None:
    done = run(*(each for each in REQUIRED if not each.startswith(missing)))
    assert done.returncode == 2
    assert f"Missing option '{missing}'" in done.stderr
