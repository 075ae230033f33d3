"""The VectorizerCluster as a whole."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from vectorizer_operator.api.constants import MAX_NAME_LENGTH, NAME_PATTERN
from vectorizer_operator.api.spec import VectorizerClusterSpec
from vectorizer_operator.api.types import Model


class ObjectMeta(Model):
    """The part of an object's metadata that rendering needs."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(pattern=NAME_PATTERN, max_length=MAX_NAME_LENGTH)
    namespace: str = "default"
    uid: str = ""
    generation: int = 0


class VectorizerCluster(Model):
    """A memory-bounded vector search cluster."""

    api_version: Literal["vectorizer.io/v1"]
    kind: Literal["VectorizerCluster"]
    metadata: ObjectMeta
    spec: VectorizerClusterSpec

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "VectorizerCluster":
        """The cluster that *raw* stands for, its status left out. Raises pydantic's ValidationError, which
        `problems.structural_problems` says in words."""
        raw = {key: value for key, value in raw.items() if key != "status"}
        return cls.model_validate(without_nulls(raw), strict=True)


def without_nulls(value: Any) -> Any:
    """*value* without the fields that are null: in Kubernetes they are as good as not written."""
    if isinstance(value, Mapping):
        return {key: without_nulls(field) for key, field in value.items() if field is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
