"""What a pod of the local runner is given: addresses, files, variables. No Kubernetes here."""

import json
import socket
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.local.runner.pods import PORT, SERVER, Runner, environment, get, loopback, pod, server, until
from vectorizer_operator.local.runner import Inputs, PodError, PodProcess, free_port


async def test_a_pod_answers_at_its_own_address_and_is_ready_when_its_probe_says_so(runner: Runner) -> None:
    (runner.data / "readyz").write_text("503")
    started = await runner.start()
    state = await until(started, lambda state: "answered 503" in state.containers[0].message)
    assert (state.phase, state.ready) == ("Running", False)
    (runner.data / "readyz").unlink()
    state = await until(started, lambda state: state.ready)
    assert state.pid == runner.starts[0]
    assert await get(started, "hello") == ""


async def test_two_pods_listen_on_the_same_port(runner: Runner, tmp_path: Path) -> None:
    first = await runner.ready()
    second = PodProcess(
        pod(),
        address=loopback(),
        folder=tmp_path / "web-1",
        inputs=Inputs(claims={"data-web-0": runner.data}),
    )
    await second.start()
    try:
        await until(second, lambda state: state.ready)
        assert first.state.ports["http"] == second.state.ports["http"] == PORT
    finally:
        await second.stop()


async def test_config_maps_secrets_and_empty_folders_are_where_the_command_looks_for_them(
    runner: Runner,
) -> None:
    container = server(
        args=["$(POD_IP)", "8080", "/data"],
        env=[
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CONFIG", "value": "--config=/etc/web/config.yml"},
            {"name": "ONE_FILE", "value": "/etc/one.yml"},
            {"name": "KEY_FILE", "value": "/etc/web-secret/renamed/key"},
            {"name": "PROJECTED", "value": "/etc/projected"},
            {"name": "SCRATCH", "value": "/scratch"},
            {"name": "ELSEWHERE", "value": "/srv/etc/web /etc/webserver"},
        ],
        volumeMounts=[
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": "/etc/web"},
            {"name": "config", "mountPath": "/etc/one.yml", "subPath": "config.yml"},
            {"name": "secret", "mountPath": "/etc/web-secret/"},
            {"name": "projected", "mountPath": "/etc/projected"},
            {"name": "scratch", "mountPath": "/scratch"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "absent", "mountPath": "/etc/absent"},
        ],
    )
    spec = pod(container)
    spec["spec"]["volumes"] += [
        {"name": "config", "configMap": {"name": "web"}},
        {
            "name": "secret",
            "secret": {"secretName": "keys", "items": [{"key": "k", "path": "renamed/key"}]},
        },
        {
            "name": "projected",
            "projected": {
                "sources": [
                    {"secret": {"name": "keys", "items": [{"key": key, "path": f"{key}/key"}]}}
                    for key in "kl"
                ]
            },
        },
        {"name": "scratch", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "absent", "configMap": {"name": "absent", "optional": True}},
    ]
    inputs = Inputs(
        config_maps={"web": {"config.yml": "a: 1\n"}},
        secrets={"keys": {"k": b"\x00secret", "l": "another", "other": "no"}},
        claims={"data-web-0": runner.data},
    )
    env = await environment(await runner.ready(spec, inputs=inputs))
    assert Path(env["CONFIG"].removeprefix("--config=")).read_text() == "a: 1\n"
    assert Path(env["ONE_FILE"]).read_text() == "a: 1\n"
    key = Path(env["KEY_FILE"])
    assert key.read_bytes() == b"\x00secret"
    assert key.stat().st_mode & 0o077 == 0
    assert [path.name for path in key.parents[1].iterdir()] == ["renamed"]
    projected = Path(env["PROJECTED"])
    assert {path.name for path in projected.iterdir()} == {"k", "l"}
    assert (projected / "l" / "key").read_text() == "another"
    assert Path(env["SCRATCH"]).is_dir()
    assert Path(env["TMPDIR"]).is_dir() and env["TMPDIR"] != "/tmp"
    assert env["ELSEWHERE"] == "/srv/etc/web /etc/webserver", "only whole mount paths are rewritten"


