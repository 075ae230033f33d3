"""`vectorizerctl render` and `vectorizerctl crd`, as their users run them."""

import json
from pathlib import Path

import yaml
from click.testing import CliRunner, Result

from tests.operator.ctl.test_validate import BAD, GOOD
from vectorizer_operator.api.crd import crd
from vectorizer_operator.cli import ctl_main, operator_main

KINDS = ["ServiceAccount", "ConfigMap", "Service", "Service", "NetworkPolicy", "StatefulSet"]


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(ctl_main, arguments, input=stdin)


def test_render_prints_the_children() -> None:
    result = run("render", "-f", "-", "--image", "engine:1", stdin=GOOD)
    objects = list(yaml.safe_load_all(result.stdout))
    assert result.exit_code == 0
    assert [child["kind"] for child in objects] == KINDS
    assert objects[-1]["spec"]["template"]["spec"]["containers"][0]["image"] == "engine:1"


def test_render_prints_json_as_one_list() -> None:
    result = run("render", "-f", "-", "--image", "engine:1", "-o", "json", stdin=GOOD)
    assert [child["kind"] for child in json.loads(result.stdout)["items"]] == KINDS


def test_render_prints_the_configuration_so_that_people_can_read_it() -> None:
    result = run("render", "-f", "-", "--image", "engine:1", stdin=GOOD)
    assert "  config.yml: |\n    server:\n" in result.stdout


def test_render_refuses_what_breaks_a_rule() -> None:
    result = run("render", "-f", "-", "--image", "engine:1", stdin=BAD)
    assert result.exit_code == 1
    assert "CLUSTER_001" in result.stderr
    assert result.stdout == ""  # it may go to kubectl


def test_render_of_files_without_a_cluster_says_so() -> None:
    result = run("render", "-f", "-", "--image", "engine:1", stdin="kind: Service\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: -: no VectorizerCluster in there\n"


def test_render_of_an_unreadable_file_is_status_2(tmp_path: Path) -> None:
    assert run("render", "-f", str(tmp_path / "nowhere.yaml")).exit_code == 2


def test_render_asks_for_an_image_where_none_is_named() -> None:
    result = run("render", "-f", "-", stdin=GOOD)
    assert result.exit_code == 2
    assert "good sets no spec.image: name one with --image" in result.stderr


def test_crd_prints_the_definition() -> None:
    assert yaml.safe_load(run("crd").stdout) == crd()
    assert json.loads(run("crd", "-o", "json").stdout) == crd()


def test_help_lists_the_commands() -> None:
    for name in ("validate", "render", "crd", "local"):
        assert name in run("--help").stdout
    assert "run" in CliRunner().invoke(operator_main, ["--help"]).stdout


def test_an_unknown_command_is_wrong_usage() -> None:
    result = run("explode")
    assert result.exit_code == 2
    assert "No such command 'explode'" in result.stderr


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("vectorizerctl, version ")
