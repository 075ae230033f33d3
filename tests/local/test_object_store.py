"""Clusters over an object store on this machine: what was acknowledged outlives the pod's volume."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from qdrant_client import models

from tests.engine.s3 import S3Server
from tests.local.commands import Local

ROOT = Path(__file__).parents[2]
VECTORS = np.random.default_rng(7).normal(size=(200, 16)).astype(np.float32)


def over_s3(server: S3Server) -> str:
    """The example, with this server's address and credentials."""
    cluster, secret = yaml.safe_load_all((ROOT / "examples" / "object-store.yaml").read_text())
    cluster["spec"]["storage"]["objectStore"] |= {
        "url": f"{server.url}/local",
        "endpoint": server.settings["endpoint"],
    }
    secret["stringData"] = {
        "AWS_ACCESS_KEY_ID": server.settings["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": server.settings["secret_access_key"],
    }
    return yaml.safe_dump_all([cluster, secret])


def over_a_claim() -> str:
    cluster = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    cluster["metadata"]["name"] = "durable"
    cluster["spec"]["storage"]["objectStore"] = {"url": "file:///objects/durable"}
    cluster["spec"]["podTemplate"] = {
        "volumes": [{"name": "objects", "persistentVolumeClaim": {"claimName": "objects"}}],
        "volumeMounts": [{"name": "objects", "mountPath": "/objects"}],
    }
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "objects"}}
    return yaml.safe_dump_all([claim, cluster])


@pytest.mark.parametrize("store", ["s3", "claim"])
def test_a_pod_that_lost_its_volume_comes_back_with_everything(
    local: Local, store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = over_s3(request.getfixturevalue("s3")) if store == "s3" else over_a_claim()
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of whoever runs this")
    began = local.run("up", "-f", "-", stdin=file)
    assert (began.exit_code, "means nothing here" in began.stderr) == (0, False), began.output
    local.client.create_collection("c", models.VectorParams(size=16, distance=models.Distance.COSINE))
    points = [
        models.PointStruct(id=row, vector=v.tolist(), payload={"row": row}) for row, v in enumerate(VECTORS)
    ]
    local.client.upsert("c", points)
    local.client.delete("c", [5, 6])
    before = local.client.scroll("c", limit=300, with_vectors=True)
    local.do("down")
    shutil.rmtree(local.folder / "clusters" / "durable" / "data" / "data-durable-0")
    local.do("up", "-f", "-", stdin=file)
    assert len(before[0]) == 198
    assert local.client.scroll("c", limit=300, with_vectors=True) == before
