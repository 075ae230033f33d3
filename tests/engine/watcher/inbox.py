"""A running engine that watches a folder, and short ways to put points there and to see what arrived."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.engine.fixtures import EngineProcess, ask

DIMENSION = 4


class Inbox:
    """The folder that *engine* watches, and the engine's answers."""

    def __init__(self, engine: EngineProcess, folder: Path) -> None:
        self.engine = engine
        self.folder = folder

    def create(self, name: str, *, distance: str = "Dot", dimension: int = DIMENSION) -> Path:
        """Create a collection, and the folder for its files."""
        body = {"vectors": {"size": dimension, "distance": distance}}
        self._http("PUT", f"/collections/{name}", body)
        return self.collection_folder(name)

    def delete(self, name: str) -> None:
        self._http("DELETE", f"/collections/{name}")

    def collection_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def count(self, name: str) -> int:
        count: int = self._http("POST", f"/collections/{name}/points/count", {})["count"]
        return count

    def points(self, name: str) -> dict[int | str, dict[str, Any]]:
        """Every point by its id."""
        body = {"limit": 10_000, "with_vector": True}
        found = self._http("POST", f"/collections/{name}/points/scroll", body)["points"]
        return {point["id"]: point for point in found}

    def delete_point(self, name: str, point: int) -> None:
        self._http("POST", f"/collections/{name}/points/delete?wait=true", {"points": [point]})

    def wait_for(self, name: str, count: int) -> None:
        """Wait until the collection holds so many points."""
        self.engine.wait_until(lambda: self.count(name) == count, f"holding {count} points in '{name}'")

    def wait_for_log(self, text: str, *, times: int = 1) -> None:
        self.engine.wait_until(lambda: self.engine.log.count(text) >= times, f"logging {text!r}")

    def metric(self, series: str) -> float:
        """The value of *series*, 0 where it is not there."""
        name = f"vectorizer_file_watcher_{series} "
        lines = ask("GET", f"{self.engine.url}/metrics", timeout=30).text.splitlines()
        return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)

    def _http(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = ask(method, self.engine.url + path, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()["result"]


def line(point: int | str, vector: Sequence[float] = (1, 2, 3, 4), **payload: Any) -> str:
    """A point as a line of a .jsonl file, with its newline."""
    return json.dumps({"id": point, "vector": list(vector), "payload": payload}) + "\n"


def lines(first: int, last: int, **payload: Any) -> str:
    return "".join(line(point, **payload) for point in range(first, last))


def append(file: Path, text: str) -> None:
    with file.open("a") as content:
        content.write(text)


def watching(folder: Path) -> dict[str, dict[str, Any]]:
    """The configuration of an engine that watches *folder*."""
    return {"file_watcher": {"enabled": True, "paths": [str(folder)]}}


@contextlib.contextmanager
def running_inbox(folder: Path, **options: Any) -> Iterator[Inbox]:
    watched = folder / "inbox"
    watched.mkdir(parents=True)
    engine = EngineProcess(folder / "engine", watching(watched), **options)
    try:
        yield Inbox(engine.start(), watched)
    finally:
        engine.close()
