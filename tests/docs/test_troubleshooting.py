"""Whatever a user may be told has an entry in the page that they look it up in."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import vectorizer_engine
from vectorizer_engine import metrics
from vectorizer_engine.cluster.validator import RULES
from vectorizer_engine.config import ConfigError
from vectorizer_engine.errors import EngineError
from vectorizer_operator.ctl.formats import sarif
from vectorizer_operator.ctl.report import Report
from vectorizer_operator.plan.reasons import REASONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "users" / "TROUBLESHOOTING.md").read_text()
ROWS = re.findall(r"^\| (.*)$", PAGE, re.MULTILINE)
ENTRIES = {word for row in ROWS for cell in row.split(" | ")[:3] for word in re.findall(r"`(\w+)`", cell)}
"""What a table is about is in its first cells; of rules that is the code, the reason and the error."""


def kinds(error: type[Exception]) -> Iterator[str]:
    if error.__module__.startswith("vectorizer_engine."):  # other tests may have kinds of their own
        yield error.__name__
    for each in error.__subclasses__():
        yield from kinds(each)


def test_every_rule_has_an_entry() -> None:
    assert {rule.code for rule in RULES} | {rule.name for rule in RULES} <= ENTRIES


def test_every_code_that_a_pipeline_may_be_shown_has_an_entry() -> None:
    (run,) = sarif(Report())["runs"]
    codes = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert codes > {rule.code for rule in RULES}
    assert codes - ENTRIES == set()


def test_every_reason_of_a_condition_has_an_entry() -> None:
    assert set(REASONS) - ENTRIES == set()


def test_every_error_of_the_engine_has_an_entry() -> None:
    for module in pkgutil.walk_packages(vectorizer_engine.__path__, "vectorizer_engine."):
        importlib.import_module(module.name)
    errors = {*kinds(EngineError), *kinds(ConfigError)} - {"EngineError"}
    assert errors - ENTRIES == set()


def test_every_reason_that_the_file_watcher_counts_has_an_entry() -> None:
    counted = {
        sample.labels["reason"]
        for family in metrics.Metrics().registry.collect()
        for sample in family.samples
        if family.name == "vectorizer_file_watcher_failures"
    }
    assert len(counted) > 1
    assert counted - ENTRIES == set()
