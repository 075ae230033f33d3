"""`docs/reference/vectorizercluster.md`: every field of a VectorizerCluster, as its users read about it."""

from collections.abc import Iterator
from typing import Any

from vectorizer_engine.cluster.validator import RULES
from vectorizer_operator.api.crd import schema

_HEAD = """# VectorizerCluster: every field

`vectorizer.io/v1`, short name `vzc`. Made from the models by `make generate`; the same text shows in
`kubectl explain vectorizercluster.spec`. A quantity is a whole number of bytes or a text such as `512Mi`.

"""


def field_reference() -> str:
    whole = schema()
    rules = "\n".join(f"| {rule.code} | {rule.name} | {rule.statement} |" for rule in RULES)
    return (
        _HEAD
        + "## The cluster rules\n\nHeld by the API server, the webhook, `vectorizerctl validate`, the operator and\n"
        "the engine alike. The name is the reason in the conditions.\n\n"
        f"| code | name | rule |\n|---|---|---|\n{rules}\n\n"
        + "".join(
            f"## {section}\n\n{whole['properties'][section]['description']}\n\n"
            "| field | type | default | |\n|---|---|---|---|\n"
            + "".join(_rows(whole["properties"][section], section))
            + "\n"
            for section in ("spec", "status")
        ).rstrip("\n")
        + "\n"
    )


def _rows(node: dict[str, Any], path: str) -> Iterator[str]:
    required = node.get("required", ())
    for name, field in node["properties"].items():
        here = f"{path}.{name}"
        default = "required" if name in required else _default(field)
        yield f"| `{here}` | {_type(field)} | {default} | {_cell(field.get('description', ''))} |\n"
        if not field.get("x-kubernetes-preserve-unknown-fields") and "properties" in field:
            yield from _rows(field, here)
        items = field.get("items", {})
        if "properties" in items and not items.get("x-kubernetes-preserve-unknown-fields"):
            yield from _rows(items, f"{here}[]")


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default is None or default == {}:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(field: dict[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "integer" and "minimum" in field and "maximum" in field:
        return f"{field['minimum']} to {field['maximum']}"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}s"
    if "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    names: dict[str, str] = {"string": "text", "boolean": "true or false", "integer": "whole number"}
    return names.get(field["type"], field["type"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
