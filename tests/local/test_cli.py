"""`vectorizerctl local` as a user meets it: the quickstart with the real engine, searched with qdrant-client."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from qdrant_client import QdrantClient, models

from tests.kube.eventually import eventually
from tests.local.commands import VECTORIZERCTL, Local
from tests.local.processes import mentioning, parent

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
VECTORS = np.random.default_rng(7).normal(size=(200, 16)).astype(np.float32)


def nearest(local: Local) -> list[models.ExtendedPointId]:
    found = local.client.query_points("c", query=VECTORS[3].tolist(), limit=3)
    return [point.id for point in found.points]


def quickstart(**spec: Any) -> str:
    """The quickstart with other fields in its spec."""
    cluster = yaml.safe_load(QUICKSTART.read_text())
    cluster["spec"] |= spec
    return json.dumps(cluster)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The quickstart, up, with 200 points in it. Each test leaves it so."""
    local = Local(tmp_path_factory.mktemp("local") / "state")
    said = local.do("up", "-f", str(QUICKSTART))
    try:
        cluster = local.cluster()
        assert f"quickstart is ready at {cluster['endpoint']} after" in said
        params = models.VectorParams(size=16, distance=models.Distance.COSINE)
        local.client.create_collection("c", vectors_config=params)
        points = [models.PointStruct(id=row, vector=v.tolist()) for row, v in enumerate(VECTORS)]
        local.client.upsert("c", points)
        yield local
    finally:
        local.do("down")


def test_status_for_programs_has_the_promised_shape(loaded: Local) -> None:
    status = json.loads(loaded.do("status", "-o", "json"))
    assert yaml.safe_load(loaded.do("status", "-o", "yaml")) == status
    (cluster,) = status["clusters"]
    (pod,) = cluster["pods"]
    assert cluster["name"] == "quickstart"
    assert cluster["ready"] is True
    assert cluster["endpoint"] == f"http://{pod['address']}"
    assert (pod["name"], pod["ready"]) == ("quickstart-0", True)
    os.kill(pod["pid"], 0)


def test_status_for_people_names_cluster_endpoint_and_pod(loaded: Local) -> None:
    head, row = loaded.do("status").splitlines()
    assert head.split() == ["CLUSTER", "READY", "ENDPOINT", "POD", "PID", "RESTARTS"]
    assert row.split()[:4] == ["quickstart", "yes", loaded.cluster()["endpoint"], "quickstart-0"]


def test_a_killed_pod_is_ready_again_with_its_data(loaded: Local) -> None:
    before = loaded.cluster()
    found = nearest(loaded)
    os.kill(before["pods"][0]["pid"], signal.SIGKILL)
    restarts = before["pods"][0]["restarts"] + 1
    eventually(
        lambda: [(pod["ready"], pod["restarts"]) for pod in loaded.cluster()["pods"]] == [(True, restarts)]
    )
    assert loaded.cluster()["endpoint"] == before["endpoint"]
    assert nearest(loaded) == found
    assert found[0] == 3


def test_data_survives_down_and_up(loaded: Local) -> None:
    found = nearest(loaded)
    said = loaded.do("down")
    assert f"quickstart is down, its data is kept in {loaded.folder}" in said
    assert mentioning(loaded.folder) == []
    assert json.loads(loaded.do("status", "-o", "json")) == {"clusters": []}
    loaded.do("up", "-f", str(QUICKSTART))
    assert nearest(loaded) == found


def test_an_unchanged_file_restarts_nothing(loaded: Local) -> None:
    before = loaded.cluster()
    said = loaded.do("up", "-f", str(QUICKSTART))
    assert f"quickstart runs unchanged at {before['endpoint']}" in said
    assert loaded.cluster() == before


def test_a_changed_spec_restarts_the_pod_once_with_its_data(loaded: Local) -> None:
    before = loaded.cluster()
    ready = "ready on http://"
    starts = loaded.do("logs").count(ready)
    loaded.do("up", "-f", "-", stdin=quickstart(cluster={"maxCacheMemory": "128Mi"}))
    assert loaded.cluster()["pods"][0]["pid"] != before["pods"][0]["pid"]
    assert loaded.do("logs").count(ready) == starts + 1
    assert "cluster.max_cache_memory_bytes = 134217728" in loaded.do("logs")
    assert nearest(loaded)[0] == 3


