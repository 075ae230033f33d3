"""The configuration of a standalone engine, changed so that it keeps the cluster rules. All else stays as it is.

Text in, text out: nothing is read or written here. The YAML parser says where a value stands, and only that is
replaced, so comments, order, quotes and indentation are untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from vectorizer_engine.cluster.validator import ClusterConfigValidator
from vectorizer_engine.config import ENVIRONMENT_PREFIX, ConfigError, parse_config

_LARGEST_CACHE = "1Gi"
"""What becomes of a cache limit that a cluster may not have."""


class SettingChange(NamedTuple):
    """A setting of the file: its path, what it is (None: not set), and what it has to be."""

    path: str
    before: Any
    after: Any


def needed_changes(config: Mapping[str, Any]) -> list[SettingChange]:
    """What has to change in *config*, as it was read from the file alone, for the engine to run in cluster mode."""
    changes = []
    cluster = {**config.get("cluster", {}), "enabled": True}
    if not ClusterConfigValidator.in_cluster_mode(config):
        changes.append(SettingChange("cluster.enabled", config.get("cluster", {}).get("enabled"), True))
    for violation in ClusterConfigValidator().violations({**config, "cluster": cluster}):
        limits_the_cache = violation.path == "cluster.max_cache_memory_bytes"
        after = _LARGEST_CACHE if limits_the_cache else violation.required_value
        changes.append(SettingChange(violation.path, violation.current_value, after))
    return changes


def apply_changes(text: str, changes: list[SettingChange]) -> str:
    """The file's *text*, which is valid YAML, with *changes* made and every other byte as it was.

    Raises ConfigError for YAML in which that cannot be done, such as a section that is an alias.
    """
    changed = text
    for change in changes:
        section, _, key = change.path.partition(".")
        changed = _with_setting(changed, section, key, yaml.safe_dump(change.after).splitlines()[0])
    expected = {key: dict(fields or {}) for key, fields in (yaml.safe_load(text) or {}).items()}
    for change in changes:
        section, _, key = change.path.partition(".")
        expected.setdefault(section, {})[key] = change.after
    found = yaml.safe_load(changed) or {}
    if {key: dict(fields or {}) for key, fields in found.items()} != expected:
        wanted = ", ".join(f"{change.path} to {change.after}" for change in changes)
        raise ConfigError(
            [f"the configuration is written in a way that is not changed by itself: set {wanted}"]
        )
    return changed


def _with_setting(text: str, section: str, key: str, value: str) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    fields = _child(root, section)
    if fields is None:
        if isinstance(root, yaml.MappingNode) and root.flow_style:
            return _insert(text, root, f"{section}: {{{key}: {value}}}")
        return (
            f"{text if not text or text.endswith(chr(10)) else text + chr(10)}{section}:\n  {key}: {value}\n"
        )
    if not isinstance(fields, yaml.MappingNode):  # "section:" and nothing behind it
        return f"{text[: fields.start_mark.index]}\n  {key}: {value}{text[fields.end_mark.index :]}"
    old = _child(fields, key)
    if old is not None:
        return f"{text[: old.start_mark.index]}{value}{text[old.end_mark.index :]}"
    return _insert(text, fields, f"{key}: {value}")


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _insert(text: str, mapping: yaml.MappingNode, setting: str) -> str:
    """Put *setting* before what *mapping* has."""
    if mapping.flow_style:
        inside = text.index("{", mapping.start_mark.index) + 1
        return f"{text[:inside]}{setting}{', ' if mapping.value else ''}{text[inside:]}"
    first = mapping.value[0][0].start_mark
    return f"{text[: first.index]}{setting}\n{' ' * first.column}{text[first.index :]}"


def remaining_problems(
    config: Mapping[str, Any], changes: list[SettingChange], environ: Mapping[str, str]
) -> list[str]:
    """What is still wrong with *config*, the environment's overrides included, after *changes* to the file."""
    result = {section: dict(fields) for section, fields in config.items()}
    overriding = []
    for change in changes:
        section, _, key = change.path.partition(".")
        variable = f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()
        if variable not in environ:
            result.setdefault(section, {})[key] = change.after
        else:
            overriding.append(variable)
    validator = ClusterConfigValidator()
    problems = [violation.message for violation in validator.violations(result)]
    if not validator.in_cluster_mode(result):
        problems.append("cluster.enabled: the environment sets it to something else than true")
    if problems and overriding:
        problems.append(f"the environment overrides the file: unset {', '.join(overriding)}")
    try:
        parse_config(result)
    except ConfigError as error:
        known = tuple(problems)
        problems += [problem for problem in error.problems if problem not in known]
    return problems
