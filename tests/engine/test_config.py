"""The engine's configuration: files, environment, and what is said of what does not fit."""

from pathlib import Path
from typing import Any

import pytest

from vectorizer_engine.config import Config, ConfigError, UnreadableConfig, parse_config, read_config


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse_config(raw)
    return refused.value.problems


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "config.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def unreadable(path: Path) -> str:
    with pytest.raises(UnreadableConfig) as refused:
        read_config(path, {})
    [problem] = refused.value.problems
    return problem


def test_without_file_and_environment_everything_is_at_its_default() -> None:
    assert parse_config(read_config(None, {})) == Config()


def test_a_file_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path, "server: {port: 7000}\ncluster: {enabled: true, max_cache_memory_bytes: 512Mi}\n"
    )
    config = parse_config(read_config(path, {}))
    assert config.server.port == 7000
    assert config.cluster.enabled
    assert config.cluster.max_cache_memory_bytes == 512 * 1024**2


@pytest.mark.parametrize("content", ["", "# nothing\n", "cluster:\nserver:\n"])
def test_what_is_empty_is_at_its_default(tmp_path: Path, content: str) -> None:
    assert parse_config(read_config(written(tmp_path, content), {})) == Config()


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {port: 7000}\n")
    environ = {
        "VECTORIZER__SERVER__PORT": "8000",
        "VECTORIZER__CLUSTER__ENABLED": "true",
        "VECTORIZER__CLUSTER__MAX_CACHE_MEMORY_BYTES": "64Mi",
        "VECTORIZER__STORAGE__PATH": "123",
        "VECTORIZER__AUTH__API_KEY": "0123",
        "HOME": "/ignored",
    }
    config = parse_config(read_config(path, environ))
    assert config.server.port == 8000
    assert config.cluster.enabled
    assert config.cluster.max_cache_memory_bytes == 64 * 1024**2
    assert config.storage.path == Path("123")
    assert config.auth.api_key is not None
    assert config.auth.api_key.get_secret_value() == "0123"


def test_a_value_of_the_environment_that_is_no_yaml_is_taken_as_text() -> None:
    raw = read_config(None, {"VECTORIZER__SERVER__PORT": "[1"})
    assert raw == {"server": {"port": "[1"}}
    assert problems(raw)[0].startswith("server.port: ")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("VECTORIZER__CLUSTER__MAX_CACHE_MEMORY", "did you mean cluster.max_cache_memory_bytes?"),
        ("VECTORIZER__SERVR__PORT", "did you mean server.port?"),
        ("VECTORIZER__CLUSTER", "did you mean cluster?"),
        ("VECTORIZER__ZZZ", "no such setting"),
    ],
)
def test_a_variable_that_names_no_setting_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=name) as refused:
        read_config(None, {name: "1"})
    assert hint in refused.value.problems[0]


def test_a_variable_does_not_hide_a_section_of_the_wrong_type(tmp_path: Path) -> None:
    raw = read_config(written(tmp_path, "server: nowhere\n"), {"VECTORIZER__SERVER__PORT": "8000"})
    assert problems(raw)[0].startswith("server: ")


def test_unreadable_files_are_named_with_the_reason(tmp_path: Path) -> None:
    assert "config.yml: cannot be read: No such file" in unreadable(tmp_path / "config.yml")
    assert "cannot be read: Is a directory" in unreadable(tmp_path)
    assert "config.yml:3:8: not YAML: " in unreadable(written(tmp_path, "server:\n  port: [1\ncluster: {}\n"))
    assert "not UTF-8 text: " in unreadable(written(tmp_path, b"server: \xff\n"))
    assert "not YAML: " in unreadable(written(tmp_path, "a: \x00\n"))
    assert "expected a mapping of sections, found a list" in unreadable(written(tmp_path, "- 1\n"))


def test_every_problem_is_named_at_once_with_path_and_value() -> None:
    found = problems(
        {"server": {"port": 0, "hots": "x"}, "clutser": {}, "cluster": {"cache_warning_threshold": 101}}
    )
    assert found[0] == "server.port: Input should be greater than or equal to 1, found 0"
    assert "server.hots: no such setting; did you mean server.host?" in found
    assert "clutser: no such setting; did you mean cluster?" in found
    assert any(problem.startswith("cluster.cache_warning_threshold: ") for problem in found)


