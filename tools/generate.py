"""Write, or check, the files that are made from the models: `python -m tools.generate [--check]`.

The models are the source; the files are kept in the repository so that people, editors, kubectl and Helm can read them.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tools.config_example import config_example
from tools.config_reference import config_reference
from tools.dashboard import dashboard
from tools.field_reference import field_reference
from vectorizer_operator.api import constants
from vectorizer_operator.api.crd import crd, schema

ROOT = Path(__file__).resolve().parent.parent
_NOTE = "# Made from the models by `make generate`; do not edit.\n"


def crd_yaml() -> str:
    return _NOTE + yaml.safe_dump(crd(), sort_keys=False, width=110, allow_unicode=True)


def chart_crd() -> str:
    """The definition as a template of the chart: helm upgrades it, and keeps it, with the data, on uninstall."""
    definition = crd()
    definition["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    text = yaml.safe_dump(definition, sort_keys=False, width=110, allow_unicode=True)
    return _NOTE + text.replace("{{", "{{ `{{` }}")


def json_schema() -> str:
    """For editors and pipelines; stricter than the definition's schema in that unknown fields are errors."""
    whole = _closed(schema())
    whole["properties"] |= {
        "apiVersion": {"const": constants.API_VERSION},
        "kind": {"const": constants.KIND},
        "metadata": {
            "type": "object",
            "properties": {
                "name": {
                    "type": "string",
                    "pattern": constants.NAME_PATTERN,
                    "maxLength": constants.MAX_NAME_LENGTH,
                }
            },
            "required": ["name"],
        },
    }
    whole["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}, indent=2) + "\n"


def _closed(node: Any) -> Any:
    """A structural schema as a plain JSON schema: what only Kubernetes knows is left out, objects are closed."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: value for key, value in node.items() if not key.startswith("x-kubernetes-")}
    if node.get("x-kubernetes-int-or-string"):
        plain["type"] = ["integer", "string"]
    for key in ("items", "additionalProperties"):
        if key in plain:
            plain[key] = _closed(plain[key])
    if "properties" in plain:
        plain["properties"] = {name: _closed(field) for name, field in plain["properties"].items()}
        plain["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    return plain


FILES: dict[str, Callable[[], str]] = {
    "crds/vectorizerclusters.vectorizer.io.yaml": crd_yaml,
    "helm/vectorizer-operator/templates/crds.yaml": chart_crd,
    "docs/reference/vectorizercluster.schema.json": json_schema,
    "docs/reference/vectorizercluster.md": field_reference,
    "dashboards/vectorizer-cluster.json": dashboard,
    "helm/vectorizer-operator/monitoring/vectorizer-cluster.json": dashboard,
    "config.example.yml": config_example,
    "docs/users/CONFIGURATION.md": config_reference,
}


def stale(root: Path) -> list[str]:
    """The files below *root* that are not what the models give."""
    return [
        name
        for name, make in FILES.items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != make()
    ]


def main(arguments: list[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.generate", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; name the files that are stale")
    options = parser.parse_args(arguments)
    names = stale(root)
    if options.check:
        for name in names:
            print(f"{name} is stale: run `make generate` and commit it", file=sys.stderr)
        return 1 if names else 0
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name](), encoding="utf-8")
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
