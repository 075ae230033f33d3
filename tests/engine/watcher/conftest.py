"""Engines that watch a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.watcher.inbox import Inbox, running_inbox


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inbox]:
    """One for all tests of a module, which use collections of their own."""
    with running_inbox(tmp_path_factory.mktemp("watcher"), covered=True) as running:
        yield running


@pytest.fixture
def own_inbox(tmp_path: Path) -> Iterator[Inbox]:
    """One for a test that stops it."""
    with running_inbox(tmp_path, covered=True) as running:
        yield running
