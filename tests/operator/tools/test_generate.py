"""The files that are made from the models."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from tools.generate import FILES, ROOT, main, stale

from vectorizer_engine.cluster.validator import validate_cluster_config
from vectorizer_engine.config import Config, is_section, parse_config
from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.crd import crd, schema
from vectorizer_operator.manifests import config_yaml

GOLDEN = ROOT / "tests/operator/manifests/golden"


def test_the_repositorys_files_are_what_the_models_give() -> None:
    assert stale(ROOT) == []


def test_check_names_each_stale_file_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    (tmp_path / "config.example.yml").write_text("old")
    (tmp_path / "crds/vectorizerclusters.vectorizer.io.yaml").unlink()
    capsys.readouterr()
    assert main(["--check"], tmp_path) == 1
    said = capsys.readouterr().err
    assert "config.example.yml is stale: run `make generate`" in said
    assert "crds/vectorizerclusters.vectorizer.io.yaml is stale" in said
    assert (tmp_path / "config.example.yml").read_text() == "old"


def test_generating_writes_what_is_stale_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([], tmp_path)
    (tmp_path / "config.example.yml").write_text("old")
    capsys.readouterr()
    main([], tmp_path)
    assert capsys.readouterr().out == "wrote config.example.yml\n"


def test_the_example_configuration_is_the_default_one() -> None:
    assert parse_config(yaml.safe_load(FILES["config.example.yml"]())) == Config()


def test_the_example_configuration_is_one_of_cluster_mode_as_soon_as_that_is_switched_on() -> None:
    raw = yaml.safe_load(FILES["config.example.yml"]())
    raw["cluster"]["enabled"] = True
    assert validate_cluster_config(raw) == []


def test_the_configuration_page_has_every_setting_and_where_the_operator_takes_it_from() -> None:
    text = FILES["docs/users/CONFIGURATION.md"]()
    tables, _, mapped = text.partition("## In a VectorizerCluster")
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", tables, re.MULTILINE)) == set(settings(Config))
    everything = VectorizerCluster.parse(
        yaml.safe_load((GOLDEN / "0.1.0/everything.cluster.yaml").read_text())
    )
    written = set(leaves(yaml.safe_load(config_yaml(everything))))
    by_environment = {"auth.api_key", "auth.read_only_api_key"}
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", mapped, re.MULTILINE)) == written | by_environment


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if is_section(field.annotation):
            assert field.annotation is not None
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_charts_definition_is_kept_on_uninstall() -> None:
    text = FILES["helm/vectorizer-operator/templates/crds.yaml"]()
    chart = yaml.safe_load(text)
    assert chart["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert chart["spec"] == crd()["spec"]


def test_the_reference_has_every_field() -> None:
    text = FILES["docs/reference/vectorizercluster.md"]()
    for name, field in schema()["properties"]["spec"]["properties"].items():
        assert f"| `spec.{name}` |" in text
        for inner in field.get("properties", {}):
            assert f"| `spec.{name}.{inner}` |" in text


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    whole = json.loads(FILES["docs/reference/vectorizercluster.schema.json"]())
    jsonschema.Draft202012Validator.check_schema(whole)
    return jsonschema.Draft202012Validator(whole)


@pytest.mark.parametrize("case", sorted(GOLDEN.glob("*/*.cluster.yaml")), ids=lambda path: path.stem)
def test_the_schema_for_editors_takes_real_clusters(
    validator: jsonschema.Draft202012Validator, case: Path
) -> None:
    assert list(validator.iter_errors(yaml.safe_load(case.read_text()))) == []


def test_the_schema_for_editors_finds_a_misspelled_field(validator: jsonschema.Draft202012Validator) -> None:
    raw = yaml.safe_load((GOLDEN / "0.1.0/everything.cluster.yaml").read_text())
    raw["spec"]["storage"]["sise"] = "1Gi"
    raw["spec"]["replicas"] = "two"
    raw["metadata"]["name"] = "1st"
    assert sorted(".".join(map(str, e.path)) for e in validator.iter_errors(raw)) == [
        "metadata.name",
        "spec.replicas",
        "spec.storage",
    ]