def test_a_refused_spec_says_every_fix_and_leaves_what_runs_alone(loaded: Local) -> None:
    before = loaded.cluster()
    refused = loaded.run(
        "up", "-f", "-", stdin=quickstart(storage={"type": "memory"}, fileWatcher={"enabled": True})
    )
    assert refused.exit_code == 1
    assert "set spec.storage.type to mmap" in refused.stdout
    assert "set spec.fileWatcher.enabled to false" in refused.stdout
    assert loaded.cluster() == before


def test_more_pods_than_one_need_a_store(loaded: Local) -> None:
    before = loaded.cluster()
    refused = loaded.run("scale", "quickstart", "3")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: CLUSTER_004: spec.replicas is 3, but pods behind one Service")
    assert "spec.storage.objectStore" in refused.stderr
    assert loaded.cluster() == before
    assert loaded.do("scale", "1").startswith("quickstart runs as 1 pod after")
    assert loaded.cluster() == before


def test_a_number_of_pods_beyond_the_schema_is_refused(loaded: Local) -> None:
    refused = loaded.run("scale", "1001")
    assert (refused.exit_code, "spec.replicas" in refused.stderr) == (1, True)


def test_a_paused_spec_changes_nothing_and_says_so(loaded: Local) -> None:
    before = loaded.cluster()
    said = loaded.do("up", "-f", "-", stdin=quickstart(paused=True, cluster={"maxCacheMemory": "64Mi"}))
    assert said == "quickstart: nothing was changed, spec.paused is true\n"
    assert loaded.cluster() == before


def test_logs_follow_until_the_cluster_is_down(local: Local) -> None:
    local.do("up", "-f", str(QUICKSTART))
    following = local.start("logs", "-f")
    assert following.stdout
    assert any("ready on http://" in line for line in following.stdout)
    local.do("down")
    following.communicate(timeout=30)
    assert following.returncode == 0


def test_logs_stop_following_on_ctrl_c(loaded: Local) -> None:
    following = loaded.start("logs", "quickstart", "-f")
    assert following.stdout
    following.stdout.readline()
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=30)
    assert following.returncode == 0


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_api_keys_come_from_a_secret_in_the_same_file(local: Local) -> None:
    secret = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "stringData": {"api": "swordfish", "read": "minnow"},
    }  # fmt: skip
    references = {"apiKeySecretRef": "api", "readOnlyApiKeySecretRef": "read"}
    cluster = quickstart(auth={name: {"name": "keys", "key": key} for name, key in references.items()})
    local.do("up", "-f", "-", stdin=f"{json.dumps(secret)}\n---\n{cluster}")
    endpoint = local.cluster()["endpoint"]
    with pytest.raises(Exception, match="401"):
        QdrantClient(endpoint, api_key="tuna").get_collections()
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    with pytest.raises(Exception, match="403"):
        QdrantClient(endpoint, api_key="minnow").create_collection("c", params)
    assert QdrantClient(endpoint, api_key="swordfish").create_collection("c", params)
    scraped = httpx.get(f"{endpoint}/metrics", headers={"authorization": "Bearer minnow"})
    assert "\nvectorizer_cluster_cache_limit_bytes " in scraped.text


def test_the_tenants_of_the_example_get_their_keys_and_see_only_their_own(local: Local) -> None:
    local.do("up", "-f", str(ROOT / "examples" / "multi-tenant.yaml"))
    endpoint = local.cluster()["endpoint"]
    acme, globex = (QdrantClient(endpoint, api_key=f"change-me-{name}") for name in ("acme", "globex"))
    acme.create_collection("docs", models.VectorParams(size=2, distance=models.Distance.DOT))
    reader = QdrantClient(endpoint, api_key="change-me-acme-reader")
    assert [each.name for each in reader.get_collections().collections] == ["docs"]
    with pytest.raises(Exception, match="403"):
        reader.delete_collection("docs")
    assert globex.get_collections().collections == []
    report = httpx.get(f"{endpoint}/cluster/memory", headers={"api-key": "change-me-globex"}).json()
    assert report["result"]["quota_bytes"] == 96 * 1024**2


def test_down_deletes_data_only_when_told_to(local: Local) -> None:
    local.do("up", "-f", str(QUICKSTART))
    assert local.do("down", "--delete-data") == "quickstart is down, its data deleted\n"
    assert not (local.folder / "clusters" / "quickstart").exists()
    assert local.do("down") == "no cluster is up\n"