async def test_variables_are_resolved_and_expanded_as_kubernetes_does(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VECTORIZER__CLUSTER__ENABLED", "UNSET"):
        monkeypatch.setenv(name, "of the shell that started the runner")
    fields = {
        "NAME": "metadata.name",
        "NAMESPACE": "metadata.namespace",
        "APP": "metadata.labels['app']",
        "NOTE": "metadata.annotations['note']",
        "ACCOUNT": "spec.serviceAccountName",
        "POD_IP": "status.podIP",
    }
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    env += [
        {"name": "FROM_MAP", "valueFrom": {"configMapKeyRef": {"name": "web", "key": "colour"}}},
        {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}},
        {"name": "UNSET", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": True}}},
        {"name": "EMPTY"},
        {"name": "URL", "value": "$(NAME).$(NAMESPACE)/$(LATER)/$$(NAME)/$(PATH)"},
        {"name": "LATER", "value": "1"},
    ]
    inputs = Inputs(
        config_maps={"web": {"colour": "red"}},
        secrets={"keys": {"k": b"s"}},
        claims={"data-web-0": runner.data},
    )
    started = await runner.ready(pod(server(env=env)), inputs=inputs, environment={"EXTRA": "given"})
    seen = await environment(started)
    assert {
        name: seen.get(name) for name in [*fields, "FROM_MAP", "FROM_SECRET", "UNSET", "EMPTY", "EXTRA"]
    } == {
        "NAME": "web-0",
        "NAMESPACE": "shop",
        "APP": "web",
        "NOTE": "hello",
        "ACCOUNT": "default",
        "POD_IP": started.address,
        "FROM_MAP": "red",
        "FROM_SECRET": "s",
        "UNSET": None,
        "EMPTY": "",
        "EXTRA": "given",
    }
    assert seen["URL"] == "web-0.shop/$(LATER)/$(NAME)/$(PATH)"
    assert "VECTORIZER__CLUSTER__ENABLED" not in seen, "a pod does not see the settings of its surroundings"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script in the place of a console script, which lies beside this Python."""

    def place(name: str, line: str) -> None:
        program = tmp_path / "bin" / name
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        program.with_name("python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
        monkeypatch.setattr(sys, "executable", str(program.with_name("python")))

    return place


async def test_the_engine_is_told_its_address_port_and_data_folder(
    runner: Runner, stand_in: Callable[[str, str], None]
) -> None:
    python = sys.executable
    stand_in(
        "vectorizer", f'exec {python} -IS {SERVER} "$VECTORIZER__SERVER__HOST" "$VECTORIZER__SERVER__PORT"'
    )
    container = server(
        command=["vectorizer"],
        args=["serve"],
        volumeMounts=[{"name": "data", "mountPath": "/var/lib/vectorizer"}],
        env=[{"name": "VECTORIZER__SERVER__HOST", "value": "0.0.0.0"}],
    )
    address = loopback()
    with socket.create_server((address, PORT)):
        started = await runner.ready(pod(container), address=address, ports_may_move=True)
    env = await environment(started)
    assert started.state.ports == {"http": PORT + 1, PORT: PORT + 1}
    assert env["VECTORIZER__SERVER__HOST"] == started.address
    assert env["VECTORIZER__SERVER__PORT"] == str(PORT + 1)
    assert env["VECTORIZER__STORAGE__PATH"] == str(runner.data)


async def test_the_engine_is_told_where_the_folder_of_its_objects_is_mounted(
    runner: Runner, stand_in: Callable[[str, str], None], tmp_path: Path
) -> None:
    stand_in("vectorizer", f'exec {sys.executable} -IS {SERVER} "$VECTORIZER__SERVER__HOST" {PORT}')
    container = server(
        command=["vectorizer"],
        args=["serve", "--config", "/etc/vectorizer/config.yml"],
        volumeMounts=[
            {"name": "config", "mountPath": "/etc/vectorizer"},
            {"name": "objects", "mountPath": "/objects"},
        ],
    )
    spec = pod(container)
    spec["spec"]["volumes"] = [
        {"name": "config", "configMap": {"name": "web"}},
        {"name": "objects", "persistentVolumeClaim": {"claimName": "shared"}},
    ]
    (shared := tmp_path / "shared #1").mkdir()
    config = "storage: {object_store: {url: file:///objects/search}}"
    inputs = Inputs(config_maps={"web": {"config.yml": config}}, claims={"shared": shared})
    env = await environment(await runner.ready(spec, inputs=inputs))
    assert env["VECTORIZER__STORAGE__OBJECT_STORE__URL"] == f"file://{tmp_path}/shared%20%231/search"


async def test_the_engine_keeps_its_own_port_and_folder_where_the_pod_says_neither(
    runner: Runner, stand_in: Callable[[str, str], None]
) -> None:
    stand_in("vectorizer", f'exec {sys.executable} -IS {SERVER} "$VECTORIZER__SERVER__HOST" {PORT}')
    probe = {"httpGet": {"path": "/", "port": PORT}}
    started = await runner.ready(
        pod(server(command=["vectorizer"], ports=[], volumeMounts=[], readinessProbe=probe))
    )
    with urllib.request.urlopen(f"http://{started.address}:{PORT}/env", timeout=5) as response:
        env = json.load(response)
    assert [name for name in env if name.startswith("VECTORIZER__")] == ["VECTORIZER__SERVER__HOST"]


async def test_the_operator_is_told_its_address(runner: Runner, stand_in: Callable[[str, str], None]) -> None:
    stand_in(
        "vectorizer-operator", f'exec {sys.executable} -IS {SERVER} "$VECTORIZER_OPERATOR_LISTEN" {PORT}'
    )
    started = await runner.ready(pod(server(command=["vectorizer-operator"], args=["run"])))
    assert (await environment(started))["VECTORIZER_OPERATOR_LISTEN"] == started.address


def test_free_port_is_the_wanted_one_else_the_next_that_is_free() -> None:
    address = loopback()
    assert free_port(address, PORT) == PORT
    with socket.create_server((address, PORT)), socket.create_server((address, PORT + 1)):
        assert free_port(address, PORT) == PORT + 2
    with (
        socket.create_server((address, 65535)),
        pytest.raises(PodError, match=f"65535 up is free at {address}"),
    ):
        free_port(address, 65535)
    with pytest.raises(OSError, match="assign requested address"):
        free_port("192.0.2.99", PORT)
