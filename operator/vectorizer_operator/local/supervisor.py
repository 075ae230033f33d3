"""The background process behind `vectorizerctl local`: a worker for each cluster that is up.

    python -m vectorizer_operator.local.supervisor DIR LOCK

Woken by a byte in the state folder's pipe, it reads what is to run, has a worker bring each cluster there
(`worker.py`), and publishes what it sees in `status.json`. When no cluster is up any more it ends; its pods end with
it, however it ends (`container.py`).

`local up` starts it with a file descriptor LOCK that holds the folder's supervisor lock. Not for rules and
rendering: what it reads has passed both.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from vectorizer_operator.engines import Engines
from vectorizer_operator.local.state import Desired, StateFolder, Status
from vectorizer_operator.local.worker import ClusterWorker


class Supervisor:
    """Holds a worker for each cluster that is up, and the folder's status."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._engines = Engines()
        self._woken = asyncio.Event()
        self._stopping = False
        self._dirty = asyncio.Event()
        self._seen: dict[str, int] = {}
        self._workers: dict[str, ClusterWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until no cluster is up, or a signal asks for the end; what is to run then stays written down."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        pipe = _open_pipe(self._folder.wake_pipe)
        loop.add_reader(pipe, self._wake, pipe)
        publisher = asyncio.create_task(self._publish())
        try:
            while not self._stopping and not self._nothing_left():
                self._follow(self._folder.desired())
                await self._woken.wait()
                self._woken.clear()
        finally:
            publisher.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await asyncio.gather(*(worker.stop() for worker in self._workers.values()))
            await self._engines.close()

    def _follow(self, desired: Mapping[str, Desired]) -> None:
        for name in [name for name, task in self._tasks.items() if task.done()]:
            self._tasks.pop(name).result()
            del self._workers[name]
        for name, cluster in desired.items():
            if name in self._workers:
                self._workers[name].want(cluster)
            elif cluster.up:
                worker = ClusterWorker(cluster, self._folder, self._engines, self._dirty.set)
                self._workers[name] = worker
                self._tasks[name] = asyncio.create_task(worker.run(), name=name)
                self._tasks[name].add_done_callback(lambda _: self._woken.set())
        self._seen = {name: cluster.generation for name, cluster in desired.items()}
        self._dirty.set()

    def _nothing_left(self) -> bool:
        """Whether no cluster is up. Then the folder's lock is kept until this process is gone, like the supervisor's:
        an `up` waits that long and starts another, and who waits for the end does not see it half done."""
        if not all(task.done() for task in self._tasks.values()):
            return False
        lock = self._folder.lock()
        if any(cluster.up for cluster in self._folder.desired().values()):
            os.close(lock)
            return False
        self._folder.write_status(Status())
        return True

    async def _publish(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            clusters = [self._workers[name].status() for name in sorted(self._workers)]
            try:
                self._folder.write_status(Status(clusters=clusters, seen=self._seen))
            except OSError as error:
                if not self._folder.path.is_dir():  # somebody deleted it all: then nothing is to run
                    self._stop()
                    return
                sys.stderr.write(
                    f"cannot write the status, trying again: {error}\n"
                )  # a full disk, for example
                await asyncio.sleep(1)
                self._dirty.set()

    def _wake(self, pipe: int) -> None:
        os.read(pipe, 4096)
        self._woken.set()

    def _stop(self) -> None:
        self._stopping = True
        self._woken.set()


def _open_pipe(path: Path) -> int:
    """Open for reading and writing, so that the pipe never ends when a writer does."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def main() -> None:
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lock, False)  # held by this process alone, and until its end
    asyncio.run(Supervisor(StateFolder(folder)).run())


if __name__ == "__main__":
    main()
