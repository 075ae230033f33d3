"""An AdmissionReview's request turned into its response. Pure; says nothing about what the schema covers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vectorizer_engine.cluster.validator import Violation
from vectorizer_operator.api.rules import violations, warnings

API_VERSION = "admission.k8s.io/v1"


class NotAReview(Exception):
    """What was sent is no AdmissionReview that asks for anything."""


def review(admission: Mapping[str, Any]) -> dict[str, Any]:
    """The AdmissionReview that answers *admission*: refused with every violation, or allowed with warnings.

    An update that leaves the spec as it was is allowed, violations and all: an object that got past the webhook
    must stay deletable and labelable, and the reconciler's guard keeps it from being rolled out.
    Raises NotAReview with what was expected.
    """
    request = admission.get("request")
    if not isinstance(request, Mapping) or not request.get("uid"):
        raise NotAReview(f"expected an {API_VERSION} AdmissionReview with a request and its uid")
    new, old = request.get("object"), request.get("oldObject")
    response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
    if isinstance(new, Mapping):
        broken = violations(new)
        advice = warnings(new)
        if broken and isinstance(old, Mapping) and old.get("spec") == new.get("spec"):
            advice = [violation.message for violation in broken] + advice
        elif broken:
            response["allowed"] = False
            response["status"] = {"code": 422, "reason": "Invalid", "message": refusal(broken)}
        if advice:
            response["warnings"] = advice
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def refusal(broken: list[Violation]) -> str:
    """Every violation, for a terminal: one on its own, several as a list."""
    if len(broken) == 1:
        return broken[0].message
    return "\n".join([f"{len(broken)} cluster rules are broken:", *(f"- {each.message}" for each in broken)])


def verdict(answer: Mapping[str, Any], admission: Mapping[str, Any]) -> tuple[str, ...]:
    """What the metrics count of an answered review: `allowed`, or the code of each rule that was broken."""
    if answer["response"]["allowed"]:
        return ("allowed",)
    return tuple(sorted({violation.code for violation in violations(admission["request"]["object"])}))
