"""What is rendered, as files that a review can read, and that a release must not change behind its users' backs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.operator.manifests.golden import FOLDER, RELEASE, cases, golden_of, rendered
from vectorizer_operator.api import VectorizerClusterSpec
from vectorizer_operator.api.types import Model
from vectorizer_operator.manifests import as_yaml


def name_of(case: Path) -> str:
    return f"{case.parent.name}-{case.name.partition('.')[0]}"


@pytest.mark.parametrize("case", [case for case in cases() if case.parent.name == RELEASE], ids=name_of)
def test_this_release_renders_its_golden_files(case: Path) -> None:
    expected = golden_of(case).read_text()
    assert as_yaml(rendered(case)) == expected, "if it is meant: python -m tests.operator.manifests.golden"


@pytest.mark.parametrize("case", cases(), ids=name_of)
def test_pods_made_by_an_earlier_release_are_not_restarted(case: Path) -> None:
    [before] = [o for o in yaml.safe_load_all(golden_of(case).read_text()) if o["kind"] == "StatefulSet"]
    now = rendered(case)[-1]
    assert now["spec"] == before["spec"]


def test_there_are_golden_files_of_this_release() -> None:
    assert {"quickstart.yaml", "everything.yaml"} <= {path.name for path in (FOLDER / RELEASE).iterdir()}


def test_everything_sets_every_field_of_the_spec() -> None:
    raw = yaml.safe_load((FOLDER / RELEASE / "everything.cluster.yaml").read_text())
    assert list(unset(VectorizerClusterSpec, raw["spec"], "spec")) == []


def unset(model: type[Model], raw: Any, path: str) -> Iterator[str]:
    for field in model.model_fields.values():
        here, kind = f"{path}.{field.alias}", field.annotation
        if field.alias not in raw:
            yield here
            continue
        value = raw[field.alias]
        kinds = [kind, *getattr(kind, "__args__", ())]
        for section in kinds:
            if isinstance(section, type) and issubclass(section, Model):
                yield from unset(section, value[0] if isinstance(value, list) else value, here)
