"""The command `vectorizer`: start the engine, or check a configuration without starting it.

Whatever can be wrong is found before the heavy imports (numpy, faiss, uvicorn), which happen inside `serve`,
so that a wrong configuration ends the process well within a second.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click
import yaml
from click.core import ParameterSource

from vectorizer_engine import __version__, checked_config, logs
from vectorizer_engine.checked_config import CheckedConfig
from vectorizer_engine.config import Config, UnreadableConfig

VIOLATED = 1
UNREADABLE = 2

_config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration (config.yml). Without it, the defaults and the environment's settings hold.",
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="vectorizer")
@click.option(
    "--migrate-to-cluster",
    is_flag=True,
    help="Convert the configuration and data of a standalone engine, which is stopped, for cluster mode: see "
    "docs/users/MIGRATION.md. The options below belong to it.",
)
@_config_option
@click.option("--dry-run", is_flag=True, help="Print the plan and what could stop it; change nothing.")
@click.option("--no-backup", is_flag=True, help="Keep no backup; remove the one that an earlier run kept.")
@click.option("--rollback", is_flag=True, help="Undo the migration: everything as it was, byte for byte.")
@click.option("--discard-writes", is_flag=True, help="Roll back although something was written since.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def main(
    context: click.Context,
    migrate_to_cluster: bool,
    path: Path | None,
    dry_run: bool,
    no_backup: bool,
    rollback: bool,
    discard_writes: bool,
    output: str,
) -> None:
    """The vector search engine of Vectorizer Operator."""
    if not migrate_to_cluster:
        given = [
            parameter.opts[0]
            for parameter in main.params
            if parameter.name is not None
            and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
        ]
        if given:
            raise click.UsageError(
                f"{given[0]} belongs to --migrate-to-cluster, or behind the command's name"
            )
        return
    if context.invoked_subcommand is not None:
        raise click.UsageError(
            f"--migrate-to-cluster goes without a command, found {context.invoked_subcommand}"
        )
    if path is None:
        raise click.UsageError("--migrate-to-cluster needs --config FILE")
    if rollback and (dry_run or no_backup):
        raise click.UsageError("--rollback goes with neither --dry-run nor --no-backup")
    if discard_writes and not rollback:
        raise click.UsageError("--discard-writes belongs to --rollback")
    from vectorizer_engine.migration.command import Options, run  # heavy: numpy, faiss

    logs.set_up()
    sys.exit(
        run(
            Options(
                config=path,
                dry_run=dry_run,
                json_output=output == "json",
                keep_backup=not no_backup,
                rollback=rollback,
                discard_writes=discard_writes,
            )
        )
    )


@main.command()
@_config_option
@click.option(
    "--skip-cluster-validation",
    is_flag=True,
    help="UNSAFE: start although cluster rules are broken. Memory may grow past every limit and pods may "
    "lose data. A warning is logged each minute and the metric vectorizer_cluster_validation_skipped is 1.",
)
def serve(path: Path | None, skip_cluster_validation: bool) -> None:
    """Start the engine and serve until SIGTERM.

    SIGHUP reads the configuration again: the cache limit and its warning threshold change at once, what else changed
    is named in the log and waits for a restart, and a configuration that breaks a rule changes nothing.
    """
    # Kept until the server takes it: it ends a process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    checked = _check(path)
    if checked.config is None or (checked.violations and not skip_cluster_validation):
        _fail(checked.report, VIOLATED)
    logs.set_up()
    _log_settings(checked)
    listener = _listen(checked.config)
    gc.disable()
    from vectorizer_engine.api.server import serve as serve_engine  # heavy: numpy, faiss, uvicorn

    # What was imported stays for good: garbage collections look through it neither meanwhile nor ever after.
    gc.freeze()
    gc.enable()
    sys.exit(
        serve_engine(
            checked.config,
            listener,
            reread=lambda: checked_config.check_config(path, os.environ),
            skipped_violations=checked.violations if skip_cluster_validation else None,
        )
    )


@main.command("check-config")
@_config_option
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True
)
def check_config(path: Path | None, output: str) -> None:
    """Check a configuration: exit status 0 fine, 1 violations or wrong settings, 2 unreadable."""
    checked = _check(path)
    if output == "text":
        click.echo(checked.report)
    else:
        report = {
            "valid": checked.valid,
            "violations": [violation.model_dump() for violation in checked.violations],
            "problems": checked.problems,
            "warnings": checked.warnings,
            "settings": dict(checked.config.settings()) if checked.config else None,
        }
        text = json.dumps(report, indent=2) if output == "json" else yaml.safe_dump(report, sort_keys=False)
        click.echo(text.rstrip())
    sys.exit(0 if checked.valid else VIOLATED)


@main.command("check-data")
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def check_data(path: Path, output: str) -> None:
    """Read every byte of a stopped engine's data folder: exit status 0 fine, 1 damaged, 2 unreadable.

    Changes nothing.
    """
    from vectorizer_engine.collection import check_data as data  # heavy: numpy, faiss
    from vectorizer_engine.errors import EngineError

    try:
        problems = data.check_data(path)
        collections = data.described_collections(path)
    except EngineError as error:
        _fail(f"error: {error}", UNREADABLE)
    if output == "json":
        report = {
            "collections": [{"name": each.path, **asdict(each.params)} for each in collections],
            "problems": [problem._asdict() for problem in problems],
        }
        click.echo(json.dumps(report, indent=2))
    else:
        for each in collections:
            params = each.params
            click.echo(
                f"{each.path}: dimension {params.dimension}, {params.distance}, {params.storage} storage"
            )
        for problem in problems:
            click.echo(f"{problem.collection or path}: {problem.message}")
        click.echo(
            f"{path}: {len(problems)} problem(s)" if problems else f"{path}: everything is as it was written"
        )
    sys.exit(VIOLATED if problems else 0)


def _check(path: Path | None) -> CheckedConfig:
    """Ends the process where the configuration cannot be read."""
    try:
        return checked_config.check_config(path, os.environ)
    except UnreadableConfig as error:
        _fail("\n".join(f"error: {problem}" for problem in error.problems), UNREADABLE)


def _log_settings(checked: CheckedConfig) -> None:
    import logging

    logger = logging.getLogger("vectorizer_engine")
    assert checked.config is not None
    logger.info("vectorizer engine %s starts with these settings:", __version__)
    for setting, value in checked.config.settings():
        section, _, key = setting.partition(".")
        given = checked.raw.get(section)
        default = "" if isinstance(given, Mapping) and key in given else " (default)"
        logger.info("  %s = %s%s", setting, json.dumps(value), default)
    for warning in checked.warnings:
        logger.warning("%s", warning)


def _listen(config: Config) -> socket.socket:
    """The listening socket. Ends the process where the address cannot be used."""
    host, port = config.server.host, config.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port),
            family=family,
            backlog=2048,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        hint = (
            "another process uses the port: stop it or set server.port"
            if error.errno == errno.EADDRINUSE
            else "check server.host and server.port"
        )
        _fail(f"error: cannot listen on {host}:{port}: {error.strerror}: {hint}", VIOLATED)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(status)
