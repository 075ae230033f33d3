"""The runner of local pods: what it gives a process, when it restarts it, how it ends it. No Kubernetes here."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from vectorizer_operator.local.runner import Inputs, PodError, PodProcess, free_port

PORT = 8080
SERVER = Path(__file__).parents[1] / "kube" / "httpd.py"
DEADLINE = 20
"""Seconds after which something that should have happened has not; the machine may be busy."""


def loopback() -> str:
    """An address of its own for a pod of this run: other runs on this machine have others."""
    return f"127.{random.randint(1, 99)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


def server(**changes: Any) -> dict[str, Any]:
    """A container with the test server, its data at /data, asked every tenth of a second."""
    return {
        "name": "server",
        "image": "example.com/server:1",
        # Its text, since a path is rewritten like any other where the repository lies below a mount path (/tmp).
        "command": ["python", "-I", "-S", "-c", SERVER.read_text()],
        "args": ["$(POD_IP)", "8080", "/data"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 0.1},
        **changes,
    }


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "web-0",
            "namespace": "shop",
            "labels": {"app": "web"},
            "annotations": {"note": "hello"},
        },
        "spec": {
            "containers": list(containers) or [server()],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}],
            "terminationGracePeriodSeconds": 5,
            **spec,
        },
    }


class Runner:
    """Starts pods in a folder of the test and stops them after it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.data = folder / "claims" / "data-web-0"
        self.data.mkdir(parents=True)
        self._folder = folder
        self._stack = stack

    def pod(self, spec: dict[str, Any], **options: Any) -> PodProcess:
        options.setdefault("inputs", Inputs(claims={"data-web-0": self.data}))
        options.setdefault("address", loopback())
        options.setdefault("backoff_seconds", 0.1)
        return PodProcess(spec, folder=self._folder / "web-0", **options)

    async def start(self, spec: dict[str, Any] | None = None, **options: Any) -> PodProcess:
        started = self.pod(spec or pod(), **options)
        await started.start()
        self._stack.push_async_callback(started.stop, grace_seconds=0)
        return started

    async def ready(self, spec: dict[str, Any] | None = None, **options: Any) -> PodProcess:
        started = await self.start(spec, **options)
        await until(started, lambda state: state.ready)
        return started

    @property
    def starts(self) -> list[int]:
        """The process ids of all the times that the server was started."""
        return [int(line) for line in (self.data / "starts").read_text().split()]


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[Runner]:
    async with AsyncExitStack() as stack:
        yield Runner(tmp_path, stack)


async def until(started: PodProcess, condition: Callable[..., bool]) -> Any:
    try:
        async with asyncio.timeout(DEADLINE):
            return await started.wait(condition)
    except TimeoutError:
        log = started.log().read_text() if started.log().exists() else "no log"
        raise AssertionError(f"not so within {DEADLINE} s: {started.state}\n{log}") from None


async def get(started: PodProcess, path: str) -> str:
    def fetch() -> str:
        url = f"http://{started.address}:{started.state.ports['http']}/{path}"
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())

    return await asyncio.to_thread(fetch)


async def environment(started: PodProcess) -> dict[str, str]:
    return dict(json.loads(await get(started, "env")))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while alive(pid):
            await asyncio.sleep(0.01)


# What a pod is given


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
            {"name": "SCRATCH", "value": "/scratch"},
            {"name": "ELSEWHERE", "value": "/srv/etc/web /etc/webserver"},
        ],
        volumeMounts=[
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": "/etc/web"},
            {"name": "config", "mountPath": "/etc/one.yml", "subPath": "config.yml"},
            {"name": "secret", "mountPath": "/etc/web-secret/"},
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
        {"name": "scratch", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "absent", "configMap": {"name": "absent", "optional": True}},
    ]
    inputs = Inputs(
        config_maps={"web": {"config.yml": "a: 1\n"}},
        secrets={"keys": {"k": b"\x00secret", "other": "no"}},
        claims={"data-web-0": runner.data},
    )
    env = await environment(await runner.ready(spec, inputs=inputs))
    assert Path(env["CONFIG"].removeprefix("--config=")).read_text() == "a: 1\n"
    assert Path(env["ONE_FILE"]).read_text() == "a: 1\n"
    key = Path(env["KEY_FILE"])
    assert key.read_bytes() == b"\x00secret"
    assert key.stat().st_mode & 0o077 == 0
    assert [path.name for path in key.parents[1].iterdir()] == ["renamed"]
    assert Path(env["SCRATCH"]).is_dir()
    assert Path(env["TMPDIR"]).is_dir() and env["TMPDIR"] != "/tmp"
    assert env["ELSEWHERE"] == "/srv/etc/web /etc/webserver", "only whole mount paths are rewritten"


