"""What the operator reports: the `status` of a VectorizerCluster.

Conditions follow kstatus: Ready says that what was wished for runs; Reconciling and Stalled are true only while
something is under way, or cannot go on without a person.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from vectorizer_operator.api.types import Model


class ConditionType(StrEnum):
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    RULES_HONOURED = "RulesHonoured"
    MEMORY_BUDGET_HONOURED = "MemoryBudgetHonoured"


class Condition(Model):
    type: str = Field(
        description="Ready, Reconciling, Stalled, RulesHonoured or MemoryBudgetHonoured.",
        max_length=316,
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    observed_generation: int = Field(description="metadata.generation that this was said about.", ge=0)
    last_transition_time: str = Field(
        description="When the status last changed.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        description="Why, in one word for programs: the name of a rule, a predicate or a state.",
        max_length=1024,
    )
    message: str = Field(description="Why, for people.", max_length=32768)


class CacheStatus(Model):
    limit_bytes: int = Field(description="The limit over all caches of a pod, in bytes.")


class VectorizerClusterStatus(Model):
    """The observed state of a cluster."""

    observed_generation: int = Field(
        -1,
        description="metadata.generation that this status is about. -1 until the operator has seen the cluster.",
    )
    conditions: list[Condition] = Field(default_factory=list, description="The state in five conditions.")
    replicas: int = Field(0, description="Pods that there are.")
    ready_replicas: int = Field(0, description="Pods that answer requests.")
    updated_replicas: int = Field(0, description="Pods that run the current pod template.")
    current_version: str | None = Field(
        None, description="Image that every pod runs; while they differ, the one that they are leaving."
    )
    selector: str | None = Field(None, description="Label selector of the pods, for the scale subresource.")
    endpoint: str | None = Field(None, description="URL of the REST API inside of Kubernetes.")
    cache: CacheStatus | None = Field(None, description="The cache limit in force.")