@pytest.mark.parametrize("value", ["true", "yes", 1, "on"])
@pytest.mark.parametrize("key", ["enabled", "enforce_mmap_storage", "disable_file_watcher"])
def test_a_switch_is_true_or_false_and_nothing_like_it(key: str, value: Any) -> None:
    """What the models took for true and the rules did not would be a cluster that no rule is held against."""
    [problem] = problems({"cluster": {key: value}})
    assert problem.startswith(f"cluster.{key}: ")


@pytest.mark.parametrize("value", ["false", 1, None])
def test_the_file_watcher_is_on_or_off_and_nothing_like_it(value: Any) -> None:
    [problem] = problems({"file_watcher": {"enabled": value}})
    assert problem.startswith("file_watcher.enabled: ")


@pytest.mark.parametrize("fields", [{"enabled": True}, {"enabled": True, "paths": []}])
def test_a_file_watcher_without_folders_is_refused(fields: dict[str, Any]) -> None:
    [problem] = problems({"file_watcher": fields})
    assert problem.startswith("file_watcher.paths: names no folder")


def test_the_folders_to_watch_come_from_the_environment_too() -> None:
    environ = {"VECTORIZER__FILE_WATCHER__ENABLED": "true", "VECTORIZER__FILE_WATCHER__PATHS": "[/a, b/c]"}
    config = parse_config(read_config(None, environ))
    assert config.file_watcher.paths == (Path("/a"), Path("b/c"))
    assert dict(config.settings())["file_watcher.paths"] == ["/a", "b/c"]


@pytest.mark.parametrize("value", ["lots", "", 0, -1, None, 1.5, True])
def test_a_cache_limit_that_is_none_is_refused(value: Any) -> None:
    [problem] = problems({"cluster": {"max_cache_memory_bytes": value}})
    assert problem.startswith("cluster.max_cache_memory_bytes: ")


def test_a_switch_is_no_number() -> None:
    assert len(problems({"server": {"port": True}, "cluster": {"cache_warning_threshold": True}})) == 2


def test_secrets_are_masked_in_the_list_of_settings_and_in_problems() -> None:
    config = parse_config({"auth": {"api_key": "hush"}})
    listed = dict(config.settings())
    assert listed["auth.api_key"] == "**********"
    assert listed["server.port"] == 6333
    assert "hush" not in str(problems({"auth": {"api_key": ["hush"]}}))
    assert "hush" not in str(problems({"auth": "hush"}))


def test_a_key_that_is_for_reading_only_is_another_one() -> None:
    [problem] = problems({"auth": {"api_key": "k", "read_only_api_key": "k"}})
    assert problem.startswith("auth.read_only_api_key: is the same key as auth.api_key")


def test_an_empty_key_is_refused() -> None:
    [problem] = problems({"auth": {"api_key": ""}})
    assert problem.startswith("auth.api_key: ")


def test_settings_of_the_object_store_come_from_file_and_environment_alike() -> None:
    environ = {
        "VECTORIZER__STORAGE__OBJECT_STORE__URL": "s3://bucket/prefix",
        "VECTORIZER__STORAGE__OBJECT_STORE__REGION": "007",
    }
    store = parse_config(read_config(None, environ)).storage.object_store
    assert (store.url, store.endpoint, store.region) == ("s3://bucket/prefix", None, "007")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("VECTORIZER__STORAGE__OBJECT_STORE__URI", "; did you mean storage.object_store.url?"),
        ("VECTORIZER__STORAGE__OBJECT_STORE", ""),
        ("VECTORIZER__STORAGE__PATH__X", ""),
    ],
)
def test_an_environment_variable_that_names_no_setting_of_the_store_is_refused(
    name: str, suggestion: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(None, {name: "x"})
    assert f"{name}: no such setting" in error.value.problems[0]
    assert suggestion in error.value.problems[0]


@pytest.mark.parametrize("url", ["bucket", "http://bucket", "s3://", "file://relative/path"])
def test_an_address_that_is_no_object_store_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.object_store\.url"):
        parse_config({"storage": {"object_store": {"url": url}}})
