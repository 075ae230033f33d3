"""Whatever a user writes where a field should be, it is judged and never crashes a door."""

import copy
from datetime import UTC, datetime
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.manifests.golden import FOLDER, RELEASE
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.api.problems import structural_problems
from vectorizer_operator.api.rules import violations, warnings
from vectorizer_operator.manifests import as_yaml, render
from vectorizer_operator.plan import Observed, plan

EVERYTHING = yaml.safe_load((FOLDER / RELEASE / "everything.cluster.yaml").read_text())

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below *node*."""
    pairs = (
        list(node.items())
        if isinstance(node, dict)
        else list(enumerate(node))
        if isinstance(node, list)
        else []
    )
    return [(node, key) for key, _ in pairs] + [place for _, value in pairs for place in places(value)]


@st.composite
def mutilated(draw: st.DrawFn) -> dict[str, Any]:
    """A good cluster of which up to three places hold something else, or nothing."""
    raw = copy.deepcopy(EVERYTHING)
    for _ in range(draw(st.integers(1, 3))):
        below = [
            place
            for key in ("spec", "metadata", "kind")
            if key in raw
            for place in [(raw, key), *places(raw[key])]
        ]
        container, key = draw(st.sampled_from(below))
        if draw(st.booleans()) and isinstance(container, dict):
            del container[key]
        else:
            container[key] = draw(anything)
    return raw


@given(raw=mutilated())
@settings(max_examples=200, deadline=None)
def test_a_mutilated_cluster_is_judged_and_what_has_no_problem_can_be_rendered(raw: dict[str, Any]) -> None:
    broken, problems = violations(raw), structural_problems(raw)
    warnings(raw)
    assert all(problem.path is not None and problem.message for problem in problems)
    if not problems:
        assert as_yaml(render(VectorizerCluster.parse(raw), default_image="engine:1"))
    metadata = {"name": "demo", "namespace": "default", "uid": "u", "generation": 1}
    planned = plan(
        Observed(cluster={**raw, "metadata": metadata}), now=datetime.now(UTC), default_image="engine:1"
    )
    if broken:
        assert planned.actions == ()


@given(raw=anything.map(lambda value: value if isinstance(value, dict) else {"spec": value}))
@settings(deadline=None)
def test_any_mapping_is_judged(raw: dict[str, Any]) -> None:
    violations(raw)
    assert structural_problems(raw)