def test_a_cluster_of_no_pods_is_up_and_says_so(local: Local) -> None:
    assert local.do("up", "-f", "-", stdin=quickstart(replicas=0)) == (
        "quickstart is up, without a pod: spec.replicas is 0\n"
    )
    assert local.do("status").splitlines()[1].split() == ["quickstart", "yes", "-", "-", "-", "-"]
    local.do("down")
    refused = local.run("scale", "quickstart", "1")
    assert (refused.exit_code, refused.stderr) == (
        1, "Error: quickstart is down: start it with `vectorizerctl local up -f FILE`\n",
    )  # fmt: skip


def test_progress_is_shown_in_place_on_a_terminal(local: Local) -> None:
    mine, terminal = pty.openpty()
    command = [VECTORIZERCTL, "local", "up", "-f", QUICKSTART, "--dir", local.folder]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=terminal, env=os.environ | {"TERM": "xterm"}, text=True
    )
    os.close(terminal)
    with os.fdopen(mine, "rb", buffering=0) as screen:
        shown = screen.read(65536).decode()
    assert done.returncode == 0
    assert "quickstart: 0 of 1 pods ready" in shown
    assert "\x1b[2K" in shown  # the line is erased and written again
    assert "is ready at" in done.stdout


def test_what_it_says_to_try_next_can_be_pasted_without_the_command_on_the_path(
    loaded: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said, _ = loaded.start("up", "-f", str(QUICKSTART)).communicate(timeout=30)
    (line,) = [line for line in said.splitlines() if "local status" in line]
    done = subprocess.run(line.split(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart-0" in done.stdout


def test_ctrl_c_leaves_a_starting_cluster_to_itself(local: Local) -> None:
    starting = local.start("up", "-f", str(QUICKSTART))
    assert starting.stderr
    starting.stderr.readline()  # "quickstart: starting"
    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate(timeout=30)
    assert starting.returncode == 1
    assert "Error: interrupted; it goes on starting in the background" in said
    eventually(lambda: local.cluster()["ready"])


def test_a_dead_supervisor_shows_in_the_status_and_up_mends_it(local: Local) -> None:
    local.do("up", "-f", str(QUICKSTART))
    os.kill(parent(local.cluster()["pods"][0]["pid"]), signal.SIGKILL)
    eventually(lambda: "the supervisor has ended" in local.do("status"))
    assert local.cluster() == {
        "name": "quickstart", "endpoint": None, "ready": False, "pods": [], "topology": None,
    }  # fmt: skip
    eventually(lambda: mentioning(local.folder) == [])
    local.do("up", "-f", str(QUICKSTART))
    assert local.cluster()["ready"]


def test_warnings_and_objects_that_mean_nothing_here_are_named(local: Local) -> None:
    namespace = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    small = quickstart(replicas=0, cluster={"maxCacheMemory": "32Mi"})
    done = local.run("up", "-f", "-", stdin=f"{namespace}\n---\n{small}")
    assert done.exit_code == 0
    assert "<stdin>:1: Namespace shop: means nothing here, ignored" in done.stderr
    assert "warning: spec.cluster.maxCacheMemory is" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("up",), 2, "Missing option '-f'"),
        (("up", "-f", "nowhere.yaml"), 2, "nowhere.yaml: cannot be read: No such file"),
        (("logs",), 1, "name a cluster; up are: none"),
        (("logs", "nobody"), 1, "there is no cluster 'nobody' in"),
        (("down", "nobody"), 1, "there is no cluster 'nobody' in"),
        (("scale", "2"), 1, "name a cluster; up are: none"),
        (("scale", "nobody", "2"), 1, "there is no cluster 'nobody' in"),
        (("scale", "one", "two", "2"), 2, "name one cluster; given are one, two"),
        (("scale", "many"), 2, "'many' is not a valid integer"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    local: Local, arguments: tuple[str, ...], status: int, complaint: str
) -> None:
    done = local.run(*arguments)
    assert done.exit_code == status
    assert complaint in done.stderr


def test_looking_around_makes_no_folder(local: Local) -> None:
    assert "no cluster is up" in local.do("status")
    assert local.do("down") == "no cluster is up\n"
    assert not local.folder.exists()


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Local(tmp_path / "file" / "state").run("up", "-f", str(QUICKSTART))
    assert done.exit_code == 1
    assert f"Error: {tmp_path}/file/state: Not a directory" in done.stderr
