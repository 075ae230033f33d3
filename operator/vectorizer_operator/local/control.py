"""What the `vectorizerctl local` commands do: change what is to run, see that a supervisor lives, and wait.

Not for talking to people (`cli.py`) nor for running pods (`supervisor.py`).
"""

import os
import secrets
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectorizer_operator.api.constants import INTERNAL_KEY
from vectorizer_operator.local.state import ClusterStatus, Desired, PodStatus, StateFolder, Status
from vectorizer_operator.local.workload import shares_store
from vectorizer_operator.manifests import internal_secret_name

POLL_SECONDS = 0.1
LOG_LINES = 20
"""So much of a log is shown when something does not come up."""
NUMBERS = 256
"""A cluster's number is a part of its pods' addresses; with more clusters some share theirs, and their ports move."""


class LocalError(Exception):
    """Something that cannot be done here and now; the message says what, why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A cluster that is to run: the objects that the operator would apply, and what else its pods refer to.

    `cluster` is what they were rendered from. A paused one is left as it is, running or not.
    """

    name: str
    cluster: Mapping[str, Any] = field(default_factory=dict)
    objects: Sequence[Mapping[str, Any]]
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    paused: bool = False


def bring_up(folder: StateFolder, wishes: Iterable[Wish]) -> dict[str, int]:
    """Write down what is to run and start the supervisor if none lives. What did not change is left alone.

    Returns the generation to wait for of each that is not paused. Raises OSError when the folder cannot be written.
    """
    folder.create()
    with folder.locked():
        generations = _write_down(folder, wishes)
    folder.wake()
    return generations


def change(folder: StateFolder, name: str, edit: Callable[[Desired], Wish]) -> dict[str, int]:
    """Have cluster `name`, which is up, run as `edit` makes it. Returns the generation to wait for.

    Raises LocalError where it is not up, and what `edit` raises.
    """
    if name not in folder.desired():
        raise LocalError(f"there is no cluster {name!r} in {folder.path}")
    with folder.locked():
        before = folder.desired()[name]
        if not before.up:
            raise LocalError(f"{name} is down: start it with `vectorizerctl local up -f FILE`")
        generations = _write_down(folder, [edit(before)])
    folder.wake()
    return generations


def take_down(folder: StateFolder, names: Iterable[str]) -> None:
    """Stop these clusters and return when their pods have ended. Their data stays."""
    with folder.locked():
        generations = {}
        for name in names:
            desired = folder.desired()[name]
            if desired.up:
                desired.up = False
                desired.generation += 1
                folder.write_desired(desired)
            generations[name] = desired.generation
    folder.wake()
    while folder.supervised():
        status = folder.status()
        running = {cluster.name for cluster in status.clusters}
        if all(status.seen.get(n, 0) >= g and n not in running for n, g in generations.items()):
            break
        time.sleep(POLL_SECONDS)
    # The last cluster takes the supervisor along: whoever waits for the one expects nothing to be left running.
    while not any(desired.up for desired in folder.desired().values()) and folder.supervised():
        time.sleep(POLL_SECONDS)


def delete_data(folder: StateFolder, name: str) -> None:
    """Delete a cluster that is down. Raises LocalError when it is up again."""
    with folder.locked():
        if folder.desired()[name].up:
            raise LocalError(f"{name} was brought up again meanwhile; its data was not deleted")
        folder.forget(name)


def clusters(folder: StateFolder) -> list[ClusterStatus]:
    """Every cluster that is to run, as it is now; without a supervisor nothing runs."""
    if not folder.path.is_dir():
        return []
    supervised = folder.supervised()
    running = {cluster.name: cluster for cluster in folder.status().clusters} if supervised else {}
    found = []
    for name, desired in folder.desired().items():
        if not desired.up:
            continue
        cluster = running.get(name, ClusterStatus(name=name))
        found.append(
            cluster.model_copy(update={"ready": cluster.ready and cluster.settled == desired.generation})
        )
    return found


