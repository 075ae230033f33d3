"""`vectorizerctl crd`: the CustomResourceDefinition, for `kubectl apply -f -`."""

import json

import click
import yaml

from vectorizer_operator.api.crd import crd


@click.command("crd")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def crd_command(output: str) -> None:
    """Print the CustomResourceDefinition of VectorizerCluster."""
    if output == "json":
        click.echo(json.dumps(crd(), indent=2))
    else:
        click.echo(yaml.safe_dump(crd(), sort_keys=False), nl=False)
