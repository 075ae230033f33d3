"""Every reason that the planner can give is explained, and nothing else is."""

import re
from pathlib import Path

import vectorizer_operator.plan as package
from vectorizer_engine.cluster.validator import RULES
from vectorizer_operator.plan.reasons import REASONS

_NO_REASONS = {
    *("StatefulSet", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim", "PodScheduled", "ExpandVolume"),
    *("CreateSecret", "PublishTopology"),
    "BeingDeleted",  # of a preview, which writes no condition
}


def test_every_reason_that_the_planner_writes_is_explained() -> None:
    folder = Path(package.__file__).parent
    code = "".join(file.read_text() for file in folder.glob("*.py") if file.name != "reasons.py")
    written = set(re.findall(r'"((?:[A-Z][a-z]+){2,})"', code)) | {
        "Paused",
        "Progressing",
        "Computed",
        "Sufficient",
    }
    assert {"NeverShrinkStorage", "ActionRefused", "WaitingForPods"} <= written
    assert (written - _NO_REASONS) | {rule.name for rule in RULES} == set(REASONS)


def test_every_explanation_is_made_of_sentences() -> None:
    for name, reason in REASONS.items():
        assert reason.kind in ("rule", "predicate", "state"), name
        assert reason.meaning.endswith("."), name
        assert reason.advice.endswith("."), name
