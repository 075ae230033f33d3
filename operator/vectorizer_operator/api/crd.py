"""The CustomResourceDefinition, made from the models.

Defaults, descriptions, ranges and the structural schema come from `spec` and `status`; the rules in CEL come from
`cel`. Nothing about a field is said here a second time.
"""

from typing import Any

from vectorizer_operator.api import constants
from vectorizer_operator.api.cel import validations
from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.spec import VectorizerClusterSpec
from vectorizer_operator.api.status import VectorizerClusterStatus

Schema = dict[str, Any]

_KEPT = frozenset(
    {
        "type",
        "description",
        "default",
        "enum",
        "format",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
    }
    | {"minItems", "maxItems", "maxProperties", "required", "items", "properties", "additionalProperties"}
    | {"x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"}
)
_LIST_KEYS = {
    ("spec", "tenants"): "name",
    ("spec", "podTemplate", "env"): "name",
    ("spec", "podTemplate", "volumes"): "name",
    ("spec", "podTemplate", "volumeMounts"): "mountPath",
    ("status", "conditions"): "type",
}
"""Lists in which one field names the entry, which is also how several managers share the list."""

_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether what was wished for runs."),
    ("Replicas", "integer", ".status.readyReplicas", "Pods that answer requests."),
    ("Cache", "string", ".spec.cluster.maxCacheMemory", "The limit over all caches of a pod."),
    ("Version", "string", ".status.currentVersion", "Image that the pods run."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
)


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as the API server takes it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{constants.PLURAL}.{constants.GROUP}"},
        "spec": {
            "group": constants.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": constants.KIND,
                "listKind": f"{constants.KIND}List",
                "plural": constants.PLURAL,
                "singular": constants.SINGULAR,
                "shortNames": [constants.SHORT_NAME],
            },
            "versions": [
                {
                    "name": constants.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "description": description}
                        for name, kind, path, description in _COLUMNS
                    ],
                }
            ],
        },
    }


def schema() -> Schema:
    """The structural schema of a VectorizerCluster, rules included."""
    status = _structural(VectorizerClusterStatus.model_json_schema())
    # A fresh object must never read as ready: until the operator has seen it, it was observed at no generation.
    status["default"] = {"observedGeneration": status["properties"]["observedGeneration"]["default"]}
    for name in set(status["properties"]) - {"observedGeneration"}:
        status["properties"][name].pop("default", None)
    whole: Schema = {
        "description": VectorizerCluster.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
            "spec": _structural(VectorizerClusterSpec.model_json_schema()),
            "status": status,
        },
    }
    for path, key in _LIST_KEYS.items():
        at(whole, path).update({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]})
    for path, rules in validations(whole).items():
        at(whole, path)["x-kubernetes-validations"] = rules
    return whole


def at(schema: Schema, path: tuple[str, ...]) -> Schema:
    """The schema of the field at *path*."""
    for name in path:
        schema = schema["properties"][name]
    return schema


def _structural(schema: Schema) -> Schema:
    """A pydantic JSON schema as a Kubernetes structural one: references inlined, `null` left out (in Kubernetes an
    unset field is absent), nothing that structural schemas do not know."""
    definitions = schema.get("$defs", {})

    def convert(node: Schema) -> Schema:
        if "$ref" in node:
            node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
        options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
        if options:
            node = {**convert(options[0]), **{key: value for key, value in node.items() if key != "anyOf"}}
        kept = {key: value for key, value in node.items() if key in _KEPT and value is not None}
        if "properties" in kept:
            kept["properties"] = {name: convert(field) for name, field in kept["properties"].items()}
            kept.pop("additionalProperties", None)
        elif isinstance(kept.get("additionalProperties"), dict):
            kept["additionalProperties"] = convert(kept["additionalProperties"])
        elif not kept.get("x-kubernetes-preserve-unknown-fields"):
            kept.pop("additionalProperties", None)
        if "required" in kept:
            kept["required"] = [
                *kept["required"]
            ]  # a section that is used twice must not become a YAML alias
        if "items" in kept:
            kept["items"] = convert(kept["items"])
        fields = kept.get("properties", {}).values()
        if "required" not in kept and any("default" in field for field in fields):
            kept["default"] = {}  # so that the defaults below it apply when the section is not written
        return kept

    converted = convert(schema)
    converted.pop("default", None)
    return converted
