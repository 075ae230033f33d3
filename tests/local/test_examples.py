"""The examples: valid where they should be, and data whose answers are known."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data"
VECTORIZERCTL = Path(sys.executable).with_name("vectorizerctl")


def test_the_quickstart_is_ten_lines_and_valid() -> None:
    file = ROOT / "examples" / "quickstart.yaml"
    assert len([line for line in file.read_text().splitlines() if not line.startswith("#")]) == 10
    assert subprocess.run([VECTORIZERCTL, "validate", file], capture_output=True).returncode == 0


def test_the_refused_example_breaks_every_rule() -> None:
    file = ROOT / "examples" / "refused.yaml"
    done = subprocess.run([VECTORIZERCTL, "validate", file, "-o", "json"], capture_output=True, text=True)
    assert done.returncode == 1
    (cluster,) = json.loads(done.stdout)["clusters"]
    codes = {finding["violation"]["code"] for finding in cluster["findings"]}
    assert codes == {"CLUSTER_001", "CLUSTER_002", "CLUSTER_003", "CLUSTER_004"}


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
