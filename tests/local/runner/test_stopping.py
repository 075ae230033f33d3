"""How pods of the local runner end, and that nothing outlives them."""

import asyncio
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.local.runner.pods import (
    DEADLINE,
    Runner,
    alive,
    get,
    gone,
    loopback,
    pod,
    until,
)


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
