"""From files to what is to run: what is rendered, what is found beside the clusters, what is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.cli import ctl_main
from vectorizer_operator.local.control import LocalError, Wish
from vectorizer_operator.local.state import Desired, default_folder
from vectorizer_operator.local.wishes import DEFAULT_IMAGE, Refused, read_wishes, scaled
from vectorizer_operator.local.workload import workload
from vectorizer_operator.manifests import render


def cluster(name: str = "one", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "vectorizer.io/v1",
        "kind": "VectorizerCluster",
        "metadata": {"name": name},
        "spec": {"storage": {"size": "1Gi"}, **spec},
    }


def wishes(folder: Path, *objects: dict[str, Any]) -> list[Wish]:
    file = folder / "objects.json"
    file.write_text(json.dumps({"kind": "List", "items": list(objects)}))
    return read_wishes([str(file)])[0]


def revision(wish: Wish) -> str:
    return workload(wish.objects, config_maps=wish.config_maps, secrets=wish.secrets).revision


def test_what_runs_is_what_the_operator_renders(tmp_path: Path) -> None:
    (wish,) = wishes(tmp_path, cluster())
    assert wish.objects == render(VectorizerCluster.parse(cluster()), default_image=DEFAULT_IMAGE)


def test_secrets_and_config_maps_beside_the_cluster_are_its_pods_to_use(tmp_path: Path) -> None:
    secret = {
        "kind": "Secret", "metadata": {"name": "keys"},
        "data": {"a": base64.b64encode(b"alpha").decode()}, "stringData": {"b": "beta"},
    }  # fmt: skip
    config = {"kind": "ConfigMap", "metadata": {"name": "words"}, "data": {"c": "gamma"}}
    (wish,) = wishes(tmp_path, secret, cluster(), config)
    assert wish.secrets == {"keys": {"a": "alpha", "b": "beta"}}
    assert wish.config_maps == {"words": {"c": "gamma"}}


def test_a_secret_that_is_no_base64_is_named(tmp_path: Path) -> None:
    secret = {"kind": "Secret", "metadata": {"name": "keys"}, "data": {"a": "not base64!"}}
    with pytest.raises(LocalError, match=r"Secret keys: data.a is no text in base64; .* stringData"):
        wishes(tmp_path, secret, cluster())


def test_files_without_a_cluster_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no VectorizerCluster in there"):
        wishes(tmp_path, {"kind": "ConfigMap", "metadata": {"name": "words"}})


def test_two_clusters_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="one: more than one cluster of that name"):
        wishes(tmp_path, cluster(), cluster())


def test_a_broken_rule_refuses_all_clusters_of_the_files(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        wishes(tmp_path, cluster(), cluster("two", replicas=2))
    assert [each.valid for each in refused.value.report.clusters] == [True, False]


def test_a_cluster_that_an_older_vectorizerctl_brought_up_cannot_be_scaled() -> None:
    desired = Desired(name="one", generation=1, number=0, up=True, objects=[])
    with pytest.raises(LocalError, match=r"one was brought up by an older vectorizerctl: set spec.replicas"):
        scaled(desired, 1)


def test_only_what_reaches_the_pods_changes_their_revision(tmp_path: Path) -> None:
    (plain,) = wishes(tmp_path, cluster())
    (annotated,) = wishes(tmp_path, cluster(service={"annotations": {"a": "b"}}))
    (smaller,) = wishes(tmp_path, cluster(cluster={"maxCacheMemory": "128Mi"}))
    (same,) = wishes(tmp_path, cluster(cluster={"maxCacheMemory": "1024Mi"}))
    assert revision(annotated) == revision(plain)
    assert revision(smaller) != revision(plain)
    assert revision(same) == revision(plain)


def test_a_users_data_lies_where_the_desktop_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/vectorizer/local")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_folder() == Path.home() / ".local/share/vectorizer/local"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)  # in no /etc/passwd
    done = CliRunner().invoke(ctl_main, ["local", "status"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: you have no home folder: set HOME, or name a folder with --dir\n"
