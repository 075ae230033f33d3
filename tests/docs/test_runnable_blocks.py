"""Every shell block of README and CLUSTER_SETUP is run as its reader would run it, or says why it is not. Of OPERATIONS
those are run that say so; `tests/e2e/test_migration.py` runs those of MIGRATION.

The comment in the line before a block says how: `<!-- run: local -->` on this machine, `<!-- run: kubernetes -->` on a
cluster, and `<!-- not run: REASON -->`. `run: kubernetes, as: COMMAND` runs COMMAND in its place, for what the test's
node cannot do; `run: local, exits 1` is for a command that ends so when it works. Blocks of one page and place share a
shell, so that one can use what another has set.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.engine.s3 import S3Server
from tests.kube import binaries
from tests.kube.controlplane import ControlPlane
from tests.kube.kubelet import Kubelet

ROOT = Path(__file__).parents[2]
STEP_BY_STEP = ("README.md", "docs/users/CLUSTER_SETUP.md")
PAGES = ("README.md", "docs/users/OPERATIONS.md", "docs/users/CLUSTER_SETUP.md")
"""On Kubernetes in this order: the first one's cluster is operated on, and the last one takes the operator away."""

_BLOCK = re.compile(r"^(?:<!-- (?P<marker>[^\n]*) -->\n)?```sh\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_RUN = re.compile(r"run: (?P<place>local|kubernetes)(?:, as: (?P<instead>.+)|, exits (?P<status>\d+))?")


class Block(NamedTuple):
    source: str
    marker: str
    body: str

    def script(self, place: str) -> str:
        """What is to be run in *place*: nothing where the block is for another one, or for none."""
        how = _RUN.fullmatch(self.marker)
        if how is None or how["place"] != place:
            return ""
        body = how["instead"] or self.body
        if how["status"]:
            body = f'set +e; (set -e\n{body}\n); status=$?; set -e; [ "$status" = {how["status"]} ]'
        return f'echo "--- {self.source}" >&2\n{body}\n'


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("body")) + 1
        yield Block(f"{page}:{line}", found["marker"] or "", found["body"])


def run(page: str, place: str, folder: Path, **environment: str) -> str:
    """Run the blocks of *page* for *place* in one shell; what they printed."""
    scripts = [block.script(place) for block in blocks(page)]
    assert any(scripts)
    return shell("\n".join(scripts), folder, **environment)


def shell(script: str, folder: Path, *, cwd: Path = ROOT, **environment: str) -> str:
    """Run *script* with our commands, kubectl and helm, and a home in *folder*; what it printed."""
    programs = [Path(sys.executable).parent, *(binaries.find(tool).parent for tool in ("kubectl", "helm"))]
    (folder / "home").mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env={
            **os.environ,
            "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
            "HOME": str(folder / "home"),
            "XDG_DATA_HOME": str(folder / "data"),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A home for what blocks leave; local clusters that a failed one left are ended."""
    yield tmp_path
    if (state := tmp_path / "data" / "vectorizer" / "local").is_dir():
        subprocess.run(
            [Path(sys.executable).with_name("vectorizerctl"), "local", "down", "--dir", str(state)]
        )


@pytest.mark.parametrize("page", STEP_BY_STEP)
def test_every_block_says_whether_it_is_run(page: str) -> None:
    for block in blocks(page):
        assert _RUN.fullmatch(block.marker) or re.fullmatch("not run: .+", block.marker), block.source


@pytest.mark.parametrize("page", PAGES)
def test_blocks_for_this_machine_do_what_they_say(page: str, folder: Path) -> None:
    run(page, "local", folder)


@pytest.mark.timeout(500)
def test_blocks_for_kubernetes_do_what_they_say(folder: Path, s3: S3Server) -> None:
    """In a control plane of its own, since a chart is the whole cluster's affair."""
    for each in ("control-plane", "node"):
        (folder / each).mkdir()
    (folder / "credentials").write_text(
        f"AWS_ACCESS_KEY_ID={s3.settings['access_key_id']}\n"
        f"AWS_SECRET_ACCESS_KEY={s3.settings['secret_access_key']}\n"
    )
    store = {
        "STORE_URL": f"{s3.url}/docs",
        "STORE_ENDPOINT": s3.settings["endpoint"],
        "CREDENTIALS": str(folder / "credentials"),
    }
    with ControlPlane(folder / "control-plane") as control_plane, Kubelet(control_plane, folder / "node"):
        kubeconfig = str(control_plane.kubeconfig)
        for page in PAGES:
            said = run(page, "kubernetes", folder, KUBECONFIG=kubeconfig, **store)
        assert 'vectorizercluster.vectorizer.io "search" deleted' in said
        assert re.search(r"data-search-0 .*Bound", said)
