"""The doors that need no Kubernetes: every bad spec of the table is refused by each, with the same code and fix."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.doors.table import BAD_SPECS, GOOD_SPECS, BadSpec, good_cluster
from tests.engine.fixtures import EngineProcess, running_engine
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.api.rules import violations
from vectorizer_operator.cli import ctl_main
from vectorizer_operator.manifests import config_yaml
from vectorizer_operator.plan import Observed, plan
from vectorizer_operator.webhook.review import review

bad = pytest.mark.parametrize("case", BAD_SPECS, ids=lambda case: case.name)
good = pytest.mark.parametrize("name", GOOD_SPECS)

_MESSAGE = re.compile(r"CLUSTER_\d{3}: .*?(?=; CLUSTER_|\n|$)")


def in_cluster(raw: dict[str, Any]) -> dict[str, Any]:
    """*raw* as the API server would hold it, had it let it in."""
    return {**raw, "metadata": {**raw["metadata"], "namespace": "default", "uid": "u1", "generation": 1}}


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in status["conditions"] if each["type"] == kind)
    return found


@bad
def test_the_validator_finds_each(case: BadSpec) -> None:
    found = {(v.code, v.rule, v.path, v.fix) for v in violations(case.cluster())}
    assert found == {(b.code, b.rule, b.path, b.fix) for b in case.broken}
    assert sorted(violation.message for violation in violations(case.cluster())) == case.messages()


@good
def test_the_validator_lets_good_ones_through(name: str) -> None:
    assert violations(good_cluster(name)) == []


@bad
def test_validate_refuses_each(case: BadSpec) -> None:
    result = CliRunner().invoke(
        ctl_main, ["validate", "-o", "json", "-"], input=yaml.safe_dump(case.cluster())
    )
    [report] = json.loads(result.stdout)["clusters"]
    assert result.exit_code == 1
    assert sorted(finding["message"] for finding in report["findings"]) == case.messages()
    assert {f["violation"]["fix"] for f in report["findings"]} == {broken.fix for broken in case.broken}


@good
def test_validate_lets_good_ones_through(name: str) -> None:
    assert (
        CliRunner().invoke(ctl_main, ["validate", "-"], input=yaml.safe_dump(good_cluster(name))).exit_code
        == 0
    )


@bad
def test_the_webhook_refuses_each(case: BadSpec) -> None:
    answer = review({"request": {"uid": "u", "object": in_cluster(case.cluster())}})["response"]
    assert answer["allowed"] is False
    assert sorted(_MESSAGE.findall(answer["status"]["message"])) == case.messages()


@good
def test_the_webhook_lets_good_ones_through(name: str) -> None:
    assert review({"request": {"uid": "u", "object": in_cluster(good_cluster(name))}})["response"]["allowed"]


@bad
def test_the_reconcilers_guard_rolls_none_out(case: BadSpec) -> None:
    planned = plan(
        Observed(cluster=in_cluster(case.cluster())), now=datetime.now(UTC), default_image="engine:1"
    )
    assert planned.actions == ()
    ready = condition(planned.status, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", case.broken[0].rule)
    assert sorted(_MESSAGE.findall(ready["message"])) == case.messages()
    assert condition(planned.status, "RulesHonoured")["status"] == "False"


@good
def test_the_reconcilers_guard_rolls_good_ones_out(name: str) -> None:
    planned = plan(
        Observed(cluster=in_cluster(good_cluster(name))), now=datetime.now(UTC), default_image="engine:1"
    )
    assert planned.actions
    assert condition(planned.status, "RulesHonoured")["status"] == "True"


def configuration(raw: dict[str, Any], folder: Path) -> Path:
    """The configuration that the pods of *raw* would have."""
    path = folder / "config.yml"
    path.write_text(config_yaml(VectorizerCluster.parse(raw)))
    return path


def engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VECTORIZER__")}
    command = [Path(sys.executable).with_name("vectorizer"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("case", [c for c in BAD_SPECS if c.engine_messages()], ids=lambda case: case.name)
def test_the_engine_does_not_start_with_any(case: BadSpec, tmp_path: Path) -> None:
    done = engine("serve", "--config", str(configuration(case.cluster(), tmp_path)))
    assert done.returncode == 1
    assert sorted(_MESSAGE.findall(done.stderr)) == case.engine_messages()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with running_engine(tmp_path_factory.mktemp("reload"), {"cluster": {"enabled": True}}) as process:
        yield process


@pytest.mark.parametrize("case", [c for c in BAD_SPECS if c.engine_messages()], ids=lambda case: case.name)
def test_a_running_engine_reloads_none(running: EngineProcess, case: BadSpec) -> None:
    configuration(case.cluster(), running.config_file.parent)
    before = len(running.log)
    running.signal(signal.SIGHUP)
    running.wait_until(lambda: "the former one stays in force\n" in running.log[before:], "refusing it")
    assert sorted(_MESSAGE.findall(running.log[before:])) == case.engine_messages()
    with running.http() as http:
        assert http.get("/cluster/memory").json()["result"]["ledger"]["limit_bytes"] == 1024**3


@good
def test_the_engine_takes_the_configuration_of_good_ones(name: str, tmp_path: Path) -> None:
    done = engine("check-config", "--config", str(configuration(good_cluster(name), tmp_path)))
    assert done.returncode == 0, done.stderr
