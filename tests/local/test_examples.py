"""The examples: valid where they should be, and data whose answers are known."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from vectorizer_engine.cli import main as vectorizer
from vectorizer_engine.cluster.validator import RULES
from vectorizer_operator.capacity import pod_memory_bytes
from vectorizer_operator.cli import ctl_main

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DATA = EXAMPLES / "data"
CHILDREN = {"ServiceAccount", "ConfigMap", "Service", "StatefulSet", "NetworkPolicy"}
VECTORIZERCTL = Path(sys.executable).with_name("vectorizerctl")


def test_the_quickstart_is_ten_lines_and_valid() -> None:
    file = EXAMPLES / "quickstart.yaml"
    assert len([line for line in file.read_text().splitlines() if not line.startswith("#")]) == 10
    assert subprocess.run([VECTORIZERCTL, "validate", file], capture_output=True).returncode == 0


CLUSTERS = {file.stem for file in EXAMPLES.glob("*.yaml")} - {"refused", "production-values"}


@pytest.mark.parametrize("name", sorted(CLUSTERS))
def test_an_example_is_valid_and_makes_every_child(name: str) -> None:
    file = str(EXAMPLES / f"{name}.yaml")
    checked = CliRunner().invoke(ctl_main, ["validate", file])
    assert (checked.exit_code, "warning" in checked.output) == (0, False), checked.output
    rendered = CliRunner().invoke(ctl_main, ["render", "-f", file, "--image", "vectorizer:0.1.0"])
    assert {each["kind"] for each in yaml.safe_load_all(rendered.output)} >= CHILDREN


def test_the_production_example_leaves_the_memory_limit_to_the_capacity_model() -> None:
    arguments = ["render", "-f", str(EXAMPLES / "production.yaml"), "--image", "vectorizer:0.1.0"]
    objects = yaml.safe_load_all(CliRunner().invoke(ctl_main, arguments).output)
    (stateful_set,) = (each for each in objects if each["kind"] == "StatefulSet")
    (engine,) = stateful_set["spec"]["template"]["spec"]["containers"]
    limit = f"{pod_memory_bytes(1024**3, shares_store=True) // 1024**2}Mi"
    assert engine["resources"] == {"limits": {"memory": limit}, "requests": {"cpu": "2", "memory": limit}}


def test_the_standalone_example_is_a_valid_configuration() -> None:
    file = str(EXAMPLES / "standalone" / "config.yml")
    checked = CliRunner().invoke(vectorizer, ["check-config", "--config", file, "-o", "json"])
    report = json.loads(checked.output)
    assert (report["valid"], report["warnings"]) == (True, [])
    assert report["settings"]["cluster.enabled"] is False
    assert report["settings"]["storage.type"] == "memory"
    assert report["settings"]["file_watcher.enabled"] is True


@pytest.mark.parametrize("cluster", [False, True], ids=["standalone", "cluster mode"])
def test_the_configuration_with_every_setting_is_valid_in_both_modes(
    cluster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTORIZER__CLUSTER__ENABLED", json.dumps(cluster))
    file = str(ROOT / "config.example.yml")
    checked = CliRunner().invoke(vectorizer, ["check-config", "--config", file, "-o", "json"])
    report = json.loads(checked.output)
    assert (checked.exit_code, report["valid"], report["warnings"]) == (0, True, [])
    assert report["settings"]["cluster.enabled"] is cluster


def test_the_refused_example_breaks_every_rule() -> None:
    file = EXAMPLES / "refused.yaml"
    done = subprocess.run([VECTORIZERCTL, "validate", file, "-o", "json"], capture_output=True, text=True)
    assert done.returncode == 1
    (cluster,) = json.loads(done.stdout)["clusters"]
    codes = {finding["violation"]["code"] for finding in cluster["findings"]}
    assert codes == {rule.code for rule in RULES}


def test_the_data_is_as_its_readme_says_and_small() -> None:
    vectors = np.load(DATA / "packages.f16.npy")
    with gzip.open(DATA / "packages.jsonl.gz", "rt", encoding="utf-8") as lines:
        payloads = [json.loads(line) for line in lines]
    assert (vectors.shape, vectors.dtype) == ((4800, 384), np.float16)
    assert len(payloads) == len(vectors)
    assert all(payload.keys() == {"name", "section", "installed_kib"} for payload in payloads)
    assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=1e-3)
    assert len((DATA / "demo-queries.jsonl").read_text().splitlines()) == 40
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 4_000_000
