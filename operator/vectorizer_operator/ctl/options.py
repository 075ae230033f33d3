"""Options that several commands have. Those that say which Kubernetes is meant are in `live`."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def takes_files(command: Command) -> Command:
    """Adds the option that names the files (`files`), of which there is at least one."""
    return click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        required=True,
        help="File or folder with clusters, or - for stdin.",
    )(command)
