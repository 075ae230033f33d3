"""`vectorizerctl validate -o sarif` and `-o junit`, read as a pipeline reads them; the hook and the workflow."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from tests.operator.ctl.test_validate import BAD, GOOD
from vectorizer_engine.cluster.validator import RULES
from vectorizer_operator.cli import ctl_main

ROOT = Path(__file__).parents[3]


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


_TEXT = _closed(["text"], text={"type": "string", "minLength": 1})
_POSITION = {"type": "integer", "minimum": 1}
SARIF = _closed(
    ["version", "runs"],
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs={
        "type": "array",
        "items": _closed(
            ["tool"],
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            tool=_closed(
                ["driver"],
                driver=_closed(
                    ["name"],
                    name={"type": "string"},
                    version={"type": "string"},
                    rules={
                        "type": "array",
                        "uniqueItems": True,
                        "items": _closed(
                            ["id"], id={"type": "string"}, name={"type": "string"}, shortDescription=_TEXT
                        ),
                    },
                ),
            ),
            results={
                "type": "array",
                "items": _closed(
                    ["message"],
                    ruleId={"type": "string"},
                    level={"enum": ["none", "note", "warning", "error"]},
                    message=_TEXT,
                    locations={
                        "type": "array",
                        "minItems": 1,
                        "items": _closed(
                            ["physicalLocation"],
                            physicalLocation=_closed(
                                ["artifactLocation"],
                                artifactLocation=_closed(
                                    ["uri"], uri={"type": "string", "format": "uri-reference"}
                                ),
                                region=_closed(["startLine"], startLine=_POSITION, startColumn=_POSITION),
                            ),
                        ),
                    },
                ),
            },
        ),
    },
)
"""The part of SARIF 2.1.0 that is written here, closed: what is not in the standard's schema is an error."""


def validate(output: str, text: str) -> Result:
    return CliRunner().invoke(ctl_main, ["validate", "-o", output, "-"], input=text)


def test_sarif_names_rule_file_and_line_of_each_finding() -> None:
    result = validate("sarif", f"{GOOD}---\n{BAD}")
    assert result.exit_code == 1
    log = json.loads(result.stdout)
    jsonschema.validate(log, SARIF, format_checker=jsonschema.FormatChecker())
    (run,) = log["runs"]
    found = [
        (each["ruleId"], each["locations"][0]["physicalLocation"]["region"]["startLine"], each["level"])
        for each in run["results"]
    ]
    assert found == [("CLUSTER_001", 15, "error"), ("STRUCTURE", 16, "error"), ("CLUSTER_003", 18, "error")]
    assert "set spec.storage.type to mmap" in run["results"][0]["message"]["text"]


def test_every_rule_that_a_sarif_result_may_name_is_described() -> None:
    (run,) = json.loads(validate("sarif", f"{BAD}---\n[1").stdout)["runs"]
    described = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {each["ruleId"] for each in run["results"]} <= described
    assert {rule.code for rule in RULES} <= described


def test_sarif_of_input_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    result = validate("sarif", "a: [1\nb: 2\n")
    assert result.exit_code == 2
    log = json.loads(result.stdout)
    jsonschema.validate(log, SARIF, format_checker=jsonschema.FormatChecker())
    (finding,) = log["runs"][0]["results"]
    assert finding["locations"][0]["physicalLocation"]["region"] == {"startLine": 2, "startColumn": 2}
    missing = CliRunner().invoke(ctl_main, ["validate", "-o", "sarif", str(tmp_path / "no such.yaml")])
    (finding,) = json.loads(missing.stdout)["runs"][0]["results"]
    place = finding["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": f"{tmp_path}/no%20such.yaml"}}


def test_sarif_of_what_is_well_has_no_result() -> None:
    result = validate("sarif", GOOD)
    assert (result.exit_code, json.loads(result.stdout)["runs"][0]["results"]) == (0, [])


def test_junit_has_a_test_for_each_cluster() -> None:
    result = validate("junit", f"{GOOD}---\n{BAD}---\n[1")
    assert result.exit_code == 2
    suites = ElementTree.fromstring(result.stdout.encode())
    (suite,) = suites
    assert {key: suite.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    outcomes = {case.get("name"): [child.tag for child in case] for case in suite}
    assert outcomes == {"can be read": ["error"], "good": [], "bad": ["failure"]}
    failure = suite.find("testcase[@name='bad']/failure")
    assert failure is not None
    assert failure.text is not None
    assert len(failure.text.splitlines()) == 3
    assert "<stdin>:15: CLUSTER_001" in failure.text


def test_junit_passes_a_warning_on_without_failing() -> None:
    result = validate("junit", GOOD.replace("256Mi", "16Mi"))
    suites = ElementTree.fromstring(result.stdout.encode())
    assert (result.exit_code, suites.get("failures")) == (0, "0")
    assert "under 64Mi" in (suites.findtext(".//system-out") or "")


def test_junit_is_xml_whatever_the_input_holds() -> None:
    result = validate("junit", GOOD.replace("name: good", 'name: "a\\x01<b>&"'))
    assert result.exit_code == 1
    (case,) = ElementTree.fromstring(result.stdout.encode()).iter("testcase")
    assert case.get("name") == "a\ufffd<b>&"


def test_the_pre_commit_hook_runs_the_command_that_there_is() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, *arguments = hook["entry"].split()
    assert program == "vectorizerctl"
    checked = CliRunner().invoke(ctl_main, [*arguments, str(ROOT / "examples" / "quickstart.yaml")])
    assert checked.exit_code == 0


def test_the_pre_commit_hook_can_read_whatever_it_is_given_of_a_repository_with_a_chart() -> None:
    """This one: of its files only the example that is to be refused is wrong."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    names = [
        file.relative_to(ROOT).as_posix()
        for folder in ("crds", "dashboards", "docs", "examples", "helm")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".yaml", ".yml", ".json")
    ]
    given = [name for name in names if not re.search(hook["exclude"], name)]
    assert len(given) < len(names), "the templates"
    checked = CliRunner().invoke(
        ctl_main, [*hook["entry"].split()[1:], *(str(ROOT / name) for name in given), "-o", "json"]
    )
    report = json.loads(checked.stdout)
    assert report["errors"] == []
    assert [each["name"] for each in report["clusters"] if not each["valid"]] == ["refused"]


@pytest.mark.parametrize("job", ["validate", "plan"])
def test_the_example_workflow_runs_commands_that_there_are(job: str) -> None:
    workflow = yaml.safe_load((ROOT / "examples" / "ci" / "github-workflow.yml").read_text())
    lines = [line for step in workflow["jobs"][job]["steps"] for line in step.get("run", "").splitlines()]
    (line,) = [line for line in lines if "vectorizerctl" in line]
    words = line.partition("vectorizerctl ")[2].partition(" >")[0].split()
    command = ctl_main.get_command(None, words[0])  # type: ignore[arg-type]
    assert command is not None
    assert command.make_context(words[0], words[1:]).params