def wait_until_ready(
    folder: StateFolder,
    generations: Mapping[str, int],
    *,
    timeout: float,
    progress: Callable[[Sequence[ClusterStatus]], None],
) -> list[ClusterStatus]:
    """Wait until these generations run and are ready. Raises LocalError when that fails, or takes too long (seconds).

    A later change by somebody else counts as well: what was wished for was then replaced.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = [cluster for cluster in clusters(folder) if cluster.name in generations]
        progress(found)
        if len(found) < len(generations):
            gone = sorted(set(generations) - {cluster.name for cluster in found})
            raise LocalError(f"{', '.join(gone)}: taken down while it was starting")
        if all(cluster.ready and cluster.settled >= generations[cluster.name] for cluster in found):
            return found
        for cluster in found:
            if cluster.observed >= generations[cluster.name]:
                for pod in cluster.pods:
                    if pod.failing:
                        raise LocalError(_failure(folder, cluster, pod))
        if not folder.supervised():
            raise LocalError(f"the supervisor has ended: {_tail(folder.supervisor_log) or 'it says nothing'}")
        if time.monotonic() > deadline:
            waiting = [cluster.name for cluster in found if not cluster.ready]
            raise LocalError(
                f"{', '.join(waiting)}: not ready after {timeout:g} s; it goes on starting in the background, "
                "see `vectorizerctl local status` and `vectorizerctl local logs`"
            )
        time.sleep(POLL_SECONDS)


def logs(folder: StateFolder, name: str) -> list[Path]:
    """The log of each container of a cluster's pods, over all their restarts."""
    return sorted(folder.pods(name).glob("*/*.log"))


def read_on(paths: Sequence[Path], offsets: dict[Path, int]) -> Iterator[tuple[Path, str]]:
    """What was written to the logs since `offsets`, which are moved on."""
    for path in paths:
        with path.open("rb") as file:
            file.seek(offsets.get(path, 0))
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        offsets[path] = offsets.get(path, 0) + len(complete)
        if complete:
            yield path, complete.decode(errors="replace")


def _write_down(folder: StateFolder, wishes: Iterable[Wish]) -> dict[str, int]:
    known = folder.desired()
    generations = {}
    for wish in wishes:
        if wish.paused:
            continue
        before = known.get(wish.name)
        now = Desired(
            name=wish.name,
            generation=before.generation if before else 0,
            number=before.number if before else _free_number(folder, known.values()),
            up=True,
            cluster=dict(wish.cluster),
            objects=[dict(item) for item in wish.objects],
            secrets=_internal_key(wish, before)
            | {name: dict(content) for name, content in wish.secrets.items()},
            config_maps={name: dict(content) for name, content in wish.config_maps.items()},
        )
        if now != before:
            now.generation += 1
            folder.write_desired(now)
        known[wish.name] = now
        generations[wish.name] = now.generation
    lock = folder.take_supervisor_lock() if generations else None
    if lock is not None:
        folder.write_status(Status())  # what the one before has seen is over
        _start_supervisor(folder, lock)
    return generations


def _internal_key(wish: Wish, before: Desired | None) -> dict[str, dict[str, str]]:
    """The Secret that the operator would make: what engines over one store show each other. It never changes."""
    if not shares_store(wish.objects):
        return {}
    name = internal_secret_name(wish.name)
    known = before.secrets.get(name) if before else None
    return {name: known or {INTERNAL_KEY: secrets.token_urlsafe(32)}}


def _start_supervisor(folder: StateFolder, lock: int) -> None:
    """A process of its own session, which holds `lock` from its first moment on."""
    with folder.supervisor_log.open("wb") as log:
        subprocess.Popen(
            [sys.executable, "-m", "vectorizer_operator.local.supervisor", str(folder.path), str(lock)],
            cwd=folder.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock],
        )
    os.close(lock)


def _free_number(folder: StateFolder, known: Iterable[Desired]) -> int:
    """For addresses that no other cluster has. Each folder begins at another number: pods that two supervisors start at
    the same time would find the same port free, and only one could listen there."""
    first = zlib.crc32(os.fsencode(folder.path)) % NUMBERS
    taken = {desired.number for desired in known}
    numbers = ((first + step) % NUMBERS for step in range(NUMBERS))
    return next((number for number in numbers if number not in taken), first)


def _failure(folder: StateFolder, cluster: ClusterStatus, pod: PodStatus) -> str:
    if pod.pid is None and not pod.restarts:
        return f"{cluster.name}: {pod.message}"
    said = [line for path in logs(folder, cluster.name) for line in _tail(path).splitlines()]
    return "\n".join([f"{pod.name} ends again and again. Its log:", *(f"  {line}" for line in said)])


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])
