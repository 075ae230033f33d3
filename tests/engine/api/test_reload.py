"""SIGHUP: what changes in a running engine, what is told to wait for a restart, and what is refused."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import yaml

from tests.engine.fixtures import EngineProcess, StartEngine
from vectorizer_engine.api.reload import LIVE
from vectorizer_engine.config import Config, parse_config

MIB = 1024**2


def reload(engine: EngineProcess, changes: dict[str, dict[str, Any]] | str) -> str:
    """What the engine logs after its configuration was changed and SIGHUP sent."""
    if isinstance(changes, str):
        engine.config_file.write_text(changes)
    else:
        config = yaml.safe_load(engine.config_file.read_text())
        for section, fields in changes.items():
            config.setdefault(section, {}).update(fields)
        engine.config_file.write_text(yaml.safe_dump(config))
    before = len(engine.log)
    engine.signal(signal.SIGHUP)
    engine.wait_until(
        lambda: "configuration was" in engine.log[before:].rpartition("\n")[0], "told what became of it"
    )
    return engine.log[before:]


def test_the_limit_and_its_threshold_change_in_a_running_engine(make_engine: StartEngine) -> None:
    engine = make_engine(
        {"cluster": {"enabled": True, "max_cache_memory_bytes": "128Mi"}, "auth": {"api_key": "old-secret"}},
        covered=True,
    ).start()
    client = {"headers": {"api-key": "old-secret"}}

    def ledger() -> dict[str, Any]:
        with engine.http(**client) as http:
            found: dict[str, Any] = http.get("/cluster/memory").json()["result"]["ledger"]
            return found

    log = reload(engine, {"cluster": {"max_cache_memory_bytes": "64Mi", "cache_warning_threshold": 50}})
    assert (
        "the configuration was reloaded: cluster.max_cache_memory_bytes from 134217728 to 67108864, "
        "cluster.cache_warning_threshold from 80 to 50\n"
    ) in log
    assert ledger()["limit_bytes"] == 64 * MIB
    with engine.http(**client) as http:
        assert "vectorizer_cluster_cache_limit_bytes 6.7108864e+07" in http.get("/metrics").text

    log = reload(engine, {"cluster": {"max_cache_memory_bytes": "32Mi"}})
    assert "warning" in log.lower(), "under 64Mi"
    assert ledger()["limit_bytes"] == 32 * MIB

    log = reload(engine, {"server": {"max_request_bytes": "1Mi"}, "auth": {"api_key": "new-secret"}})
    assert "the configuration was reloaded: nothing to change\n" in log
    waiting = log.partition("not applied until the engine is restarted: ")[2].partition("\n")[0]
    assert waiting == "server.max_request_bytes, auth.api_key"
    assert "secret" not in log
    assert ledger()["limit_bytes"] == 32 * MIB, "and the old key still opens"


def test_what_changes_while_the_engine_starts_applies_as_soon_as_it_can(make_engine: StartEngine) -> None:
    engine = make_engine(covered=True)
    engine.launch()
    engine.wait_until(lambda: "starts with these settings" in engine.log, "past reading its configuration")
    assert "cluster.max_cache_memory_bytes from 1073741824 to 67108864" in reload(
        engine, {"cluster": {"max_cache_memory_bytes": "64Mi"}}
    )
    engine.wait_until(lambda: engine.answers("/readyz"), "ready")


@pytest.mark.parametrize(
    ("text", "message", "counted"),
    [
        ("cluster: [", "not YAML", "UnreadableConfig"),
        ("server: {porty: 1}", "server.porty: no such setting; did you mean server.port?", "ConfigError"),
        (
            "cluster: {enabled: true, max_cache_memory_bytes: 2Gi}",
            "CLUSTER_003: cluster.max_cache_memory_bytes",
            "ClusterConfigViolation",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_changes_nothing(
    engine: EngineProcess, text: str, message: str, counted: str
) -> None:
    good = engine.config_file.read_text()
    log = reload(engine, text)
    assert message in log
    assert "the configuration was not reloaded: the former one stays in force" in log
    assert "Traceback" not in log
    with engine.http() as http:
        assert http.get("/cluster/memory").json()["result"]["ledger"]["limit_bytes"] == 1024 * MIB
        assert (
            f'vectorizer_cluster_config_violations_total{{type="{counted}"}} 1.0' in http.get("/metrics").text
        )
    assert "nothing to change" in reload(engine, good)


def test_differences_name_each_setting_that_changed_and_no_other() -> None:
    config = parse_config({"auth": {"api_key": "a"}})
    assert config.differences(parse_config({"auth": {"api_key": "a"}})) == []
    other = parse_config(
        {"auth": {"api_key": "b"}, "cluster": {"max_cache_memory_bytes": 5}, "server": {"port": 1}}
    )
    assert config.differences(other) == ["server.port", "cluster.max_cache_memory_bytes", "auth.api_key"]


def test_what_may_change_live_are_settings() -> None:
    assert {path for path, _ in Config().settings()} >= LIVE
