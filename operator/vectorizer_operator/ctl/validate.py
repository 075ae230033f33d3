"""`vectorizerctl validate`: the cluster rules and the structure, offline, by the functions that the webhook uses."""

import json
import sys

import click
import yaml

from vectorizer_operator.api import GROUP, KIND
from vectorizer_operator.ctl import formats
from vectorizer_operator.ctl.documents import STDIN, read
from vectorizer_operator.ctl.report import Report, examine


@click.command("validate")
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("-f", "--filename", "named", multiple=True, help="As FILE, for those used to kubectl.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml", "sarif", "junit"]),
    default="text",
    show_default=True,
    help="sarif and junit are for pipelines: findings in code scanning, clusters in test reports.",
)
def validate(files: tuple[str, ...], named: tuple[str, ...], output: str) -> None:
    """Check the VectorizerClusters in files, folders, or standard input (-) against the cluster rules.

    Everything that is wrong is said at once, with file, line and fix. Objects of other kinds are skipped. Exit
    status: 0 all is well, 1 something breaks a rule or does not fit the schema, 2 some input cannot be read.
    """
    names = [*files, *named]
    if not names:
        raise click.UsageError(f"name files or folders to check, or {STDIN} for standard input")
    report = examine(read(names))
    if output == "text":
        say(report)
    elif output == "json":
        click.echo(json.dumps(report.model_dump(mode="json"), indent=2))
    elif output == "sarif":
        click.echo(json.dumps(formats.sarif(report), indent=2))
    elif output == "junit":
        click.echo(formats.junit(report), nl=False)
    else:
        click.echo(yaml.safe_dump(report.model_dump(mode="json"), sort_keys=False), nl=False)
    sys.exit(report.exit_status)


def say(report: Report, *, findings_on_stderr: bool = False) -> None:
    """The report for people: what cannot be read on standard error, findings on standard output unless that is for
    something else."""
    for error in report.errors:
        place = ":".join(str(part) for part in (error.source, error.line, error.column) if part is not None)
        click.echo(f"{place}: {error.message}", err=True)
    for other in report.skipped:
        why = f"its apiVersion is not {GROUP}'s" if other.kind == KIND else f"no {KIND}"
        what = f"{other.kind} {other.name}".rstrip()
        click.echo(f"{other.source}:{other.line}: {what}: skipped, {why}", err=findings_on_stderr)
    for cluster in report.clusters:
        for finding in cluster.findings:
            warning = "warning: " if finding.level == "warning" else ""
            line = (
                f"{cluster.source}:{finding.line}: {cluster.name or '(no name)'}: {warning}{finding.message}"
            )
            click.echo(line, err=findings_on_stderr)
        if cluster.valid:
            click.echo(f"{cluster.source}:{cluster.line}: {cluster.name}: valid", err=findings_on_stderr)
    invalid = sum(not cluster.valid for cluster in report.clusters)
    if invalid:
        click.echo(f"{invalid} of {len(report.clusters)} clusters: not valid", err=True)
