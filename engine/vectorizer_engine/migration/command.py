"""`vectorizer --migrate-to-cluster`: from the command line's options to an exit status.

0: done, or nothing to do. 1: something stands in the way, or it failed. 2: the configuration cannot be read.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from vectorizer_engine.collection.data_folder import take_lock
from vectorizer_engine.config import Config, ConfigError, UnreadableConfig, parse_config, read_config
from vectorizer_engine.errors import EngineError
from vectorizer_engine.migration.journal import Places, read_journal
from vectorizer_engine.migration.migrate import Report, migrate, work_bytes
from vectorizer_engine.migration.plan import Plan, make_plan
from vectorizer_engine.migration.rollback import roll_back
from vectorizer_engine.migration.words import Progress, plan_in_words, report_in_words
from vectorizer_engine.storage.files import Files, disk_errors

FAILED = 1
UNREADABLE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    config: Path
    dry_run: bool = False
    json_output: bool = False
    keep_backup: bool = True
    rollback: bool = False
    discard_writes: bool = False


def run(options: Options) -> int:
    """Do what was asked for, say so, and return the exit status."""
    try:
        file_config = read_config(options.config, {})
        config = parse_config(read_config(options.config, os.environ))
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        return UNREADABLE if isinstance(error, UnreadableConfig) else FAILED
    try:
        with disk_errors(f"migrate {config.storage.path}"):
            if options.rollback:
                return _roll_back(options, config)
            return _migrate(options, file_config, config)
    except EngineError as error:
        click.echo(f"error: {error}", err=True)
        return FAILED


def _migrate(options: Options, file_config: Mapping[str, Any], config: Config) -> int:
    with _locked(config.storage.path, look_only=options.dry_run):
        plan = make_plan(options.config, file_config, config, os.environ, backup=options.keep_backup)
        if options.dry_run or plan.obstacles:
            _print(options, plan, plan_in_words(plan))
            return FAILED if plan.obstacles else 0
        if plan.changes_nothing and (
            options.keep_backup or read_journal(Places(config.storage.path)) is None
        ):
            _print(
                options, Report((), (), ""), ["nothing to do: the configuration and the data are a cluster's"]
            )
            return 0
        if not options.json_output:
            click.echo("\n".join(plan_in_words(plan)))
        with Progress(work_bytes(plan)) as progress:
            report = migrate(plan, file_config, files=Files(), on_bytes=progress.advance)
        _print(options, report, report_in_words(report))
    return 0


def _roll_back(options: Options, config: Config) -> int:
    with _locked(config.storage.path):
        restored = roll_back(
            config.storage.path, options.config, discard_writes=options.discard_writes, files=Files()
        )
    _print(options, {"restored": restored}, (f"as before the migration: {each}" for each in restored))
    return 0


def _print(
    options: Options, result: Plan | Report | dict[str, Any], words: Iterator[str] | list[str]
) -> None:
    if options.json_output:
        click.echo(json.dumps(msgspec.to_builtins(result), indent=2))
    else:
        click.echo("\n".join(words))


@contextlib.contextmanager
def _locked(storage: Path, *, look_only: bool = False) -> Iterator[None]:
    """Hold the data folder, unless it is none, which the plan says. Raises StoreLocked.

    Who wants to *look_only* makes no file for it: where there is none, no engine was ever here.
    """
    needed = "LOCK" if look_only else "FORMAT"
    if not (storage / needed).exists():
        yield
        return
    lock = take_lock(storage)
    try:
        yield
    finally:
        os.close(lock)
