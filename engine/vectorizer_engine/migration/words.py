"""Plans and reports for people, and the progress that they see meanwhile. What programs read is the JSON of both."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import click

from vectorizer_engine.migration.migrate import Report
from vectorizer_engine.migration.plan import Plan

_LINE_SECONDS = 5.0
"""How often progress is told where it goes to a log instead of a terminal."""


def plan_in_words(plan: Plan) -> Iterator[str]:
    if plan.going_on:
        yield "A migration was begun and is gone on with."
    yield f"configuration {plan.config}:"
    for setting in plan.settings:
        before = "not set" if setting.before is None else json.dumps(setting.before)
        yield f"  {setting.path}: {before} -> {json.dumps(setting.after)}"
    if not plan.settings:
        yield "  nothing to change"
    yield f"data folder {plan.data}:"
    for each in plan.collections:
        change = "mmap, stays" if each.before is each.after else f"{each.before} -> {each.after}"
        yield (
            f"  {each.name}: {change}; {each.points} sealed points, {size(each.vector_bytes)} of vectors, "
            f"{size(each.log_bytes)} of log, {size(each.disk_bytes)} on disk"
        )
    if not plan.collections:
        yield "  no collections"
    backup = plan.backup
    if backup.kept:
        yield (
            f"backup in {backup.folder}: {size(backup.copied_bytes)} are copied, {size(backup.shared_bytes)} shared "
            "by hard links (no second copy, if the disk fails)"
        )
    else:
        yield "backup: none is kept, so there is no way back"
    yield f"expected time: {plan.expected_seconds:.0f} s"
    yield f"disk: {size(plan.disk_needed_bytes)} needed, {size(plan.disk_free_bytes)} free"
    if plan.memory_needed_bytes:
        available = plan.memory_available_bytes
        yield (
            f"memory: {size(plan.memory_needed_bytes)} needed"
            + (f", {size(available)} available" if available is not None else "")
        )
    for note in plan.notes:
        yield f"note: {note}"
    for obstacle in plan.obstacles:
        yield f"obstacle: {obstacle}"


def report_in_words(report: Report) -> Iterator[str]:
    for each in report.converted:
        yield (
            f"{each.collection}: in mmap storage; {each.points} points with checksum {each.checksum}, and the nearest "
            f"10 of {each.queries} stored vectors, are the same as from memory storage"
        )
    for setting in report.settings:
        yield f"{setting}: changed"
    if report.backup:
        yield f"backup: {report.backup}; --rollback goes back to it, running this again with --no-backup removes it"
    yield "done: start the engine in cluster mode"


def size(nbytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"


class Progress:
    """A bar on a terminal, a line now and then in a log; both go to standard error."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=total, label="migrating", file=sys.stderr, item_show_func=lambda item: item
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        words = f"{size(self._done)} of {size(self._total)}"
        if self._bar is not None:
            self._bar.update(nbytes, words)
            return
        now = time.monotonic()
        if now - self._told >= _LINE_SECONDS and self._done:
            self._told = now
            left = (now - self._began) * max(0, self._total - self._done) / self._done
            click.echo(f"{words}, {left:.0f} s left", err=True)
