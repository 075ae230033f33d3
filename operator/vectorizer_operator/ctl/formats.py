"""A report of `vectorizerctl validate` in the formats that pipelines show: SARIF 2.1.0 and JUnit XML.

SARIF for code scanning (a finding at its line of a merge request), JUnit for test reports (a cluster is a test).
Sources: docs.oasis-open.org/sarif/sarif/v2.1.0, and for JUnit, which has no standard, what Jenkins and GitLab read.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from vectorizer_engine.cluster.validator import RULES
from vectorizer_operator import __version__
from vectorizer_operator.ctl.report import ClusterReport, Finding, Report

STRUCTURE, INPUT = "STRUCTURE", "INPUT"
"""What is no cluster rule: an object that does not fit the schema, and input that is no object."""

_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(report: Report) -> dict[str, Any]:
    """A SARIF log with one run."""
    rules = [
        *(_sarif_rule(rule.code, rule.name, rule.statement) for rule in RULES),
        _sarif_rule(STRUCTURE, "FitsTheSchema", "a VectorizerCluster has the fields of its schema"),
        _sarif_rule(INPUT, "CanBeRead", "input is YAML or JSON with Kubernetes objects"),
    ]
    driver = {"name": "vectorizerctl", "version": __version__, "rules": rules}
    results = [
        *(
            _sarif_result(error.message, INPUT, "error", error.source, error.line, error.column)
            for error in report.errors
        ),
        *(
            _sarif_result(_message(each, finding), _code(finding), finding.level, each.source, finding.line)
            for each in report.clusters
            for finding in each.findings
        ),
    ]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def junit(report: Report) -> str:
    """A test suite in which a cluster, and each input that cannot be read, is a test case."""
    broken = sum(not each.valid for each in report.clusters)
    tests = len(report.clusters) + len(report.errors)
    counts = {"tests": str(tests), "failures": str(broken), "errors": str(len(report.errors))}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "vectorizerctl validate", **counts})
    for error in report.errors:
        case = _case(suite, error.source, error.line, "can be read")
        ElementTree.SubElement(case, "error", message=_printable(error.message))
    for each in report.clusters:
        case = _case(suite, each.source, each.line, each.name or "(no name)")
        _outcome(case, each)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, source: str, line: int | None, name: str) -> ElementTree.Element:
    about = {"classname": source, "name": name, "file": source, "line": str(line or 1)}
    return ElementTree.SubElement(suite, "testcase", {key: _printable(value) for key, value in about.items()})


def _outcome(case: ElementTree.Element, each: ClusterReport) -> None:
    errors = [finding for finding in each.findings if finding.level == "error"]
    if errors:
        failure = ElementTree.SubElement(case, "failure", message=_printable(errors[0].message))
        failure.text = _printable("\n".join(_places(each.source, errors)))
    if len(errors) < len(each.findings):
        warnings = [finding for finding in each.findings if finding.level == "warning"]
        out = ElementTree.SubElement(case, "system-out")
        out.text = _printable("\n".join(_places(each.source, warnings)))


def _places(source: str, findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{source}:{finding.line}: {finding.message}"


def _printable(text: str) -> str:
    """XML 1.0 has no way to write most control characters."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def _sarif_rule(code: str, name: str, statement: str) -> dict[str, Any]:
    return {"id": code, "name": name, "shortDescription": {"text": statement}}


def _sarif_result(
    message: str, code: str, level: str, source: str, line: int | None, column: int | None = None
) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(source)}}
    if line is not None:
        place["region"] = {"startLine": line} | ({"startColumn": column} if column is not None else {})
    return {
        "ruleId": code,
        "level": level,
        "message": {"text": message},
        "locations": [{"physicalLocation": place}],
    }


def _message(each: ClusterReport, finding: Finding) -> str:
    return f"{each.name or '(no name)'}: {finding.message}"


def _code(finding: Finding) -> str:
    """The cluster rule that is broken, if it is one."""
    return finding.violation.code if finding.violation else STRUCTURE
