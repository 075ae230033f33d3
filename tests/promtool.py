"""Prometheus' own checker of metrics and rules, for tests of what is scraped and of alerts."""

import subprocess

from tests.kube import binaries


class PromtoolError(Exception):
    """promtool found something; the message is what it said."""


def promtool(*arguments: str, stdin: str | None = None) -> str:
    """What promtool prints. Raises PromtoolError where it ends with another status than 0."""
    done = subprocess.run(
        [binaries.find("promtool"), *arguments], input=stdin, capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise PromtoolError(
            f"promtool {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
    return done.stdout


def check_metrics(scraped: str) -> None:
    """Raise PromtoolError unless *scraped* is well-formed and every name in it keeps Prometheus' conventions."""
    promtool("check", "metrics", stdin=scraped)
