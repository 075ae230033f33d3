"""What the command says and how it exits, before the engine serves anything."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.fixtures import VECTORIZER, StartEngine
from vectorizer_engine.api.server import warn_of_skipped_validation
from vectorizer_engine.config import Config
from vectorizer_engine.metrics import Metrics

GOOD = {"cluster": {"enabled": True, "max_cache_memory_bytes": "256Mi"}}


def run(
    *arguments: str, environment: dict[str, str] | None = None, seconds: float = 20
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(VECTORIZER), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **(environment or {})},
    )


def config_file(folder: Path, config: Any) -> str:
    path = folder / "config.yml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return str(path)


def test_every_violation_is_shown_at_once_with_its_fix(tmp_path: Path) -> None:
    path = config_file(
        tmp_path,
        {
            "storage": {"type": "memory"},
            "file_watcher": {"enabled": True},
            "cluster": {
                "enabled": True,
                "max_cache_memory_bytes": "2Gi",
                "enforce_mmap_storage": False,
                "disable_file_watcher": False,
            },
            "server": {"porty": 1},
        },
    )

    ended = run("serve", "--config", path)

    assert ended.returncode == 1
    for fix in (
        "set storage.type to mmap",
        "set cluster.enforce_mmap_storage to true",
        "set file_watcher.enabled to false",
        "set cluster.disable_file_watcher to true",
        "set cluster.max_cache_memory_bytes to a size above 0 and up to 1Gi",
        "server.porty: no such setting; did you mean server.port?",
    ):
        assert fix in ended.stderr
    assert ended.stderr.count("storage.type is") == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("limit", ["2Gi", 0, -1, "lots"])
def test_a_cache_limit_outside_the_rule_is_refused(tmp_path: Path, limit: object) -> None:
    path = config_file(tmp_path, {"cluster": {"enabled": True, "max_cache_memory_bytes": limit}})

    ended = run("serve", "--config", path)

    assert ended.returncode == 1
    assert "CLUSTER_003" in ended.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", ":1:5: not YAML"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("- 1\n", "expected a mapping of sections, found a list"),
        (None, "No such file or directory"),
    ],
)
def test_an_unreadable_configuration_exits_with_2_and_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = str(tmp_path / "missing.yml") if content is None else config_file(tmp_path, content)

    ended = run("serve", "--config", path)

    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_folder_as_configuration_exits_with_2(tmp_path: Path) -> None:
    ended = run("check-config", "--config", str(tmp_path))
    assert (ended.returncode, "Is a directory" in ended.stderr) == (2, True)


def test_an_environment_variable_that_names_no_setting_is_refused() -> None:
    ended = run("serve", environment={"VECTORIZER__SERVER__PROT": "1"})
    assert (ended.returncode, "did you mean server.port?" in ended.stderr) == (1, True)


@pytest.mark.parametrize(
    ("config", "status", "valid"), [(GOOD, 0, True), ({"cluster": {"enabled": "true"}}, 1, False)]
)
@pytest.mark.parametrize("output", ["json", "yaml"])
def test_check_config_prints_what_programs_can_read(
    tmp_path: Path, config: Any, status: int, valid: bool, output: str
) -> None:
    ended = run("check-config", "--config", config_file(tmp_path, config), "-o", output)

    report = json.loads(ended.stdout) if output == "json" else yaml.safe_load(ended.stdout)
    assert ended.returncode == status
    assert report["valid"] is valid
    assert bool(report["problems"]) is not valid


def test_check_config_prints_violations_and_warnings_as_text(tmp_path: Path) -> None:
    small = config_file(tmp_path, {"cluster": {"enabled": True, "max_cache_memory_bytes": "1Mi"}})
    ended = run("check-config", "--config", small)
    assert ended.returncode == 0
    assert "warning: cluster.max_cache_memory_bytes" in ended.stdout
    assert "is valid" in ended.stdout


def errors_in(log: str) -> list[str]:
    """All lines but those of the level INFO, which the settings have."""
    return [line for line in log.splitlines() if " INFO " not in line]


def test_a_taken_port_exits_with_one_clear_line(make_engine: StartEngine) -> None:
    engine = make_engine(covered=True)
    with socket.create_server(("127.0.0.1", engine.port)):
        engine.launch()
        status = engine.wait()
    assert status == 1
    [error] = errors_in(engine.log)
    assert error.startswith(f"error: cannot listen on 127.0.0.1:{engine.port}: Address already in use")
    assert error.endswith(": another process uses the port: stop it or set server.port")


def test_an_address_of_another_machine_is_refused_with_a_hint(make_engine: StartEngine) -> None:
    engine = make_engine({"server": {"host": "192.0.2.1"}}, covered=True)
    engine.launch()
    assert engine.wait() == 1
    assert "check server.host" in engine.log


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path, make_engine: StartEngine) -> None:
    (tmp_path / "file").write_text("")
    engine = make_engine({"storage": {"path": str(tmp_path / "file" / "data")}}, covered=True)
    engine.launch()
    assert engine.wait() == 1
    [error] = errors_in(engine.log)
    assert f"cannot use the data folder {tmp_path}/file/data: Not a directory" in error


def test_a_locked_data_folder_is_refused(make_engine: StartEngine) -> None:
    first = make_engine().start()
    second = make_engine({"storage": {"path": str(first.data)}}, covered=True)
    second.launch()
    assert second.wait() == 1
    assert str(first.data) in second.log.splitlines()[-1]
    assert "Traceback" not in second.log


def test_data_of_a_newer_version_is_refused(make_engine: StartEngine) -> None:
    engine = make_engine()
    engine.data.mkdir()
    (engine.data / "FORMAT").write_text("vectorizer-storage 99\n")
    engine.launch()
    assert engine.wait() == 1
    assert "has format 99, this version reads up to" in engine.log.splitlines()[-1]


def test_an_empty_api_key_is_no_key_at_all_and_is_refused() -> None:
    ended = run("check-config", environment={"VECTORIZER__AUTH__API_KEY": ""})
    assert (ended.returncode, "auth.api_key" in ended.stdout) == (1, True)


def test_a_key_of_the_wrong_type_is_refused_without_showing_it(tmp_path: Path) -> None:
    ended = run("serve", "--config", config_file(tmp_path, {"auth": {"api_key": 123456789}}))
    assert (ended.returncode, "auth.api_key: " in ended.stderr) == (1, True)
    assert "123456789" not in ended.stderr


def test_every_setting_is_logged_at_start_and_secrets_are_not(make_engine: StartEngine) -> None:
    engine = make_engine(
        {"auth": {"api_key": "very-secret"}, "cluster": {"enabled": True}},
        environment={"VECTORIZER__SERVER__REQUEST_MEMORY_BYTES": "16Mi"},
    ).start()
    for line in (
        f"server.port = {engine.port}\n",
        "server.request_memory_bytes = 16777216\n",
        "cluster.enabled = true\n",
        "cluster.max_cache_memory_bytes = 1073741824 (default)\n",
        "auth.api_key = ",
    ):
        assert line in engine.log
    logged = re.findall(r"^\S+ INFO +vectorizer_engine:   (\S+) = ", engine.log, re.MULTILINE)
    assert sorted(logged) == sorted(
        f"{section}.{setting}" for section, fields in Config().model_dump().items() for setting in fields
    )
    assert "very-secret" not in engine.log


def test_skipping_the_validation_starts_warns_and_shows_in_the_metrics(make_engine: StartEngine) -> None:
    engine = make_engine(
        {"cluster": {"enabled": True, "max_cache_memory_bytes": "2Gi"}},
        arguments=("--skip-cluster-validation",),
    ).start()
    with engine.http() as http:
        metrics = http.get("/metrics").text
    assert "vectorizer_cluster_validation_skipped 1.0" in metrics
    assert 'vectorizer_cluster_config_violations_total{type="ClusterConfigViolation"} 1.0' in metrics
    assert "UNSAFE: started with --skip-cluster-validation" in engine.log
    assert "CLUSTER_003" in engine.log


async def test_the_warning_of_a_skipped_validation_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    warning = asyncio.create_task(warn_of_skipped_validation(Metrics(), [], interval=0.001))
    await logged(caplog, 3)
    warning.cancel()
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def logged(caplog: pytest.LogCaptureFixture, count: int) -> None:
    async with asyncio.timeout(10):
        while len(caplog.records) < count:
            await asyncio.sleep(0.001)
