"""`vectorizerctl local` as its users call it, on a state folder of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from qdrant_client import QdrantClient

from vectorizer_operator.cli import ctl_main

VECTORIZERCTL = Path(sys.executable).with_name("vectorizerctl")


class Local:
    """`vectorizerctl local` on a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, stdin: str = "") -> Result:
        command = ["local", *arguments, "--dir", str(self.folder)]
        return CliRunner().invoke(ctl_main, command, input=stdin, catch_exceptions=False)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """The same as a process that goes on."""
        return subprocess.Popen(
            [VECTORIZERCTL, "local", *arguments, "--dir", self.folder],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def do(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.exit_code == 0, done.output
        return done.stdout

    def cluster(self) -> dict[str, Any]:
        (cluster,) = json.loads(self.do("status", "-o", "json"))["clusters"]
        return dict(cluster)

    @property
    def client(self) -> QdrantClient:
        # Without its check in the background, which would meet the pods that a test kills.
        return QdrantClient(self.cluster()["endpoint"], check_compatibility=False)