async def test_variables_are_resolved_and_expanded_as_kubernetes_does(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTORIZER__CLUSTER__ENABLED", "of the shell that started the runner")
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


# Restarts


async def test_a_killed_container_is_started_again_at_once_and_keeps_its_data_and_log(runner: Runner) -> None:
    started = await runner.ready(backoff_seconds=60)
    (runner.data / "kept").write_text("204")
    os.kill(runner.starts[0], signal.SIGKILL)
    state = await until(started, lambda state: state.restarts == 1 and state.ready)
    assert len(runner.starts) == 2
    assert state.pid == runner.starts[1]
    assert state.containers[0].exit_code == -signal.SIGKILL
    assert (runner.data / "kept").exists()


async def test_one_that_keeps_ending_waits_longer_each_time(runner: Runner) -> None:
    started = await runner.start(pod(server(command=["python", "-I", "-S", "-c", "raise SystemExit(3)"])))
    waits: list[float] = []
    for restart in range(4):
        state = await until(started, lambda state, n=restart: state.restarts == n and state.pid is None)
        assert state.phase in ("Pending", "Running")
        began = asyncio.get_running_loop().time()
        await until(started, lambda state, n=restart: state.restarts == n + 1)
        waits.append(asyncio.get_running_loop().time() - began)
    assert started.state.containers[0].exit_code == 3
    assert waits[2] >= 0.2, "0.1 s, doubled"
    assert waits[3] >= 0.4, "and doubled again"


async def test_one_that_waits_in_back_off_says_so_and_can_be_stopped(runner: Runner) -> None:
    started = await runner.start(
        pod(server(command=["python", "-I", "-S", "-c", "raise SystemExit(3)"])), backoff_seconds=600
    )
    state = await until(started, lambda state: state.containers[0].waiting == "CrashLoopBackOff")
    assert (state.restarts, state.phase, state.ready) == (1, "Running", False)
    async with asyncio.timeout(DEADLINE):
        await started.stop()
    assert started.state.phase == "Failed"


async def test_running_well_for_long_forgets_the_back_off(runner: Runner) -> None:
    """Long is sixty back-offs; with one of 1 ms the server takes longer than that to become ready."""
    reasons = set()
    started = await runner.ready(
        backoff_seconds=0.001, on_change=lambda started: reasons.add(started.state.containers[0].waiting)
    )
    for restart in range(1, 4):
        os.kill(runner.starts[-1], signal.SIGKILL)
        await until(started, lambda state, n=restart: state.restarts == n and state.ready)
    assert reasons == {None}


async def test_a_failing_liveness_probe_restarts_the_container(runner: Runner) -> None:
    startup = {"httpGet": {"path": "/", "port": PORT}}
    probe = {"httpGet": {"path": "/livez", "port": PORT}, "periodSeconds": 0.05, "failureThreshold": 2}
    messages = set()
    started = await runner.ready(
        pod(server(livenessProbe=probe, startupProbe=startup)),
        on_change=lambda started: messages.add(started.state.containers[0].message),
    )
    (runner.data / "livez").write_text("500")
    await until(started, lambda state: state.restarts == 1)
    (runner.data / "livez").unlink()
    await until(started, lambda state: state.ready)
    assert f"liveness probe: GET http://{started.address}:{PORT}/livez answered 500" in messages


async def test_a_startup_probe_holds_back_the_others_and_restarts_what_never_starts(runner: Runner) -> None:
    (runner.data / "startz").write_text("503")
    startup = {"httpGet": {"path": "/startz", "port": "http"}, "periodSeconds": 0.5, "failureThreshold": 2}
    liveness = {"httpGet": {"path": "/startz", "port": "http"}, "periodSeconds": 0.01, "failureThreshold": 1}
    began = asyncio.get_running_loop().time()
    started = await runner.start(pod(server(startupProbe=startup, livenessProbe=liveness)))
    state = await until(started, lambda state: state.restarts == 1)
    assert asyncio.get_running_loop().time() - began >= 1.0, "failureThreshold periods"
    assert "startup probe: GET " in state.containers[0].message
    assert not state.containers[0].started
    (runner.data / "startz").unlink()
    await until(started, lambda state: state.ready)


async def test_readiness_is_lost_after_the_threshold_and_comes_back_without_a_restart(runner: Runner) -> None:
    started = await runner.ready()
    (runner.data / "readyz").write_text("404")
    state = await until(started, lambda state: not state.ready)
    assert "readiness probe: GET " in state.containers[0].message
    (runner.data / "readyz").unlink()
    state = await until(started, lambda state: state.ready)
    assert state.restarts == 0


async def test_a_probe_that_hangs_fails_after_its_timeout(runner: Runner) -> None:
    """The server accepts and never answers: a listening socket whose queue nobody reads."""
    address = loopback()
    with socket.create_server((address, PORT)):
        probe = {"httpGet": {"path": "/", "port": PORT}, "timeoutSeconds": 0.1, "periodSeconds": 0.1}
        idle = server(command=["python", "-c", "import time; time.sleep(60)"], readinessProbe=probe)
        started = await runner.start(pod(idle), address=address)
        await until(started, lambda state: "did not answer within 0.1 s" in state.containers[0].message)


async def test_without_probes_a_running_container_is_ready(runner: Runner) -> None:
    container = server()
    del container["readinessProbe"]
    started = await runner.ready(pod(container))
    assert started.state.containers[0].started


async def test_a_pod_is_ready_when_all_its_containers_are(runner: Runner) -> None:
    sidecar = server(name="sidecar", args=["$(POD_IP)", "8081"], ports=[{"containerPort": 8081}])
    sidecar["readinessProbe"] = {"httpGet": {"path": "/", "port": 8081}}
    (runner.data / "readyz").write_text("503")
    started = await runner.start(pod(server(), sidecar))
    await until(started, lambda state: state.containers[1].ready)
    assert not started.state.ready
    (runner.data / "readyz").unlink()
    await until(started, lambda state: state.ready)
    assert started.log("sidecar") != started.log()


async def test_a_command_that_cannot_start_is_tried_again_with_the_reason_in_its_state(
    runner: Runner,
) -> None:
    work = runner.data / "not-there-yet"
    started = await runner.start(pod(server(workingDir="/data/not-there-yet")))
    state = await until(started, lambda state: state.restarts == 2)
    assert state.containers[0].exit_code == 128
    assert "not-there-yet" in state.containers[0].message
    work.mkdir()
    await until(started, lambda state: state.ready)


# The end


async def test_stop_asks_first_and_leaves_nothing_running(runner: Runner) -> None:
    started = await runner.ready()
    child = int(await get(started, "spawn"))
    assert alive(child)
    async with asyncio.timeout(DEADLINE):
        await started.stop()
    assert started.state.phase == "Succeeded", "the server exits 0 on SIGTERM"
    assert started.state.pid is None
    assert not alive(runner.starts[0])
    await gone(child)


async def test_what_ignores_sigterm_is_killed_after_the_grace_period(runner: Runner) -> None:
    (runner.data / "ignore-sigterm").touch()
    started = await runner.ready(pod(terminationGracePeriodSeconds=0.3))
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(DEADLINE):
        await started.stop()
    assert asyncio.get_running_loop().time() - began >= 0.3
    assert started.state.phase == "Failed"
    assert started.state.containers[0].exit_code == -signal.SIGKILL


async def test_a_second_stop_can_shorten_the_grace_period(runner: Runner) -> None:
    (runner.data / "ignore-sigterm").touch()
    started = await runner.ready(pod(terminationGracePeriodSeconds=600))
    patient = asyncio.create_task(started.stop())
    await until(started, lambda state: state.ready)
    async with asyncio.timeout(DEADLINE):
        await started.stop(grace_seconds=0)
        await patient


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent's life")
async def test_containers_die_with_a_supervisor_that_is_killed(runner: Runner, tmp_path: Path) -> None:
    script = f"""
    import asyncio, pathlib
    from vectorizer_operator.local.runner import Inputs, PodProcess

    async def main():
        pod = PodProcess({pod()!r}, address={loopback()!r}, folder=pathlib.Path({str(tmp_path / "p")!r}),
                         inputs=Inputs(claims={{"data-web-0": pathlib.Path({str(runner.data)!r})}}))
        await pod.start()
        await pod.wait(lambda state: state.ready)
        print(pod.state.pid, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
    """
    supervisor = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    with supervisor:
        pid = int(await asyncio.to_thread(supervisor.stdout.readline))
        assert alive(pid)
        supervisor.kill()
    await gone(pid)


# What is refused


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
        ({"restartPolicy": "Never"}, "restartPolicy is 'Never'; a local pod is restarted Always"),
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
