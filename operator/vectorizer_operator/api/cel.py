"""The rules in CEL, composed from the same data as their Python twins: codes, statements and fixes are identical.

The API server enforces them by itself, with the webhook down, and for `kubectl scale`, whose Scale object shows a
webhook nothing of the spec. Each rule sits on the field that it is about, so that a refusal names the field.
"""

from collections.abc import Mapping
from typing import Any

from vectorizer_engine.cluster import validator
from vectorizer_operator.api import checks
from vectorizer_operator.api.rules import SETTING_PATHS

CEL_TWINS: Mapping[str, str] = {
    "storage_type": "self == 'mmap'",
    "enforce_mmap_storage": "self",
    "file_watcher_enabled": "!self",
    "disable_file_watcher": "self",
    "max_cache_memory": (
        f"type(self) == int ? self > 0 && self <= {validator.MAX_CACHE_MEMORY_BYTES} : isQuantity(self) && "
        "quantity(self).isGreaterThan(quantity('0')) && "
        f"!quantity(self).isGreaterThan(quantity('{validator.MAX_CACHE_MEMORY_BYTES}'))"
    ),
    "replicas": "self.replicas <= 1 || has(self.storage.objectStore)",
}
"""`holds` of each of the validator's checks, by the setting that it is about."""

_SEES_THE_SPEC = "replicas"
"""The setting whose rule looks at another field, too, so that it has to sit on the spec."""


def validations(schema: Mapping[str, Any]) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """`x-kubernetes-validations` by the path of the field that they belong to. *schema* tells the fields' types."""
    rules: dict[tuple[str, ...], list[dict[str, str]]] = {
        (): [{"rule": checks.NAME_CEL, "message": checks.NAME_EXPECTED, "fieldPath": ".metadata.name"}]
    }
    for check in validator.CHECKS:
        path = SETTING_PATHS[check.setting]
        rule = _cluster_rule(check, path, _field(schema, path))
        if check.setting == _SEES_THE_SPEC:
            *path_of_rule, name = path
            rule |= {"fieldPath": f".{name}"}
            rules.setdefault(tuple(path_of_rule), []).append(rule)
        else:
            rules.setdefault(path, []).append(rule)
    for other in checks.CHECKS:
        rules.setdefault(other.path, []).append({"rule": other.cel, "message": other.expected})
    for transition in checks.TRANSITIONS:
        rules.setdefault(transition.path, []).append({"rule": transition.cel, "message": transition.expected})
    return rules


def _cluster_rule(check: validator.Check, path: tuple[str, ...], field: Mapping[str, Any]) -> dict[str, str]:
    dotted = ".".join(path)
    fix = validator.fix_in_words(check, dotted)
    value = f"self.{path[-1]}" if check.setting == _SEES_THE_SPEC else "self"

    def message(current: str) -> str:
        return validator.violation_message(check.rule.code, dotted, current, fix)

    # A concatenation ('a' + string(self)) would be refused: its cost is estimated without a bound.
    bare, quoted = _literal(message("%s")), _literal(message('"%s"'))
    if field.get("x-kubernetes-int-or-string"):
        template = f"(type(self) == string ? {quoted} : {bare})"
    else:
        template = quoted if field["type"] == "string" else bare
    return {
        "rule": CEL_TWINS[check.setting],
        "messageExpression": f"{template}.format([{value}])",
        "message": message("not allowed"),  # for clients that only read the definition
    }


def _literal(template: str) -> str:
    escaped = template.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _field(schema: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    for name in path:
        schema = schema["properties"][name]
    return schema
