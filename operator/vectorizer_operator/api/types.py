"""Building blocks of the custom resource's models."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class Model(BaseModel):
    """A part of the custom resource: camelCase in YAML, snake_case in Python, no unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )


ShortText = Annotated[str, StringConstraints(max_length=253)]
"""Bounded, as the cost of a CEL rule is estimated from the longest value."""

Quantity = Annotated[int | str, WithJsonSchema({"x-kubernetes-int-or-string": True})]
"""A Kubernetes quantity, as written. That it is one is checked where its field is (`checks`, and CLUSTER_003 of the
rules): their messages say what to do, a schema's would not."""


PodPart = dict[str, JsonValue]
P = TypeVar("P", PodPart, Model)

_OPEN: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_KEY_LENGTHS = {"name": 253, "mountPath": 1024}


def _with(*keys: str) -> tuple[AfterValidator, WithJsonSchema]:
    """That each of *keys* is there, for pydantic and for the API server."""

    def check(part: PodPart) -> PodPart:
        for key in keys:
            value = part.get(key)
            if not isinstance(value, str) or not 0 < len(value) <= _KEY_LENGTHS[key]:
                raise PydanticCustomError("incomplete", "expected a mapping with a {key}", {"key": key})
        return part

    properties = {key: {"type": "string", "minLength": 1, "maxLength": _KEY_LENGTHS[key]} for key in keys}
    return AfterValidator(check), WithJsonSchema(
        {**_OPEN, "properties": properties, "required": sorted(keys)}
    )


def unique(key: str) -> AfterValidator:
    """That no two entries of a list have the same *key*, as the API server wants it of a list with map keys."""

    def check(parts: list[P]) -> list[P]:
        values = [part[key] if isinstance(part, dict) else getattr(part, key) for part in parts]
        if len(set(map(str, values))) < len(values):
            raise PydanticCustomError("duplicate", "expected each {key} once", {"key": key})
        return parts

    return AfterValidator(check)


Passthrough = Annotated[PodPart, WithJsonSchema(_OPEN)]
"""A piece of a pod's specification, handed on as it is. The API server checks it as part of the StatefulSet."""

NamedPassthrough = Annotated[PodPart, *_with("name")]
"""The same, of a list in which names are unique."""

MountPassthrough = Annotated[PodPart, *_with("name", "mountPath")]
"""The same, of a container's volume mounts."""
