"""The tenants of a configuration: keys from files, and what is refused before the engine starts."""

from pathlib import Path
from typing import Any

import pytest

from vectorizer_engine.config import ConfigError, parse_config, read_config

ADMIN = {"api_key": "admin"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    for name, content in {
        "acme": "a-key\n",
        "globex": "g-key",
        "twice": "a-key",
        "two": "a b",
        "none": " \n",
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "binary").write_bytes(b"\xff")
    return tmp_path


def config(keys: Path, *members: dict[str, Any], **other: Any) -> dict[str, Any]:
    tenants = {"enabled": True, "keys_folder": str(keys), "members": list(members)}
    return {"auth": ADMIN, "tenants": tenants} | other


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse_config(raw)
    return refused.value.problems


ACME = {"name": "acme", "api_key_file": "acme"}
GLOBEX = {"name": "globex", "api_key_file": "globex"}


def test_keys_are_read_from_their_files_and_masked(keys: Path) -> None:
    parsed = parse_config(config(keys, ACME | {"memory_quota_bytes": "64Mi"}, GLOBEX))
    acme, globex = parsed.active_tenants
    assert (acme.api_key_file.get_secret_value(), globex.api_key_file.get_secret_value()) == (
        "a-key",
        "g-key",
    )
    assert (acme.memory_quota_bytes, globex.memory_quota_bytes) == (64 * 1024**2, None)
    assert "a-key" not in str(dict(parsed.settings()))


def test_an_absolute_path_is_taken_as_it_is(keys: Path) -> None:
    raw = config(Path("/nowhere"), ACME | {"api_key_file": str(keys / "acme")})
    assert parse_config(raw).active_tenants[0].api_key_file.get_secret_value() == "a-key"


def test_the_folder_of_the_keys_can_come_from_the_environment(keys: Path, tmp_path: Path) -> None:
    environ = {
        "VECTORIZER__AUTH__API_KEY": "admin",
        "VECTORIZER__TENANTS__ENABLED": "true",
        "VECTORIZER__TENANTS__KEYS_FOLDER": str(keys),
        "VECTORIZER__TENANTS__MEMBERS": "[{name: acme, api_key_file: acme}]",
    }
    assert [each.name for each in parse_config(read_config(None, environ)).active_tenants] == ["acme"]


def test_tenants_that_are_not_enabled_are_not_served(keys: Path) -> None:
    raw = config(keys, ACME)
    raw["tenants"]["enabled"] = False
    assert parse_config(raw).active_tenants == ()
    assert parse_config({}).active_tenants == ()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("missing", "cannot be read: No such file or directory"),
        ("two", "expected a file that holds one key and nothing else"),
        ("none", "expected a file that holds one key and nothing else"),
        ("binary", "expected a file that holds one key and nothing else"),
        (7, "expected the path of a file"),
    ],
)
def test_a_file_without_a_key_is_refused(keys: Path, file: Any, said: str) -> None:
    [problem] = problems(config(keys, ACME | {"api_key_file": file}))
    assert problem.startswith(f"tenants.members.0.api_key_file: {said}")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([ACME, GLOBEX | {"name": "acme"}], "members.1.name: 'acme' is the name of tenants.members.0 too"),
        (
            [ACME, GLOBEX | {"api_key_file": "twice"}],
            "members.1.api_key_file: holds the same key as tenants.members.0.",
        ),
        (
            [ACME | {"read_only_api_key_file": "twice"}],
            "members.0.read_only_api_key_file: holds the same key",
        ),
        (
            [ACME | {"memory_quota_bytes": "2Gi"}],
            "members.0.memory_quota_bytes: 2147483648 bytes are more than the",
        ),
        ([ACME | {"memory_quota_bytes": 0}], "members.0.memory_quota_bytes: Input should be greater than 0"),
        ([ACME | {"quota": 1}], "members.0.quota: no such setting"),
        (
            [ACME | {"api_key_fil": 1}],
            "members.0.api_key_fil: no such setting; did you mean tenants.members.0.api_key_file?",
        ),
        ([{"name": "acme"}], "members.0.api_key_file: is not set"),
        ([ACME | {"name": "../acme"}], "members.0.name: String should match pattern"),
        (["acme"], "members.0: Input should be a valid dictionary"),
        ([], "members: names no tenant, and tenants.enabled is true"),
    ],
)
def test_what_cannot_be_served_is_named_with_its_place(keys: Path, members: list[Any], said: str) -> None:
    [problem] = problems(config(keys, *members))
    assert problem.startswith(f"tenants.{said}")
    assert "a-key" not in problem


def test_without_a_key_of_the_engine_tenants_are_refused(keys: Path) -> None:
    [problem] = problems(config(keys, ACME, auth={}))
    assert problem.startswith("auth.api_key: is not set, and tenants.enabled is true")


def test_no_tenant_may_have_the_key_of_the_engine(keys: Path) -> None:
    [problem] = problems(config(keys, ACME, auth=ADMIN | {"read_only_api_key": "a-key"}))
    assert problem.startswith("tenants.members.0.api_key_file: holds the same key as auth.read_only_api_key")


def test_a_quota_is_held_against_the_limit_that_is_set(keys: Path) -> None:
    quota = ACME | {"memory_quota_bytes": "65Mi"}
    [problem] = problems(config(keys, quota, cluster={"max_cache_memory_bytes": "64Mi"}))
    assert problem.startswith("tenants.members.0.memory_quota_bytes: ")
    parse_config(config(keys, quota, cluster={"max_cache_memory_bytes": "65Mi"}))


@pytest.mark.parametrize(
    "tenants", [{"members": "acme"}, {"members": {"acme": 1}}, "acme", {"keys_folder": 7}]
)
def test_a_section_of_the_wrong_shape_is_refused(tenants: Any) -> None:
    assert all(problem.startswith("tenants") for problem in problems({"tenants": tenants}))
