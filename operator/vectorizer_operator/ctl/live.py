"""What the commands that ask a live Kubernetes share: the connection, the namespace, and how they fail.

They only read, with the rights of whoever runs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click

from vectorizer_operator import __version__
from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.connection import Connection, NoConnectionConfigured
from vectorizer_operator.kube.errors import ApiError

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class CannotTell(click.ClickException):
    """The question could not be answered: status 2, as 1 is an answer."""

    exit_code = 2


def asks_kubernetes(command: Command) -> Command:
    """Adds the options that say which Kubernetes, and which namespace there."""
    context = click.option("--context", help="Context of the kubeconfig. Default: the current one.")
    namespace = click.option(
        "-n", "--namespace", help="Namespace of the cluster. Default: the context's, or 'default'."
    )
    return context(namespace(command))


@asynccontextmanager
async def _connected(context: str | None) -> AsyncIterator[tuple[KubeClient, str]]:
    connection = await Connection.load(user_agent=f"vectorizerctl/{__version__}", context=context)
    async with KubeClient(connection) as client:
        yield client, connection.namespace


def ask(question: Callable[[KubeClient, str], Coroutine[Any, Any, T]], *, context: str | None) -> T:
    """The answer of *question*, which is given a client and the namespace that is meant where none is named.

    Raises CannotTell where the API server does not answer, or not to this user.
    """

    async def answer() -> T:
        async with _connected(context) as (client, namespace):
            return await question(client, namespace)

    try:
        return asyncio.run(answer())
    except NoConnectionConfigured as error:
        raise CannotTell(str(error)) from None
    except ApiError as error:
        hint = ""
        if error.status == 403:
            hint = " (docs/reference/vectorizerctl.md has a ClusterRole with every right that is needed)"
        raise CannotTell(f"{error.message or error}{hint}") from None
