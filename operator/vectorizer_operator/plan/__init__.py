"""From the observed state of a cluster to the next actions and its status. Pure; time is an argument."""

from vectorizer_operator.plan.changes import pods_left_behind
from vectorizer_operator.plan.model import (
    Action,
    Apply,
    CreateSecret,
    Delete,
    Engine,
    ExpandVolume,
    Member,
    Observed,
    Plan,
    PublishTopology,
)
from vectorizer_operator.plan.planner import plan, with_failure

__all__ = [
    "Action",
    "Apply",
    "CreateSecret",
    "Delete",
    "Engine",
    "ExpandVolume",
    "Member",
    "Observed",
    "Plan",
    "PublishTopology",
    "plan",
    "pods_left_behind",
    "with_failure",
]
