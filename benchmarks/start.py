"""What a refused start costs: the engine's command, from its start to its exit, with nothing to recover.

    python benchmarks/start.py [--runs 15]

Prints one JSON object: wall and processor seconds by case, median and worst. The goal is one second.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from _machine import describe

GOAL_SECONDS = 1.0
VECTORIZER = Path(sys.executable).with_name("vectorizer")


def broken_rules(folder: Path) -> dict[str, object]:
    return {"cluster": {"enabled": True, "max_cache_memory_bytes": "2Gi"}}


def impossible_folder(folder: Path) -> dict[str, object]:
    (folder / "file").touch()
    return {"storage": {"path": str(folder / "file" / "data")}}


def newer_format(folder: Path) -> dict[str, object]:
    (folder / "FORMAT").write_text("vectorizer-storage 99\n")
    return {"storage": {"path": str(folder)}}


CASES: dict[str, Callable[[Path], dict[str, object]]] = {
    "CLUSTER_003": broken_rules,
    "Not a directory": impossible_folder,
    "has format 99": newer_format,
}
"""By what the engine must say."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def measure(case: Callable[[Path], dict[str, object]], said: str, runs: int) -> dict[str, float]:
    wall, processor = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.yml"
            config.write_text(yaml.safe_dump(case(Path(folder)) | {"server": {"port": free_port()}}))
            before, began = os.times(), time.perf_counter()
            ended = subprocess.run(
                [VECTORIZER, "serve", "--config", str(config)], capture_output=True, text=True
            )
            wall.append(time.perf_counter() - began)
            after = os.times()
            assert ended.returncode == 1 and said in ended.stderr, ended.stderr
            processor.append(
                after.children_user + after.children_system - before.children_user - before.children_system
            )
    return {
        "wall_median": round(statistics.median(wall), 3),
        "wall_worst": round(max(wall), 3),
        "processor_median": round(statistics.median(processor), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    print(
        json.dumps(
            {
                "machine": describe(),
                "goal_seconds": GOAL_SECONDS,
                **{case.__name__: measure(case, said, runs) for said, case in CASES.items()},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
