"""From the observed state of a cluster to the next actions and its status. Pure; time is an argument."""

from vectorizer_operator.plan.model import Action, Apply, Delete, ExpandVolume, Observed, Plan
from vectorizer_operator.plan.planner import plan, with_failure

__all__ = ["Action", "Apply", "Delete", "ExpandVolume", "Observed", "Plan", "plan", "with_failure"]
