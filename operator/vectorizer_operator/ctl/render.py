"""`vectorizerctl render`: the Kubernetes objects that the operator would apply for a cluster."""

import json
import sys

import click

from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.ctl.documents import Document, read
from vectorizer_operator.ctl.options import takes_files
from vectorizer_operator.ctl.report import examine, is_cluster
from vectorizer_operator.ctl.validate import say
from vectorizer_operator.manifests import as_yaml, render


@click.command("render")
@takes_files
@click.option("--image", required=False, help="Image of the engine, for clusters that set no spec.image.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def render_command(files: tuple[str, ...], image: str | None, output: str) -> None:
    """Print the objects that the operator would make of the VectorizerClusters in FILE.

    Without the owner references, which only clusters on a Kubernetes have. A file that breaks a rule is refused.
    """
    documents = list(read(files))
    report = examine(documents)
    if report.exit_status:
        say(report, findings_on_stderr=True)  # standard output goes to `kubectl apply -f -`, say
        sys.exit(report.exit_status)
    clusters = [
        VectorizerCluster.parse(document.raw)
        for document in documents
        if isinstance(document, Document) and is_cluster(document.raw)
    ]
    if not clusters:
        raise click.ClickException(f"{', '.join(files)}: no VectorizerCluster in there")
    for cluster in clusters:
        if not (cluster.spec.image or image):
            raise click.UsageError(f"{cluster.metadata.name} sets no spec.image: name one with --image")
    objects = [child for cluster in clusters for child in render(cluster, default_image=image or "")]
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2))
    else:
        click.echo(as_yaml(objects), nl=False)
