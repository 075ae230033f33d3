"""The definition: what can be said of it without an API server. `tests/doors` applies it to a real one."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from vectorizer_engine.cluster.validator import CHECKS, fix_in_words
from vectorizer_operator.api.cel import CEL_TWINS
from vectorizer_operator.api.checks import CHECKS as SPEC_CHECKS
from vectorizer_operator.api.checks import TRANSITIONS
from vectorizer_operator.api.crd import at, crd, schema
from vectorizer_operator.api.rules import SETTING_PATHS


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{path}[]")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.setting)
def test_every_check_of_the_validator_has_a_twin_in_cel(check: Any) -> None:
    path = SETTING_PATHS[check.setting]
    rules = [
        rule
        for place in (path, path[:-1])
        for rule in at(schema(), place).get("x-kubernetes-validations", ())
    ]
    [rule] = [rule for rule in rules if rule["rule"] == CEL_TWINS[check.setting]]
    for text in (rule["message"], rule["messageExpression"]):
        assert check.rule.code in text
        assert check.rule.statement in text
        assert fix_in_words(check, ".".join(path)) in text


def test_there_is_no_twin_of_a_check_that_is_gone() -> None:
    assert set(CEL_TWINS) == {check.setting for check in CHECKS} == set(SETTING_PATHS)


@pytest.mark.parametrize("check", [*SPEC_CHECKS, *TRANSITIONS], ids=lambda check: ".".join(check.path))
def test_every_check_of_the_spec_is_a_rule_of_its_field(check: Any) -> None:
    assert {"rule": check.cel, "message": check.expected} in at(schema(), check.path)[
        "x-kubernetes-validations"
    ]


def test_the_schema_is_structural() -> None:
    for path, node in nodes(schema()):
        assert "$ref" not in node and "anyOf" not in node and "title" not in node, path
        typed = node.get("type") or node.get("x-kubernetes-int-or-string")
        assert typed, f"{path} has no type"
        assert not ("properties" in node and "additionalProperties" in node), path


def test_every_field_is_described() -> None:
    undescribed = [
        path
        for path, node in nodes(schema())
        if path.startswith((".spec", ".status")) and "[]" not in path and "description" not in node
    ]
    assert undescribed == []


def test_only_pieces_of_pods_are_passed_through_unchecked() -> None:
    open_fields = {p for p, node in nodes(schema()) if node.get("x-kubernetes-preserve-unknown-fields")}
    assert open_fields == {
        ".spec.scheduling.affinity",
        ".spec.scheduling.tolerations[]",
        ".spec.scheduling.topologySpreadConstraints[]",
        ".spec.podTemplate.env[]",
        ".spec.podTemplate.volumes[]",
        ".spec.podTemplate.volumeMounts[]",
    }


def test_it_is_smaller_than_64_kib() -> None:
    assert len(json.dumps(crd())) < 64 * 1024
    assert len(yaml.safe_dump(crd())) < 64 * 1024


def test_a_fresh_object_was_observed_at_no_generation() -> None:
    assert schema()["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_the_status_is_defaulted_nowhere_else() -> None:
    defaults = {path for path, node in nodes(schema()["properties"]["status"]) if path and "default" in node}
    assert defaults == {".observedGeneration"}
