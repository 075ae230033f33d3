"""Building blocks of the custom resource's models."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, WithJsonSchema
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A part of the custom resource: camelCase in YAML, snake_case in Python, no unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )


Quantity = Annotated[int | str, WithJsonSchema({"x-kubernetes-int-or-string": True})]
"""A Kubernetes quantity, as written. That it is one is checked where its field is (`checks`, and CLUSTER_003 of the
rules): their messages say what to do, a schema's would not."""


def _passthrough(**properties: Any) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if properties:
        schema |= {"properties": properties, "required": sorted(properties)}
    return WithJsonSchema(schema)


_NAME = {"type": "string", "minLength": 1, "maxLength": 253}
_PATH = {"type": "string", "minLength": 1, "maxLength": 1024}

Passthrough = Annotated[dict[str, Any], _passthrough()]
"""A piece of a pod's specification, handed on as it is. The API server checks it as part of the StatefulSet."""

NamedPassthrough = Annotated[dict[str, Any], _passthrough(name=_NAME)]
"""The same, of a list in which names are unique."""

MountPassthrough = Annotated[dict[str, Any], _passthrough(name=_NAME, mountPath=_PATH)]
"""The same, of a container's volume mounts."""
