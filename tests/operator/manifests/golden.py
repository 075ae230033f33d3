"""Golden files: what each release renders. `python -m tests.operator.manifests.golden` writes those of this release.

`golden/<release>/<name>.cluster.yaml` is a cluster, `<name>.yaml` its children. The folders of earlier releases are
kept as they were: the pods of a cluster that was made then must not be restarted by an operator of now.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.manifests import as_yaml, render

FOLDER = Path(__file__).parent / "golden"
RELEASE = version("vectorizer-operator")
DEFAULT_IMAGE = "registry.example/engine:0.1.0"


def cases() -> list[Path]:
    """The files of clusters, of every release."""
    return sorted(FOLDER.glob("*/*.cluster.yaml"))


def golden_of(case: Path) -> Path:
    return case.with_name(case.name.replace(".cluster.yaml", ".yaml"))


def rendered(case: Path) -> list[dict[str, Any]]:
    cluster = VectorizerCluster.parse(yaml.safe_load(case.read_text()))
    return render(cluster, default_image=DEFAULT_IMAGE)


if __name__ == "__main__":
    for case in cases():
        if case.parent.name == RELEASE:
            golden_of(case).write_text(as_yaml(rendered(case)))
