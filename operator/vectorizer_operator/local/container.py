"""One container as a local process: its probes, its restarts and its end, by the kubelet's rules.

Not for pods (`runner.py`) and not for what is run (`launch.py`).
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import aiohttp

from vectorizer_operator.local.launch import Launch
from vectorizer_operator.local.probe import Probe, probing_session

BACKOFF_SECONDS = 10.0
"""Kubernetes' first back-off; it doubles up to 30 times this, and running well for 60 times this forgets it."""

_EAGER_SECONDS = 0.2
"""A container that is not ready is asked this often, so that nobody waits a period once it is."""

_START_ERROR = 128
"""The exit code Kubernetes reports for a container that could not be started."""

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, which exec keeps
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this one is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def dying_with_parent(argv: Sequence[str]) -> list[str]:
    """`argv`, so that the kernel kills the process when the thread that started it ends (Linux; else unchanged).

    A wrapper command that execs, because `preexec_fn` is unsafe in a process with threads. argv[0] is a path.
    """
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *argv]


@dataclass(frozen=True, kw_only=True)
class ContainerState:
    """One container as seen now. `waiting` says why it does not run, `message` what went wrong last."""

    name: str
    ready: bool = False
    started: bool = False
    restarts: int = 0
    pid: int | None = None
    running_since: float | None = None  # seconds since the epoch
    exit_code: int | None = None  # of the run before; negative: the signal that ended it
    waiting: str | None = "ContainerCreating"
    message: str = ""


class ContainerProcess:
    """Keeps one container running from `run()` until `stop()`; `on_change` is called after each change of `state`."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        prepared: Launch,
        *,
        pod: str,
        address: str,
        log: Path,
        grace_seconds: float,
        backoff_seconds: float,
        restarts: Callable[[int], bool],
        on_change: Callable[[], None],
    ) -> None:
        """`restarts` says whether to run again after an exit code. Raises PodError for a probe that cannot be asked."""
        self.state = ContainerState(name=spec["name"])
        self._launch = prepared
        self._log = log
        self._grace_seconds = grace_seconds
        self._backoff_seconds = backoff_seconds
        self._restarts = restarts
        self._on_change = on_change
        self._stopping = asyncio.Event()
        self._process: Process | None = None
        self._startup, self._liveness, self._readiness = (
            Probe.parse(
                spec[kind],
                address=address,
                ports=prepared.ports,
                where=f"pod {pod}, container {spec['name']}, {kind}",
            )
            if kind in spec
            else None
            for kind in ("startupProbe", "livenessProbe", "readinessProbe")
        )

    async def run(self) -> None:
        """Run the container, again and again, until it is told to stop or has done what it was for."""
        crashes = 0
        while True:
            began = time.monotonic()
            await self._run_once()
            if self._stopping.is_set() or not self._restarts(self.state.exit_code or 0):
                return
            if time.monotonic() - began > 60 * self._backoff_seconds:
                crashes = 0
            if crashes:
                delay = self._backoff_seconds * min(2 ** (crashes - 1), 30)
                self._set(waiting="CrashLoopBackOff")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                    return
            crashes += 1
            self._set(restarts=self.state.restarts + 1)

    def stop(self, grace_seconds: float | None) -> None:
        """Ask for the end: SIGTERM now, SIGKILL after the grace period. `run()` returns when it has come."""
        if grace_seconds is not None:
            self._grace_seconds = grace_seconds
        self._stopping.set()
        asyncio.get_running_loop().call_later(self._grace_seconds, self._kill)

    async def _run_once(self) -> None:
        try:
            process = await self._spawn()
        except OSError as error:
            self._set(exit_code=_START_ERROR, waiting="RunContainerError", message=str(error))
            return
        self._process = process
        self._set(pid=process.pid, running_since=time.time(), waiting=None)
        exited = asyncio.create_task(process.wait())
        try:
            await self._watch(exited)
            if not exited.done():
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                timer = asyncio.get_running_loop().call_later(self._grace_seconds, self._kill)
                await exited
                timer.cancel()
        finally:
            self._kill()  # what the first process left behind ends with it, as in a container
            self._process = None
        self._set(ready=False, started=False, pid=None, running_since=None, exit_code=process.returncode)

    async def _spawn(self) -> Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *dying_with_parent(self._launch.argv),
                env=self._launch.env,
                cwd=self._launch.cwd,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _kill(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _watch(self, exited: asyncio.Task[int]) -> None:
        """Ask the probes until the process has ended, is to be stopped, or is given up."""
        async with probing_session() as session:
            started = asyncio.Event()
            watchers: list[asyncio.Task[Any]] = [
                asyncio.create_task(self._stopping.wait()),
                asyncio.create_task(self._until_unhealthy(session, started)),
                asyncio.create_task(self._follow_readiness(session, started)),
            ]
            try:
                done, _ = await asyncio.wait([exited, *watchers], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in watchers:
                    task.cancel()
                await asyncio.wait(watchers)
            for task in done:
                task.result()

    async def _until_unhealthy(self, session: aiohttp.ClientSession, started: asyncio.Event) -> None:
        """Return when the startup or liveness probe has failed for good; without one, never."""
        if (probe := self._startup) is not None:
            await asyncio.sleep(probe.initial_delay)
            deadline = time.monotonic() + probe.period * probe.failure_threshold
            while problem := await probe.ask(session):
                self._set(message=f"startup probe: {problem}")
                if time.monotonic() > deadline:
                    return
                await asyncio.sleep(min(probe.period, _EAGER_SECONDS))
        started.set()
        self._set(started=True)
        if (probe := self._liveness) is None:
            await _forever()
        await asyncio.sleep(probe.initial_delay)
        failures = 0
        while failures < probe.failure_threshold:
            if problem := await probe.ask(session):
                failures += 1
                self._set(message=f"liveness probe: {problem}")
            else:
                failures = 0
            await asyncio.sleep(probe.period)

    async def _follow_readiness(self, session: aiohttp.ClientSession, started: asyncio.Event) -> None:
        """Keep `state.ready` as the readiness probe says; without one, ready is started."""
        await started.wait()
        if (probe := self._readiness) is None:
            self._set(ready=True, message="")
            await _forever()
        await asyncio.sleep(probe.initial_delay)
        against = 0  # answers in a row that contradict the state
        while True:
            problem = await probe.ask(session)
            well = problem is None
            against = against + 1 if well != self.state.ready else 0
            if well and against >= probe.success_threshold:
                self._set(ready=True, message="")
            elif not well and (not self.state.ready or against >= probe.failure_threshold):
                self._set(ready=False, message=f"readiness probe: {problem}")
            await asyncio.sleep(probe.period if self.state.ready else min(probe.period, _EAGER_SECONDS))

    def _set(self, **changes: Any) -> None:
        state = replace(self.state, **changes)
        if state != self.state:
            self.state = state
            self._on_change()


async def _forever() -> NoReturn:
    while True:
        await asyncio.Event().wait()
