"""What `vectorizerctl validate` found: everything that is wrong, at once, each with file and line."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import BaseModel

from vectorizer_engine.cluster.validator import Violation
from vectorizer_operator.api import GROUP, KIND
from vectorizer_operator.api.problems import structural_problems
from vectorizer_operator.api.rules import violations, warnings
from vectorizer_operator.ctl.documents import Document, Unreadable


class Finding(BaseModel):
    """One thing to say about a place. `violation` is there where a cluster rule is broken."""

    level: Literal["error", "warning"]
    line: int
    path: str | None
    message: str
    violation: Violation | None = None


class ClusterReport(BaseModel):
    source: str
    line: int
    namespace: str
    name: str
    valid: bool
    findings: list[Finding]


class Skipped(BaseModel):
    source: str
    line: int
    kind: str
    name: str


class InputError(BaseModel):
    source: str
    line: int | None
    column: int | None
    message: str


class Report(BaseModel):
    clusters: list[ClusterReport] = []
    skipped: list[Skipped] = []
    errors: list[InputError] = []

    @property
    def exit_status(self) -> int:
        """2 if some input could not be read, else 1 if a cluster is invalid, else 0."""
        if self.errors:
            return 2
        return 0 if all(cluster.valid for cluster in self.clusters) else 1


def is_cluster(raw: dict[str, Any]) -> bool:
    """Whether *raw* is meant to be a VectorizerCluster, of whatever version: the only kind of its group."""
    if "apiVersion" not in raw:
        return raw.get("kind") == KIND
    return str(raw["apiVersion"]).partition("/")[0] == GROUP


def examine(documents: Iterable[Document | Unreadable]) -> Report:
    """Hold every VectorizerCluster among *documents* against its structure and the cluster rules."""
    report = Report(clusters=[], skipped=[], errors=[])
    for document in documents:
        if isinstance(document, Unreadable):
            report.errors.append(
                InputError(
                    source=document.source,
                    line=document.line,
                    column=document.column,
                    message=document.message,
                )
            )
        elif is_cluster(document.raw):
            report.clusters.append(_examined(document))
        else:
            report.skipped.append(
                Skipped(
                    source=document.source,
                    line=document.line,
                    kind=str(document.raw.get("kind", "object without a kind")),
                    name=_metadata(document.raw, "name"),
                )
            )
    return report


def _examined(document: Document) -> ClusterReport:
    findings = sorted(_findings(document), key=lambda finding: finding.line)
    return ClusterReport(
        source=document.source,
        line=document.line,
        namespace=_metadata(document.raw, "namespace"),
        name=_metadata(document.raw, "name"),
        valid=not any(finding.level == "error" for finding in findings),
        findings=findings,
    )


def _findings(document: Document) -> Iterator[Finding]:
    for violation in violations(document.raw):
        yield Finding(
            level="error",
            line=document.line_of(violation.path),
            path=violation.path,
            message=violation.message,
            violation=violation,
        )
    for problem in structural_problems(document.raw):
        line = document.line_of(problem.path)
        yield Finding(level="error", line=line, path=problem.path, message=str(problem))
    for path, line in document.duplicates:
        yield Finding(level="error", line=line, path=path, message=f"{path}: set twice; remove one")
    for warning in warnings(document.raw):
        yield Finding(level="warning", line=document.line_of(warning.split()[0]), path=None, message=warning)


def _metadata(raw: dict[str, Any], key: str) -> str:
    metadata = raw.get("metadata")
    value = metadata.get(key) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""
