"""Chroma's server as a peer: the same vectors, and its searches at the recall of the engine they are held against."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

EFS = (32, 40, 50, 64, 80, 100, 130, 170, 220, 300, 400)
"""Of these the smallest is to be used that finds enough."""

BATCH = 500


class Chroma:
    """A server, and the one collection on it."""

    def __init__(self, folder: Path, program: str, port: int) -> None:
        self._command = [program, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
        self._root = f"http://127.0.0.1:{port}/api/v2"
        self._database = f"{self._root}/tenants/default_tenant/databases/default_database"
        self._process: subprocess.Popen[bytes] | None = None
        self._collection = ""

    @property
    def query_url(self) -> str:
        return f"{self._collection}/query"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self._process.poll() is None:
            try:
                httpx.get(f"{self._root}/heartbeat", timeout=5).raise_for_status()
            except httpx.HTTPError:
                time.sleep(0.05)
            else:
                return
        sys.exit(f"Chroma ended with status {self._process.returncode} before it answered")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def ingest(self, vectors: npt.NDArray[np.float32]) -> float:
        """Seconds until all are stored, and indexed with it."""
        hnsw = {"space": "cosine", "ef_search": EFS[0], "ef_construction": 100, "max_neighbors": 16}
        described = {"name": "bench", "configuration": {"hnsw": hnsw}}
        with httpx.Client(timeout=300) as http:
            made = http.post(f"{self._database}/collections", json=described).raise_for_status()
            self._collection = f"{self._database}/collections/{made.json()['id']}"
            began = time.perf_counter()
            for start in range(0, len(vectors), BATCH):
                rows = vectors[start : start + BATCH]
                ids = [str(offset) for offset in range(start, start + len(rows))]
                body = {"ids": ids, "embeddings": rows.tolist()}
                # json takes ten times as long, for all 16 s, which would be told of the server.
                sent = {"content": msgspec.json.encode(body), "headers": {"content-type": "application/json"}}
                http.post(f"{self._collection}/add", **sent).raise_for_status()
            return time.perf_counter() - began

    def use(self, ef: int) -> None:
        """Search with *ef* from now on. A running server goes on with the one that it had."""
        change = {"new_configuration": {"hnsw": {"ef_search": ef}}}
        httpx.put(self._collection, json=change, timeout=300).raise_for_status()
        self.stop()
        self.start()

    def answers(self, sent: list[bytes]) -> list[list[int]]:
        with httpx.Client(timeout=300) as http:
            found = [http.post(self.query_url, content=body).raise_for_status().json() for body in sent]
        return [[int(name) for name in answer["ids"][0]] for answer in found]


@contextmanager
def running(folder: Path, program: str, port: int) -> Iterator[Chroma]:
    server = Chroma(folder, program, port)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def bodies(queries: npt.NDArray[np.float32], limit: int) -> list[bytes]:
    asked: dict[str, Any] = {"n_results": limit, "include": ["distances"]}
    return [json.dumps({**asked, "query_embeddings": [query]}).encode() for query in queries.tolist()]
