"""Several real engines over one shared folder, with a topology that the test publishes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.engine.fixtures import EngineProcess, ask
from tests.kube.eventually import eventually

KEY = "the key that members show each other"
HEADERS = {"api-key": KEY}


class Pods:
    """Engines that may be members of one cluster. Which of them are is what was published last."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        stores: Sequence[Mapping[str, str]] = (),
        environment: Mapping[str, str] | None = None,
        covered: bool = False,
    ) -> None:
        """*stores* are the settings of the object store for each; a folder below *folder* where there are none."""
        self.folder = folder
        self._version = 0
        self.engines = [
            EngineProcess(
                folder / f"pod-{number}",
                {
                    "cluster": {"enabled": True, "pod_name": f"pod-{number}", "internal_key": KEY},
                    "storage": {
                        "object_store": stores[number] if stores else {"url": f"file://{folder}/store"}
                    },
                },
                environment=environment,
                covered=covered,
            )
            for number in range(count)
        ]

    def __getitem__(self, number: int) -> EngineProcess:
        return self.engines[number]

    def launch(self, *numbers: int) -> None:
        """Start these, or all, and wait until they can be told the topology."""
        chosen = [self.engines[number] for number in numbers] or self.engines
        for engine in chosen:
            engine.launch()
        for engine in chosen:
            engine.wait_until(lambda engine=engine: self._hears(engine), "ready to hear the topology")  # type: ignore[misc]

    def topology(self, *numbers: int, previous: Sequence[Mapping[str, str]] | None = None) -> dict[str, Any]:
        """A new one, with these as members, and *previous* ones where that is to be said."""
        return {
            **({} if previous is None else {"previous": previous}),
            "version": self.next_version(),
            "members": [
                {"name": f"pod-{number}", "address": f"127.0.0.1:{self.engines[number].port}"}
                for number in numbers
            ],
        }

    def next_version(self) -> int:
        self._version += 1
        return self._version

    def publish(
        self,
        *numbers: int,
        to: Sequence[int] | None = None,
        previous: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        """Make these the members, and tell *to*, or all of them."""
        topology = self.topology(*numbers, previous=previous)
        for number in numbers if to is None else to:
            self.tell(number, topology).raise_for_status()

    def tell(self, number: int, topology: dict[str, Any]) -> httpx.Response:
        return ask("PUT", self.engines[number].url + "/internal/topology", json=topology, headers=HEADERS)

    def status(self, number: int) -> dict[str, Any]:
        """The topology that this one knows, and how many shards it is `waiting` for, and `leaving` to others."""
        answer = ask("GET", self.engines[number].url + "/internal/topology", headers=HEADERS)
        status: dict[str, Any] = answer.raise_for_status().json()
        return status

    def known_to(self, number: int) -> int:
        """The version of the topology that this one knows."""
        version: int = self.status(number)["version"]
        return version

    def wait_until_moved(self, *numbers: int) -> None:
        """Until all shards are with their new owners, as far as these know."""
        eventually(
            lambda: not any(self.status(each)["waiting"] or self.status(each)["leaving"] for each in numbers)
        )

    def wait_until_ready(self, *numbers: int) -> None:
        for number in numbers or range(len(self.engines)):
            engine = self.engines[number]
            engine.wait_until(lambda engine=engine: engine.answers("/readyz"), "ready")  # type: ignore[misc]

    def close(self) -> None:
        for engine in self.engines:
            engine.close()

    def _hears(self, engine: EngineProcess) -> bool:
        try:
            return ask("GET", engine.url + "/internal/topology", headers=HEADERS).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_pods(folder: Path, count: int) -> Iterator[Pods]:
    """All of them members, and ready."""
    pods = Pods(folder, count, covered=True)
    try:
        pods.launch()
        pods.publish(*range(count))
        pods.wait_until_ready()
        yield pods
    finally:
        pods.close()
