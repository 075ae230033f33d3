"""`vectorizerctl plan`: what applying a file would change on a live Kubernetes, which pods restart, and why.

It reads, and renders here what the operator would; nothing is sent to be tried. So it needs no right to write, and
does not ask other admission webhooks, quotas and policies.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from vectorizer_operator.api import API_VERSION, KIND
from vectorizer_operator.ctl.documents import Document, read
from vectorizer_operator.ctl.live import CannotTell, ask, asks_kubernetes
from vectorizer_operator.ctl.options import takes_files
from vectorizer_operator.ctl.report import examine, is_cluster
from vectorizer_operator.ctl.validate import say
from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.observe import observe
from vectorizer_operator.plan.preview import ObjectPreview, Preview, preview

UNNAMED_IMAGE = "(the operator's default image)"

_SIGNS = {"create": "+", "start": "+", "delete": "-", "stop": "-"}


@click.command("plan")
@takes_files
@asks_kubernetes
@click.option("--image", default=UNNAMED_IMAGE, help="The operator's default image of the engine.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan_command(
    files: tuple[str, ...], namespace: str | None, context: str | None, image: str, output: str
) -> None:
    """Show what applying the VectorizerClusters in FILE would change, which pods restart, and why.

    FILE is taken for the whole spec: a field that it leaves out gets its default. Nothing is written.

    Exit status, as kubectl diff: 0 nothing would change, 1 something would, 2 the question has no answer (FILE is not
    valid, Kubernetes does not answer), or the operator would not roll it out.
    """
    documents = list(read(files))
    report = examine(documents)
    if report.exit_status:
        say(report, findings_on_stderr=True)
        sys.exit(2)
    clusters = [each.raw for each in documents if isinstance(each, Document) and is_cluster(each.raw)]
    if not clusters:
        raise CannotTell(f"{', '.join(files)}: no VectorizerCluster in there")
    previews = ask(
        lambda client, default: _previews(client, clusters, namespace, default, image), context=context
    )
    if output == "json":
        click.echo(json.dumps([asdict(each) for each in previews], indent=2))
    else:
        click.echo("\n".join(line for each in previews for line in _lines(each)))
    if any(each.block for each in previews):
        sys.exit(2)
    sys.exit(0 if all(each.changes_nothing for each in previews) else 1)


async def _previews(
    client: KubeClient, clusters: Sequence[dict[str, Any]], namespace: str | None, default: str, image: str
) -> list[Preview]:
    previews = []
    for raw in clusters:
        name, written = raw["metadata"]["name"], raw["metadata"].get("namespace")
        if namespace and written and written != namespace:
            raise CannotTell(f"{name} is of the namespace {written}, --namespace says {namespace}")
        place = {"namespace": written or namespace or default, "name": name}
        stand_in = {"apiVersion": API_VERSION, "kind": KIND, "metadata": place}
        observed = await observe(client, **place, stand_in=stand_in)
        assert observed is not None
        previews.append(preview(observed, raw, default_image=image))
    return previews


def _lines(each: Preview) -> Iterator[str]:
    title = f"{each.namespace}/{each.name}"
    if each.block:
        yield f"{title}: would not be rolled out: {each.block.reason}: {each.block.message}"
        return
    if each.changes_nothing:
        yield f"{title}: nothing would change"
        return
    yield f"{title}: would be created" if each.new else f"{title}: would change"
    yield from (f"  {change}" for change in each.spec)
    if each.paused and (each.objects or each.pods):
        yield "  spec.paused is true: what follows happens only when it is false"
    for child in each.objects:
        yield f"  {_SIGNS.get(child.verb, '~')} {child.verb} {child.kind} {child.name}{_reason(child)}"
    for pod in each.pods:
        yield f"  {_SIGNS.get(pod.verb, '!')} {pod.verb} pod {pod.name}: {'; '.join(pod.why)}"
    if not any(pod.verb == "restart" for pod in each.pods):
        yield "  no pod restarts"


def _reason(child: ObjectPreview) -> str:
    why = child.why or "; ".join(map(str, child.changes))
    return f": {why}" if why else ""
