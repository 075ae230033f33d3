"""`vectorizer-operator run`: its options, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from pathlib import Path

import click

from vectorizer_operator.controller.operator import Options, operate
from vectorizer_operator.kube.connection import NoConnectionConfigured

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@click.command()
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="Look after the clusters of this namespace only. May be given several times. Default: all namespaces.",
)
@click.option(
    "--operator-namespace",
    envvar="POD_NAMESPACE",
    required=True,
    help="Namespace of the operator itself: of its Lease and its webhook's certificate. [env: POD_NAMESPACE]",
)
@click.option(
    "--default-image", required=True, help="Image of the engine, for clusters that set no spec.image."
)
@click.option("--lease", default="vectorizer-operator", show_default=True, help="Name of the leader Lease.")
@click.option(
    "--webhook-host",
    "webhook_hosts",
    multiple=True,
    required=True,
    help="DNS name that the API server calls the webhook by, as SERVICE.NAMESPACE.svc. May be given several times.",
)
@click.option("--webhook-port", default=9443, show_default=True, help="Port of the webhook (TLS).")
@click.option(
    "--webhook-configuration",
    default="vectorizer-operator",
    show_default=True,
    help="Name of the ValidatingWebhookConfiguration that has to trust the certificate.",
)
@click.option(
    "--webhook-secret",
    default="vectorizer-operator-webhook",
    show_default=True,
    help="Name of the Secret in which the operator keeps a certificate of its own.",
)
@click.option(
    "--webhook-certificate",
    type=click.Path(path_type=Path),
    help="Folder with tls.crt and tls.key from elsewhere (cert-manager). The Secret is then not used.",
)
@click.option(
    "--health-port", default=8080, show_default=True, help="Port of /healthz, /readyz and /metrics."
)
@click.option(
    "--listen",
    envvar="VECTORIZER_OPERATOR_LISTEN",
    default="0.0.0.0",
    show_default=True,
    help="Address to listen on. [env: VECTORIZER_OPERATOR_LISTEN]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log, at least.",
)
def run(log_level: str, **options: object) -> None:
    """Run the operator and its webhook."""
    gc.freeze()  # what was imported stays for good: no garbage collection has to look through it
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    if log_level != "debug":
        logging.getLogger("kopf").setLevel(logging.WARNING)
        logging.getLogger("kubernetes").setLevel(logging.ERROR)  # it warns of what it raises as well
    try:
        asyncio.run(operate(Options(**options)))  # type: ignore[arg-type]  # click names them alike
    except NoConnectionConfigured as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error.strerror or error}") from None
