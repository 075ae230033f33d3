"""When the local runner starts a container again, and when it calls one ready."""

import asyncio
import os
import signal
import socket

import pytest

from tests.local.runner.pods import (
    DEADLINE,
    PORT,
    Runner,
    loopback,
    pod,
    server,
    until,
)


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


@pytest.mark.parametrize(
    ("policy", "exit_code", "starts", "phase"),
    [
        ("Never", 3, 1, "Failed"),
        ("Never", 0, 1, "Succeeded"),
        ("OnFailure", 0, 1, "Succeeded"),
        ("OnFailure", 3, 2, None),
    ],
)
async def test_one_that_ends_is_started_again_as_its_restart_policy_says(
    runner: Runner, policy: str, exit_code: int, starts: int, phase: str | None
) -> None:
    command = ["python", "-I", "-S", "-c", f"raise SystemExit({exit_code})"]
    started = await runner.start(pod(server(command=command), restartPolicy=policy), backoff_seconds=600)
    if phase is None:
        await until(started, lambda state: state.restarts == starts - 1 and state.pid is None)
    else:
        state = await until(started, lambda state: state.phase == phase)
        assert (state.restarts, state.containers[0].exit_code) == (0, exit_code)
