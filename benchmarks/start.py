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
from typing import NamedTuple

import yaml
from _machine import describe

GOAL_SECONDS = 1.0
VECTORIZER = Path(sys.executable).with_name("vectorizer")


Settings = dict[str, dict[str, object]]


class Case(NamedTuple):
    """A start that is refused: *settings* makes what is wrong in a folder, and *said* and *status* are the answer.

    Settings that are None are a configuration that is not there.
    """

    settings: Callable[[Path], Settings | None]
    said: str
    status: int = 1


def broken_rules(folder: Path) -> Settings:
    return {"cluster": {"enabled": True, "max_cache_memory_bytes": "2Gi"}}


def missing_configuration(folder: Path) -> None:
    return None


def impossible_folder(folder: Path) -> Settings:
    (folder / "file").touch()
    return {"storage": {"path": str(folder / "file" / "data")}}


def newer_format(folder: Path) -> Settings:
    (folder / "FORMAT").write_text("vectorizer-storage 99\n")
    return {"storage": {"path": str(folder)}}


def taken_port(folder: Path) -> Settings:
    """By whoever measures."""
    return {"storage": {"path": str(folder / "data")}}


CASES = (
    Case(broken_rules, "CLUSTER_003"),
    Case(missing_configuration, "No such file or directory", status=2),
    Case(impossible_folder, "Not a directory"),
    Case(newer_format, "has format 99"),
    Case(taken_port, "Address already in use"),
)


def measure(case: Case, runs: int) -> dict[str, float]:
    wall, processor = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
            config = Path(folder) / "config.yml"
            settings = case.settings(Path(folder))
            if settings is not None:
                port = taken.getsockname()[1]
                if case.settings is not taken_port:
                    taken.close()
                config.write_text(yaml.safe_dump(settings | {"server": {"port": port}}))
            before, began = os.times(), time.perf_counter()
            ended = subprocess.run(
                [VECTORIZER, "serve", "--config", str(config)], capture_output=True, text=True
            )
            wall.append(time.perf_counter() - began)
            after = os.times()
            assert ended.returncode == case.status and case.said in ended.stderr, ended.stderr
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
                **{case.settings.__name__: measure(case, runs) for case in CASES},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
