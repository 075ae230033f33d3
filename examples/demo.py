"""The product in half a minute: a cluster on this machine, real data, questions, its memory, and a refused spec.

    make demo

Everything goes through the doors that users have: `vectorizerctl` and the unmodified qdrant-client. State lies in a
temporary folder; nothing is left running, however this ends.
"""

import contextlib
import gzip
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"
QUICKSTART, REFUSED = "examples/quickstart.yaml", "examples/refused.yaml"
VECTORIZERCTL = Path(sys.executable).with_name("vectorizerctl")
COLLECTION = "packages"
BATCH = 200
QUESTIONS = (
    "play a chess game against the computer",
    "convert audio files between formats",
    "a command line password manager",
    "a compiler for the Rust language",
    "a terminal multiplexer",
    "recover deleted photos",
)

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=120)  # a pipe has no width to fit into


class DemoError(Exception):
    """A step that did not work; the message says which, and what it said."""


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # however it is stopped, it cleans up
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vectorizer-demo-") as folder,
            cluster(Path(folder)) as endpoint,
        ):
            from qdrant_client import QdrantClient  # takes a second: not before there is something to see

            client = QdrantClient(endpoint, timeout=30)
            load(client)
            ask(client)
            show_memory(endpoint)
            show_refusal()
    except KeyboardInterrupt:
        console.print("\nThe demo was interrupted; nothing is left running.")
        return 130
    except Exception as error:  # noqa: BLE001 - whatever it was, it is said in one line
        reason = str(error) if isinstance(error, DemoError) else f"{type(error).__name__}: {error}"
        console.print(f"\nThe demo failed: {reason}", style="red", markup=False, soft_wrap=True)
        return 1
    console.print(f"\nDone in {time.monotonic() - began:.0f} s, nothing is left running. What to try next:\n")
    console.print(NEXT, markup=False)
    return 0


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """`vectorizerctl local up` on the quickstart; yields its endpoint, and takes it down at the end."""
    heading("1. A cluster of ten lines")
    console.print((ROOT / QUICKSTART).read_text().partition("\n")[2], markup=False, style="cyan")
    console.print(f"$ vectorizerctl local up -f {QUICKSTART}", markup=False)
    try:
        with console.status("starting the engine"):
            vectorizerctl("local", "up", "-f", QUICKSTART, "--dir", str(folder))
        status = json.loads(vectorizerctl("local", "status", "-o", "json", "--dir", str(folder)))
        endpoint: str = status["clusters"][0]["endpoint"]
        console.print(f"ready at {endpoint}", markup=False)
        yield endpoint
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the second Ctrl-C of somebody in a hurry
        vectorizerctl("local", "down", "--dir", str(folder))


def load(client: "QdrantClient") -> None:
    """Upsert every package with its payload, in batches, each on disk before the next is sent."""
    from qdrant_client import models

    heading("2. Real data: Debian's packages, by the embeddings of their descriptions")
    vectors = np.load(DATA / "packages.f16.npy").astype(np.float32)
    with gzip.open(DATA / "packages.jsonl.gz", "rt", encoding="utf-8") as lines:
        payloads = [json.loads(line) for line in lines]
    size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection(COLLECTION, vectors_config=size)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("upserting with qdrant-client", total=len(vectors))
        for start in range(0, len(vectors), BATCH):
            rows = range(start, min(start + BATCH, len(vectors)))
            points = [
                models.PointStruct(id=row, vector=vectors[row].tolist(), payload=payloads[row])
                for row in rows
            ]
            client.upsert(COLLECTION, points)
            progress.advance(task, len(rows))


def ask(client: "QdrantClient") -> None:
    heading("3. Questions, answered by meaning")
    with (DATA / "demo-queries.jsonl").open(encoding="utf-8") as lines:
        vectors = {query["text"]: query["vector"] for query in map(json.loads, lines)}
    table = Table("question", "packages (similarity)", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for question in QUESTIONS:
        found = client.query_points(
            COLLECTION, query=vectors[question], limit=4, with_payload=["name"]
        ).points
        table.add_row(question, ", ".join(f"{point.payload['name']} {point.score:.2f}" for point in found))
    console.print(table)


def show_memory(endpoint: str) -> None:
    """The three figures of /cluster/memory, apart, and the limit next to the one it is for."""
    heading("4. Memory, from /cluster/memory")
    with urllib.request.urlopen(f"{endpoint}/cluster/memory", timeout=10) as response:
        memory = json.load(response)
    memory = memory.get("result", memory)
    ledger = memory["ledger"]
    caches = ", ".join(f"{name} {size(used)}" for name, used in ledger["by_cache"].items())
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("the ledger", size(ledger["used_bytes"]), f"of {size(ledger['limit_bytes'])}: {caches}")
    if memory["anonymous_rss_bytes"] is not None:  # only Linux tells
        table.add_row(
            "anonymous",
            size(memory["anonymous_rss_bytes"]),
            "the process: Python, libraries, requests, the ledger",
        )
        table.add_row(
            "mapped",
            size(memory["reclaimable_mapped_bytes"]),
            "pages of files, which the kernel may take back",
        )
    console.print(table)


def show_refusal() -> None:
    heading("5. A spec that breaks the rules is refused, with the fix")
    console.print(f"$ vectorizerctl validate {REFUSED}", markup=False)
    refusal = run("validate", REFUSED)
    console.print(refusal.stdout.strip(), markup=False, soft_wrap=True)
    if refusal.returncode != 1:
        raise DemoError(f"vectorizerctl validate ended with {refusal.returncode}, expected 1")


def heading(text: str) -> None:
    console.print(f"\n{text}", style="bold")


def size(count: float) -> str:
    return f"{count / 1024**2:,.1f} MiB"


def vectorizerctl(*arguments: str) -> str:
    """What the command printed. Raises DemoError when it fails."""
    result = run(*arguments)
    if result.returncode != 0:
        raise DemoError(
            f"vectorizerctl {' '.join(arguments)} ended with {result.returncode}:\n{result.stderr}"
        )
    return result.stdout


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # In a session of its own, so that Ctrl-C stops this script only, which then takes the cluster down.
    command = [str(VECTORIZERCTL), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, start_new_session=True)


NEXT = """\
  .venv/bin/vectorizerctl local up -f examples/quickstart.yaml    the same cluster, and it stays
  .venv/bin/vectorizerctl local status                            where it is
  .venv/bin/vectorizerctl local logs -f                           what it says
  .venv/bin/vectorizerctl local down                              stop it; its data is kept

On Kubernetes: helm install vectorizer-operator helm/vectorizer-operator --namespace vectorizer-system \\
                 --create-namespace, then kubectl apply -f examples/quickstart.yaml"""


if __name__ == "__main__":
    sys.exit(main())
