"""Configurations are changed where a rule needs it, and nowhere else."""

from __future__ import annotations

import pytest
import yaml

from vectorizer_engine.config import ConfigError
from vectorizer_engine.migration.config_file import apply_changes, needed_changes

COMMENTED = """\
# top
server:
    host: 0.0.0.0   # everywhere
    port: 6333

# where it is
storage:
    type: memory    # fast
    path: "./data"
file_watcher:
    enabled: true
    paths:
    - /a   # one
    - /b
cluster: {max_cache_memory_bytes: 2Gi, enforce_mmap_storage: no}
# end
"""

CONVERTED = """\
# top
server:
    host: 0.0.0.0   # everywhere
    port: 6333

# where it is
storage:
    type: mmap    # fast
    path: "./data"
file_watcher:
    enabled: false
    paths:
    - /a   # one
    - /b
cluster: {enabled: true, max_cache_memory_bytes: 1Gi, enforce_mmap_storage: true}
# end
"""


def converted(text: str) -> str:
    raw = {key: fields or {} for key, fields in (yaml.safe_load(text) or {}).items()}
    return apply_changes(text, needed_changes(raw))


def test_comments_quotes_order_and_indentation_stay() -> None:
    assert converted(COMMENTED) == CONVERTED
    assert converted(CONVERTED) == CONVERTED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cluster:\n  enabled: true\n"),
        ("# nothing but this\n", "# nothing but this\ncluster:\n  enabled: true\n"),
        ("# no newline", "# no newline\ncluster:\n  enabled: true\n"),
        ("cluster:\n", "cluster:\n  enabled: true\n"),
        ("cluster:  # later\nauth: {}\n", "cluster:\n  enabled: true  # later\nauth: {}\n"),
        (
            "cluster: &c\n  cache_warning_threshold: 9\n",
            "cluster: &c\n  enabled: true\n  cache_warning_threshold: 9\n",
        ),
        ("cluster: &c {}\n", "cluster: &c {enabled: true}\n"),
        ("cluster: {}\n", "cluster: {enabled: true}\n"),
        ("{storage: {path: a}}", "{cluster: {enabled: true}, storage: {path: a}}"),
        (
            "cluster:\n    # size\n    max_cache_memory_bytes: 1Gi\n",
            "cluster:\n    # size\n    enabled: true\n    max_cache_memory_bytes: 1Gi\n",
        ),
        ("cluster:\n  enabled: false  # yet\n", "cluster:\n  enabled: true  # yet\n"),
    ],
)
def test_what_is_missing_is_added(text: str, expected: str) -> None:
    assert converted(text) == expected


def test_what_cannot_be_changed_in_place_is_left_to_its_owner() -> None:
    text = "server: &all {}\ncluster: *all\n"
    with pytest.raises(ConfigError, match=r"set cluster\.enabled to True"):
        converted(text)
